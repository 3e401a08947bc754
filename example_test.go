package mlx_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	mlx "forge.lthn.ai/core/go-mlx"
)

// The models of this repository: one that sorts sentences by domain, and one with a chat template that knows tools.
const (
	domains   = "tests/models/domains"
	assistant = "tests/models/assistant"
)

func ExampleLoadModel() {
	ctx := context.Background()
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for tok := range m.Generate(ctx, "Where can I", mlx.WithMaxTokens(128)) {
		fmt.Print(tok.Text)
	}
	info := m.Info()
	fmt.Printf("\n%s by the %s engine\n", info.Architecture, info.Engine)
	// Output:
	// find the free shipping offer?
	// gemma3_text by the native engine
}

func ExampleCollect() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	c, err := mlx.Collect(m.Generate(context.Background(), "Where can I", mlx.WithMaxTokens(3), mlx.WithSampling(mlx.IgnoreEOS())))
	fmt.Println(len(c.Tokens), c.FinishReason, err)
	// Output: 3 length <nil>
}

func ExampleWithConstraint() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	schema := []byte(`{"type": "object", "properties": {"ok": {"const": true}}, "required": ["ok"], "additionalProperties": false}`)
	c, err := mlx.Collect(m.Generate(context.Background(), "Answer:", mlx.WithConstraint(mlx.JSONSchema(schema))))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Text)
	// Output: {"ok":true}
}

// A group of options may be given more than once; all of it counts.
func ExampleWithSampling() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ask := func() string {
		c, err := mlx.Collect(m.Generate(context.Background(), "Where can I", mlx.WithMaxTokens(8), mlx.WithTemperature(0.8), mlx.WithSeed(7),
			mlx.WithSampling(mlx.TopP(0.9), mlx.TopK(40)), mlx.WithSampling(mlx.IgnoreEOS())))
		if err != nil {
			log.Fatal(err)
		}
		return c.Text
	}
	fmt.Println("the same seed gives the same text:", ask() == ask())
	_, err = mlx.Collect(m.Generate(context.Background(), "x", mlx.WithSampling(mlx.TopP(2))))
	fmt.Println(err)
	// Output:
	// the same seed gives the same text: true
	// option TopP: 2 is not above 0 and at most 1
}

func ExampleTextModel_chat() {
	m, err := mlx.LoadModel(assistant)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	tools := []byte(`[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]`)
	c, err := mlx.Collect(m.Chat(context.Background(), []mlx.Message{{Role: "user", Content: "What is the weather in Athens?"}},
		mlx.WithTools(tools), mlx.WithOutput(mlx.Segments())))
	if err != nil {
		log.Fatal(err)
	}
	for _, call := range c.ToolCalls {
		fmt.Println(call.Function.Name, string(call.Function.Arguments))
	}
	// Output: get_weather {"city": "Athens"}
}

func ExampleTextModel_classify() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	texts := []string{"The striker scored twice in the second half.", "Simmer the sauce until it thickens."}
	results, err := m.Classify(context.Background(), texts, []string{"sports", "food"}, mlx.WithAbstain(0.5))
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println(r.Label, r.Abstained)
	}
	// Output:
	// sports false
	// food false
}

func ExampleClassifyAll() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	texts := slices.Values([]string{"The striker scored twice in the second half.", "Simmer the sauce until it thickens."})
	for r, err := range mlx.ClassifyAll(context.Background(), m, texts, []string{"sports", "food"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Label)
	}
	// Output:
	// sports
	// food
}

var labelled = func() (texts []mlx.LabelledText) {
	for range 12 {
		texts = append(texts,
			mlx.LabelledText{Text: fmt.Sprintf("The striker scored %d goals.", len(texts)), Label: "sports"},
			mlx.LabelledText{Text: fmt.Sprintf("Simmer %d tomatoes in the pan.", len(texts)), Label: "food"})
	}
	return texts
}()

func ExampleTrainClassifier() {
	m, err := mlx.LoadModel(domains, mlx.WithEngine(mlx.EngineNative))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	c, err := mlx.TrainClassifier(ctx, m, labelled, mlx.ClassifierOptions{})
	if err != nil {
		log.Fatal(err)
	}
	results, err := m.Classify(ctx, []string{"The striker scored 7 goals."}, nil, mlx.WithClassifier(c))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Info().Labels, results[0].Label)
	// Output: [food sports] sports
}

func ExampleCalibrate() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx, labels := context.Background(), []string{"sports", "food"}
	c, err := mlx.Calibrate(ctx, m, labelled, labels)
	if err != nil {
		log.Fatal(err)
	}
	_, err = m.Classify(ctx, []string{"The striker scored."}, labels, mlx.WithCalibration(c))
	fmt.Println(c.Texts, err)
	// Output: 24 <nil>
}

func ExampleHost() {
	h, err := mlx.NewHost(mlx.HostOptions{Budget: 4 << 30},
		mlx.HostedModel{Name: "domains", Path: domains}, mlx.HostedModel{Name: "assistant", Path: assistant})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	lease, err := h.Acquire(context.Background(), "domains", mlx.OnWait(func(w mlx.Wait) { log.Println(w) }))
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Release()
	for _, s := range h.State().Models {
		fmt.Println(s.Name, s.Phase)
	}
	// Output:
	// assistant cold
	// domains ready
}

func ExamplePromptCacheFiles() {
	m, err := mlx.LoadModel(domains, mlx.WithPromptCache(64<<20))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	c, ok := m.(mlx.PromptCacheFiles)
	if !ok {
		log.Fatal("only models of the native engine have prompt cache files")
	}
	file := filepath.Join(os.TempDir(), "go-mlx-example.safetensors")
	defer os.Remove(file)
	fmt.Println(c.SavePromptCache(context.Background(), file))
	// Output: <nil>
}

func ExampleInspect() {
	d, err := mlx.Inspect(domains)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.Architecture, d.Engine, d.ChatTemplate)
	// Output: gemma3_text native true
}

func ExampleVerify() {
	err := mlx.Verify(domains, mlx.WithAdapter("/no/such/adapter"))
	fmt.Println(errors.Is(err, os.ErrNotExist))
	// Output: true
}

func ExampleTokenizer() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	ids, err := m.Tokenizer().Encode(ctx, "Where can I", false)
	if err != nil {
		log.Fatal(err)
	}
	text, err := m.Tokenizer().Decode(ctx, ids)
	fmt.Println(text, err)
	// Output: Where can I <nil>
}

// The workers of the python engine can be looked at. The example needs mlx-lm and so is compiled only.
func ExampleSupervised() {
	m, err := mlx.LoadModel("/models/any-architecture", mlx.WithPython(mlx.Workers(2), mlx.Queue(100)))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	if s, ok := m.(mlx.Supervised); ok {
		for _, w := range s.Stat().Workers {
			fmt.Println(w.PID, w.State)
		}
	}
}

// A hundred steps of LoRA; docs/training.md has the forms of data. The example is compiled only.
func ExampleTrain() {
	options := mlx.DefaultTrainOptions()
	options.Data, options.Out, options.Iterations = "data", "adapter", 100
	options.Progress = func(p mlx.TrainProgress) { fmt.Println(p.Iteration, p.Loss) }
	if _, err := mlx.Train(context.Background(), "/models/gemma-3-1b", options); err != nil {
		log.Fatal(err)
	}
	m, err := mlx.LoadModel("/models/gemma-3-1b", mlx.WithAdapter("adapter"))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
}

package mlx_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

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
	first, second := ask(), ask()
	fmt.Println("the same seed gives the same text:", first == second)
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

func ExampleTextModel_embed() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	vectors, err := m.Embed(context.Background(), []string{"The striker scored.", "Simmer the sauce."})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(vectors), len(vectors[0]) == m.Info().HiddenSize)
	// Output: 2 true
}

// The same prompt as ids of tokens, and how probable a model finds them.

func ExampleTextModel_promptLogProbs() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	ids, err := m.Tokenizer().Encode(ctx, "Where can I find", true)
	if err != nil {
		log.Fatal(err)
	}
	tokens, err := m.PromptLogProbs(ctx, ids, 1)
	if err != nil {
		log.Fatal(err)
	}
	last := tokens[len(tokens)-1]
	fmt.Println(len(tokens) == len(ids), last.ID == last.TopLogProbs[0].ID)
	c, err := mlx.Collect(m.GenerateIDs(ctx, ids, mlx.WithMaxTokens(4)))
	fmt.Printf("%q %v\n", c.Text, err)
	// Output:
	// true true
	// " the free ship" <nil>
}

// A program that may be told to stop while it loads passes its context on.

func ExampleLoadModelContext() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := mlx.LoadModelContext(ctx, domains)
	fmt.Println(errors.Is(err, context.Canceled))
	// Output: true
}

// What a label stands for, and texts that have it, are told to the model in the prompt.

// A value that cannot be honoured is an error of its own type, which names the option and says why.

func ExampleOptionError() {
	_, err := mlx.LoadModel(domains, mlx.WithBatch(-1))
	var option *mlx.OptionError
	if errors.As(err, &option) {
		fmt.Println(option.Option, option.Reason)
	}
	// Output: WithBatch -1 is not positive; leave the option out for the default
}

func ExampleWeightFileBytes() {
	one, two := mlx.WeightFileBytes(domains), mlx.WeightFileBytes(domains, mlx.WithPython(mlx.Workers(2)))
	fmt.Println(one>>20, "MiB; in two workers", two>>20)
	// Output: 2 MiB; in two workers 5
}

func ExampleNativeSupport() {
	fmt.Println(mlx.NativeSupport(domains))
	// Output: <nil>
}

// A model that the program loads itself can count in the memory budget of a Host.

func ExampleWithHost() {
	h, err := mlx.NewHost(mlx.HostOptions{Budget: 4 << 30})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	m, err := mlx.LoadModel(domains, mlx.WithHost(h))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.State().Used > 0)
	if err := m.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(h.State().Used)
	// Output:
	// true
	// 0
}

// Two steps of LoRA on two lines of text; docs/training.md has the other forms of data.

func ExampleTrain() {
	dir, err := os.MkdirTemp("", "go-mlx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	lines := `{"text": "Where can I find the harbour?"}` + "\n" + `{"text": "Where can I find a bakery?"}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "train.jsonl"), []byte(lines), 0o600); err != nil {
		log.Fatal(err)
	}
	options := mlx.DefaultTrainOptions()
	options.Data, options.Out = dir, filepath.Join(dir, "adapter")
	options.Iterations, options.BatchSize = 2, 2
	options.Progress = func(p mlx.TrainProgress) { fmt.Println("iteration", p.Iteration) }
	if _, err := mlx.Train(context.Background(), domains, options); err != nil {
		log.Fatal(err)
	}
	m, err := mlx.LoadModel(domains, mlx.WithAdapter(options.Out))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Close())
	// Output:
	// iteration 1
	// iteration 2
	// <nil>
}

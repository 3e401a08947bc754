package mlx

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// settled waits until so many texts and streams were compared, or comparisons failed.
func settled(t *testing.T, s *shadow, n int64) ShadowReport {
	t.Helper()
	for range 12000 { // two minutes
		r := s.report()
		if r.Compared+r.Failed >= n {
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the shadow does not get on")
	return ShadowReport{}
}

func TestAShadowSeesThatTheEnginesAgree(t *testing.T) {
	m, err := LoadModel(testenv.Model(t), WithEngine(EngineNative), WithShadow(1, WithPython(Interpreter(testenv.Python(t)))))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	results, err := m.Classify(t.Context(), testenv.Texts(t)[:20], testenv.Labels(t))
	require.NoError(t, err)
	require.Len(t, results, 20)
	for _, options := range [][]GenerateOption{{}, {WithTemperature(1), WithSeed(3)}, {WithTemperature(1)}} {
		_, err := Collect(m.Generate(t.Context(), "Where can I find", append(options, WithMaxTokens(8), WithSampling(IgnoreEOS()))...))
		require.NoError(t, err)
	}
	for range m.Generate(t.Context(), "Where can I find", WithMaxTokens(8)) {
		break // not read to its end: nothing to compare
	}
	r := settled(t, m.(shadowedModel).shadow, 22)
	require.Equal(t, r, m.(Shadowed).Shadow())
	require.Equal(t, ShadowReport{Compared: 22}, r, "the draw without a seed is not compared")
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 22, metrics.ShadowCompared)
	require.Zero(t, metrics.ShadowFlips)
}

// The second engine runs a damaged copy of the model.
func TestAShadowKeepsWhatDiffers(t *testing.T) {
	dir := testenv.CopyModel(t)
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["model_file"] = "model.py" })
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.py"), []byte(`import mlx.nn as nn
from mlx_lm.models import gemma3_text
from mlx_lm.models.gemma3_text import ModelArgs


class Model(gemma3_text.Model):
    def __init__(self, args):
        super().__init__(args)
        for layer in self.model.layers:
            layer.self_attn.rope = nn.RoPE(args.head_dim, traditional=True, base=50)
`), 0o644))
	second, err := bridge.Load(t.Context(), dir, bridge.Options{Python: testenv.Python(t), TrustRemoteCode: true})
	require.NoError(t, err)
	loaded, err := LoadModel(testenv.Model(t), WithEngine(EngineNative))
	require.NoError(t, err)
	m := loaded.(nativeModel).model
	m.shadow = startShadow(1, second)
	texts := testenv.Texts(t)[:100]
	results, err := m.Classify(t.Context(), texts, testenv.Labels(t))
	require.NoError(t, err)
	_, err = Collect(m.Generate(t.Context(), "Where can I find", WithMaxTokens(8), WithSampling(IgnoreEOS())))
	require.NoError(t, err)
	r := settled(t, m.shadow, 101)
	require.EqualValues(t, 101, r.Compared)
	require.Positive(t, r.Flips)
	labels := 0
	for _, d := range r.Differences {
		if d.Token >= 0 {
			require.Equal(t, "Where can I find", d.Text)
			continue
		}
		labels++
		require.NotEqual(t, d.Native, d.Python)
		for i, text := range texts {
			if text == d.Text {
				require.Equal(t, results[i].Label, d.Native)
				require.Equal(t, results[i].Margin, d.NativeMargin)
			}
		}
	}
	require.Positive(t, labels)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
}

// stuck answers when it is told to.
type stuck struct {
	engine.Engine
	answer chan error
}

func (s stuck) Classify(ctx context.Context, texts []string, _ engine.ClassifyOptions) ([]Classification, error) {
	select {
	case err := <-s.answer:
		return make([]Classification, len(texts)), err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s stuck) Close() error { return nil }

func TestAShadowThatIsBehindIsSkippedAndItsErrorsAreCounted(t *testing.T) {
	loaded, err := LoadModel(testenv.Model(t), WithEngine(EngineNative))
	require.NoError(t, err)
	m := loaded.(nativeModel).model
	second := stuck{answer: make(chan error)}
	m.shadow = startShadow(1, second)
	for range shadowQueue + 10 {
		_, err := m.Classify(t.Context(), []string{"goal"}, testenv.Labels(t))
		require.NoError(t, err)
	}
	r := m.shadow.report()
	require.GreaterOrEqual(t, r.Skipped, int64(9))
	boom := errors.New("boom")
	second.answer <- boom
	r = settled(t, m.shadow, 1)
	require.EqualValues(t, 1, r.Failed)
	require.ErrorIs(t, r.LastError, boom)
	closed := make(chan error)
	go func() { closed <- m.Close() }()
	require.NoError(t, <-closed, "Close does not wait for the stuck one")
}

func TestShadowOptionsAreChecked(t *testing.T) {
	var option *OptionError
	for _, share := range []float64{-0.1, 1.1} {
		_, err := LoadModel(testenv.Model(t), WithShadow(share))
		require.ErrorAs(t, err, &option)
	}
	for name, of := range map[string]LoadOption{"Exact": WithNative(Exact()), "WithEngine": WithEngine(EngineNative), "WithBatch": WithBatch(0)} {
		_, err := LoadModel(testenv.Model(t), WithShadow(1, of))
		require.ErrorAs(t, err, &option)
		require.Equal(t, name, option.Option)
	}
	_, err := LoadModel(testenv.Model(t), WithEngine(EnginePython), WithShadow(1))
	require.ErrorAs(t, err, &option)
	require.Equal(t, "WithShadow", option.Option)
	m, err := LoadModel(testenv.Model(t), WithEngine(EngineNative))
	require.NoError(t, err)
	defer m.Close()
	_, ok := m.(Shadowed)
	require.False(t, ok)
}

func TestAShadowHasTheModelsAdapter(t *testing.T) {
	adapter := func(options ...LoadOption) string {
		return loadOptionsOf(options).ofShadow().Adapter
	}
	require.Equal(t, "/a", adapter(WithAdapter("/a"), WithShadow(1)))
	require.Equal(t, "/a", adapter(WithShadow(1), WithAdapter("/a")))
	require.Equal(t, "/b", adapter(WithAdapter("/a"), WithShadow(1, WithAdapter("/b"))))
	require.Empty(t, adapter(WithShadow(1)))
}

// seen keeps what it was asked.
type seen struct {
	engine.Engine
	begin   chan struct{}
	classes chan engine.ClassifyOptions
	prompts chan engine.Prompt
	options chan engine.GenerateOptions
}

func (s seen) Classify(_ context.Context, texts []string, o engine.ClassifyOptions) ([]Classification, error) {
	<-s.begin
	s.classes <- o
	return make([]Classification, len(texts)), nil
}

func (s seen) Generate(_ context.Context, p engine.Prompt, o engine.GenerateOptions) iter.Seq2[Token, error] {
	return func(func(Token, error) bool) {
		<-s.begin
		s.prompts <- p
		s.options <- o
	}
}

func (s seen) Close() error { return nil }

// The comparison comes later, when the caller uses its slices and maps for something else.
func TestAShadowKeepsCopiesOfWhatItWasGiven(t *testing.T) {
	second := seen{begin: make(chan struct{}), classes: make(chan engine.ClassifyOptions, 1), prompts: make(chan engine.Prompt, 1), options: make(chan engine.GenerateOptions, 1)}
	s := startShadow(1, second)
	labels := []string{"a", "b"}
	s.classified([]string{"x"}, engine.ClassifyOptions{Labels: labels}, make([]Classification, 1))
	labels[0] = "changed"
	messages := []Message{{Role: "user", Content: "x", ToolCalls: []ToolCall{{Function: FunctionCall{Arguments: []byte("{}")}}}}}
	tools, arguments := []byte("[]"), map[string]any{"x": map[string]any{"y": 1}}
	o := engine.DefaultGenerateOptions()
	o.Tools, o.TemplateArguments = tools, arguments
	one := func(yield func(Token, error) bool) { yield(Token{ID: 1}, nil) }
	for range s.generated(one, engine.Prompt{Messages: messages}, o) {
	}
	messages[0].Content, tools[0] = "changed", 'X'
	messages[0].ToolCalls[0].Function.Arguments[0] = 'X'
	arguments["x"].(map[string]any)["y"] = 2
	close(second.begin)
	require.Equal(t, []string{"a", "b"}, (<-second.classes).Labels)
	p, got := <-second.prompts, <-second.options
	require.Equal(t, "x", p.Messages[0].Content)
	require.Equal(t, "{}", string(p.Messages[0].ToolCalls[0].Function.Arguments))
	require.Equal(t, "[]", string(got.Tools))
	data, err := json.Marshal(got.TemplateArguments)
	require.NoError(t, err)
	require.JSONEq(t, `{"x":{"y":1}}`, string(data))
	require.NoError(t, s.close())
}

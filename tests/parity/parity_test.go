// Package parity compares the engines on the trained model: the native one in this process and real
// mlx-lm in Python, on the same libmlx.
package parity

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native"
)

// load loads the trained model, or gives the one that a test before has loaded: see loadFrom.
func load(t *testing.T, engine mlx.Engine) mlx.TextModel {
	return loadFrom(t, testenv.Model(t), engine)
}

// shared are the loaded models of this package's tests. They stay loaded until all tests are over, for starting a worker takes
// longer than what most tests ask of it.
var shared = map[string]mlx.TextModel{}

func loadFrom(t *testing.T, dir string, engine mlx.Engine) mlx.TextModel {
	t.Helper()
	var options []mlx.LoadOption
	if engine == mlx.EnginePython {
		options = append(options, mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
	}
	if engine == mlx.EngineNative { // with kernels of its own it does not compute mlx-lm's bits
		options = append(options, mlx.WithNative(mlx.Exact()))
	}
	key := fmt.Sprint(engine, " ", dir)
	if m, found := shared[key]; found {
		return m
	}
	m, err := mlx.LoadModel(dir, append(options, mlx.WithEngine(engine))...)
	require.NoError(t, err)
	if strings.HasPrefix(dir, testenv.Root()) {
		shared[key] = m
	} else { // it was made for this test
		t.Cleanup(func() { require.NoError(t, m.Close()) })
	}
	return m
}

func TestMain(m *testing.M) {
	testenv.Main(m, func() (err error) {
		for _, model := range shared {
			err = errors.Join(err, model.Close())
		}
		return err
	})
}

// loadEngines loads both engines without the public package, for tests that look at layers.
func loadEngines(t *testing.T, dir string) (nat *native.Model, py *bridge.Model) {
	t.Helper()
	nat, err := native.Load(t.Context(), dir, engine.NativeOptions{Exact: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, nat.Close()) })
	py, err = bridge.Load(t.Context(), dir, bridge.Options{Python: testenv.Python(t)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, py.Close()) })
	return nat, py
}

// both asks both engines at once, each on a processor of its own.
func both[M, T any](t *testing.T, nat, py M, ask func(M) (T, error)) (a, b T) {
	t.Helper()
	var errA, errB error
	var group sync.WaitGroup
	group.Go(func() { a, errA = ask(nat) })
	b, errB = ask(py)
	group.Wait()
	require.NoError(t, errA)
	require.NoError(t, errB)
	return a, b
}

// prompts are beginnings of held-out sentences; some end within a word.
func prompts(t *testing.T) []string {
	texts := testenv.Texts(t)
	out := make([]string, 50)
	for i := range out {
		runes := []rune(texts[i*3])
		out[i] = string(runes[:len(runes)/2+i%3])
	}
	return out
}

func ids(c mlx.Completion) []int32 {
	var out []int32
	for _, tok := range c.Tokens {
		out = append(out, tok.ID)
	}
	return out
}

func TestGreedyTokensAreTheSame(t *testing.T) {
	nat, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	for i, prompt := range prompts(t) {
		// Past the sliding window and the first growth of the KV caches a few prompts say what all would; `make test-slow` asks all.
		tokens := 200
		if i >= 6 && !testenv.Slow() {
			tokens = 24
		}
		options := []mlx.GenerateOption{mlx.WithMaxTokens(tokens), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithOutput(mlx.LogProbs())}
		a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
			return mlx.Collect(m.Generate(t.Context(), prompt, options...))
		})
		require.Len(t, a.Tokens, tokens)
		require.Equal(t, ids(b), ids(a), prompt)
		require.Equal(t, b, a, "text, log-probabilities and the rest, for %q", prompt)
	}
}

func TestSampledTokensAreTheSameWithTheSameSeed(t *testing.T) {
	nat, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	for name, options := range map[string][]mlx.GenerateOption{
		"temperature": {mlx.WithTemperature(1)},
		"top-k":       {mlx.WithTemperature(1.3), mlx.WithSampling(mlx.TopK(7))},
		"top-p":       {mlx.WithTemperature(0.9), mlx.WithSampling(mlx.TopP(0.8))},
		"min-p":       {mlx.WithTemperature(1.5), mlx.WithSampling(mlx.MinP(0.1))},
		"penalty":     {mlx.WithSampling(mlx.RepetitionPenalty(1.4), mlx.RepetitionContext(8))},
		"presence":    {mlx.WithSampling(mlx.PresencePenalty(0.7))},
		"frequency":   {mlx.WithSampling(mlx.FrequencyPenalty(0.3), mlx.RepetitionContext(30))},
		"bias":        {mlx.WithSampling(mlx.LogitBias(map[int32]float32{300: 5.5, 301: -100, 1000: 2}))},
		"XTC":         {mlx.WithTemperature(1), mlx.WithSampling(mlx.XTC(0.5, 0.05))},
		"all":         {mlx.WithTemperature(1.2), mlx.WithSampling(mlx.TopK(50), mlx.TopP(0.95), mlx.MinP(0.01), mlx.RepetitionPenalty(1.2)), mlx.WithOutput(mlx.TopLogProbs(3)), mlx.WithSampling(mlx.PresencePenalty(0.2), mlx.FrequencyPenalty(0.1), mlx.XTC(0.4, 0.1), mlx.LogitBias(map[int32]float32{300: 3}))},
	} {
		t.Run(name, func(t *testing.T) {
			options = append(options, mlx.WithSeed(99), mlx.WithMaxTokens(40), mlx.WithSampling(mlx.IgnoreEOS()))
			for _, prompt := range []string{"Where can I find", "Der Torwart", "Le serveur"} {
				a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
					return mlx.Collect(m.Generate(t.Context(), prompt, options...))
				})
				require.Equal(t, b, a, prompt)
			}
		})
	}
}

func TestStopStringsEndBothEnginesAtTheSamePlace(t *testing.T) {
	nat, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	for _, stop := range []string{"e", " d", "der", "zzz", ". "} {
		for _, prompt := range []string{"We could not find the", "Zeigen Sie mir"} {
			options := []mlx.GenerateOption{mlx.WithStop(stop, "qqq"), mlx.WithMaxTokens(40), mlx.WithSampling(mlx.IgnoreEOS())}
			a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
				return mlx.Collect(m.Generate(t.Context(), prompt, options...))
			})
			require.Equal(t, b, a, "stop %q", stop)
			require.NotContains(t, a.Text, stop)
		}
	}
}

func TestLabelsAreTheSameOnTheWholeHeldoutSet(t *testing.T) {
	nat, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	for name, labels := range map[string][]string{
		"domains":                    testenv.Labels(t),
		"labels of several tokens":   {"sports news", "cooking and food", "computer software", "law"},
		"one label":                  {"sport"},
		"labels that begin the same": {"sport", "sports", "sport in Spain"},
	} {
		t.Run(name, func(t *testing.T) {
			texts := testenv.Texts(t)
			if name != "domains" {
				texts = texts[60:90]
			}
			a, b := both(t, nat, py, func(m mlx.TextModel) ([]mlx.Classification, error) {
				return m.Classify(t.Context(), texts, labels)
			})
			largest := 0.0
			for i := range texts {
				require.Equal(t, b[i].Label, a[i].Label, texts[i])
				for l := range labels {
					largest = max(largest, math.Abs(a[i].Scores[l].Score-b[i].Scores[l].Score))
				}
			}
			t.Logf("largest difference of a score: %.3g", largest)
			// The engines batch differently, so passes have other shapes: bfloat16 rounds elsewhere.
			require.Less(t, largest, 0.25)
		})
	}
}

func TestTokenizersAndTemplatesAreTheSame(t *testing.T) {
	nat, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	for _, text := range append(testenv.Texts(t)[:40], "", " ", "日本語 🏳️‍🌈", "<bos>x<end_of_turn>") {
		for _, special := range []bool{true, false} {
			a, b := both(t, nat, py, func(m mlx.TextModel) ([]int32, error) {
				return m.Tokenizer().Encode(t.Context(), text, special)
			})
			require.Equal(t, fmt.Sprint(b), fmt.Sprint(a), text)
			textA, err := nat.Tokenizer().Decode(t.Context(), a)
			require.NoError(t, err)
			textB, err := py.Tokenizer().Decode(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, textB, textA)
		}
	}
}

// Both engines run the same libmlx. Where the ops and their order are the same, so are the bits.
func TestEveryLayerIsBitEqual(t *testing.T) {
	nat, py := loadEngines(t, testenv.Model(t))
	requireEqualLayers(t, nat, py, 7, 8, testenv.Texts(t)[:12])
}

// requireEqualLayers compares every layer's states and the logits of a model; the first text is
// repeated, eight times to be longer than the sliding window.
func requireEqualLayers(t *testing.T, m *native.Model, python *bridge.Model, states, repeat int, texts []string) {
	t.Helper()
	for p, text := range texts {
		if p == 0 {
			text = strings.Repeat(text+" ", repeat)
		}
		ids, err := m.Encode(t.Context(), text, true)
		require.NoError(t, err)
		if p == 0 && repeat == 8 {
			require.Greater(t, len(ids), 80)
		}
		want, err := python.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
		require.NoError(t, err)
		require.Len(t, want.Layers, states)
		trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
		require.NoError(t, err)
		require.Len(t, trace.Layers, states)
		for i, got := range trace.Layers {
			requireBitEqual(t, want.Layers[i], got, "prompt %d, layer %d", p, i)
		}
		requireBitEqual(t, want.Logits, trace.Logits, "prompt %d, logits", p)
	}
}

func requireBitEqual(t *testing.T, want, got []float32, format string, args ...any) {
	t.Helper()
	require.Equal(t, len(want), len(got), format, args)
	largest := 0.0
	for i := range want {
		largest = max(largest, math.Abs(float64(want[i]-got[i])))
	}
	require.Zero(t, largest, "largest difference; "+fmt.Sprintf(format, args...))
}

package mlx_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func load(t *testing.T, path string, options ...mlx.LoadOption) mlx.TextModel {
	t.Helper()
	m, err := mlx.LoadModel(path, options...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func setConfig(t *testing.T, dir, key string, value any) {
	t.Helper()
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c[key] = value })
}

func TestAutoTakesNativeWhereItCanAndSaysWhy(t *testing.T) {
	info := load(t, testenv.Model(t)).Info()
	require.Equal(t, mlx.EngineNative, info.Engine)
	require.Contains(t, info.Reason, "supports")
}

func TestAutoTakesPythonForOtherArchitecturesAndSaysWhy(t *testing.T) {
	dir := testenv.CopyModel(t)
	// The same weights under a name that only Python knows: mlx-lm falls through to its own file.
	testenv.RunPython(t, "make_mistral.py", nil, new(bool), dir)
	m := load(t, dir, mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
	require.Equal(t, mlx.EnginePython, m.Info().Engine)
	require.Contains(t, m.Info().Reason, "Interpreter")

	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	m = load(t, dir)
	info := m.Info()
	require.Equal(t, mlx.EnginePython, info.Engine)
	require.Contains(t, info.Reason, `model_type "mistral"`)
	require.Equal(t, "mistral", info.Architecture)
	c, err := mlx.Collect(m.Generate(t.Context(), "Where", mlx.WithMaxTokens(5), mlx.WithSampling(mlx.IgnoreEOS())))
	require.NoError(t, err)
	require.Len(t, c.Tokens, 5)
	results, err := m.Classify(t.Context(), []string{"goal"}, testenv.Labels(t))
	require.NoError(t, err)
	require.Len(t, results[0].Scores, 8)
}

func TestAutoFallsBackWhenTheNativeEngineFindsADetailItLacks(t *testing.T) {
	dir := testenv.CopyModel(t)
	setConfig(t, dir, "rope_scaling", map[string]any{"rope_type": "dynamic", "factor": 2.0})
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	info := load(t, dir).Info()
	require.Equal(t, mlx.EnginePython, info.Engine)
	require.Contains(t, info.Reason, `"dynamic"`)
	_, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative))
	require.ErrorIs(t, err, mlx.ErrUnsupported)
}

func TestAutoDoesNotHideABrokenCheckpoint(t *testing.T) {
	dir := testenv.CopyModel(t)
	require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors"), 1_000_000))
	_, err := mlx.LoadModel(dir)
	require.ErrorContains(t, err, "truncated")
}

func TestAutoSaysBothReasonsWhenNeitherEngineWorks(t *testing.T) {
	dir := testenv.CopyModel(t)
	setConfig(t, dir, "model_type", "rwkv9")
	t.Setenv("GO_MLX_PYTHON", "/no/such/python")
	_, err := mlx.LoadModel(dir)
	require.ErrorIs(t, err, mlx.ErrNoPython)
	require.ErrorIs(t, err, mlx.ErrUnsupported)
	require.ErrorContains(t, err, "rwkv9")
}

func TestLoadOptionsAreHonouredOrRefused(t *testing.T) {
	var bad *mlx.OptionError
	for name, option := range map[string]mlx.LoadOption{
		"Workers": mlx.WithPython(mlx.Workers(2)), "Interpreter": mlx.WithPython(mlx.Interpreter("python3")), "TrustRemoteCode": mlx.WithPython(mlx.TrustRemoteCode()),
	} {
		_, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EngineNative), option)
		require.ErrorAs(t, err, &bad)
		require.Equal(t, name, bad.Option)
	}
	_, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine("fast"))
	require.ErrorAs(t, err, &bad)
	require.ErrorContains(t, err, `"fast"`)
	_, err = mlx.LoadModel(testenv.Model(t), mlx.WithPython(mlx.Workers(-1)))
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "Workers", bad.Option)
}

func TestFoldersThatAreNoModels(t *testing.T) {
	for _, path := range []string{"/no/such/folder", t.TempDir(), ""} {
		_, err := mlx.LoadModel(path)
		require.ErrorIs(t, err, os.ErrNotExist, path)
		require.ErrorContains(t, err, "not a model folder")
	}
}

func TestLoadCanBeGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, engine := range []mlx.Engine{mlx.EngineNative, mlx.EnginePython} {
		_, err := mlx.LoadModelContext(ctx, testenv.Model(t), mlx.WithEngine(engine))
		require.ErrorIs(t, err, context.Canceled, engine)
	}
}

// Everything that the interface promises, on both engines.
func TestBothEnginesKeepTheContractOfTextModel(t *testing.T) {
	for _, engine := range []mlx.Engine{mlx.EngineNative, mlx.EnginePython} {
		t.Run(string(engine), func(t *testing.T) {
			t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
			m := load(t, testenv.Model(t), mlx.WithEngine(engine))
			ctx := t.Context()

			t.Run("chat ends by itself", func(t *testing.T) {
				c, err := mlx.Collect(m.Chat(ctx, []mlx.Message{{Role: "user", Content: "Classify the text. Answer with one of: sport, food.\n\nText: The goalkeeper scored a goal"}}))
				require.NoError(t, err)
				require.Equal(t, "sport", c.Text)
				require.Equal(t, mlx.FinishStop, c.FinishReason)
				require.Positive(t, c.PromptTokens)
			})
			t.Run("length is a reason", func(t *testing.T) {
				c, err := mlx.Collect(m.Generate(ctx, "Where", mlx.WithMaxTokens(3), mlx.WithSampling(mlx.IgnoreEOS())))
				require.NoError(t, err)
				require.Equal(t, mlx.FinishLength, c.FinishReason)
				require.Len(t, c.Tokens, 3)
			})
			t.Run("stream is whole", func(t *testing.T) {
				c, err := mlx.Collect(m.Generate(ctx, "¿Cómo", mlx.WithMaxTokens(40), mlx.WithSampling(mlx.IgnoreEOS())))
				require.NoError(t, err)
				var ids []int32
				for _, tok := range c.Tokens {
					ids = append(ids, tok.ID)
				}
				whole, err := m.Tokenizer().Decode(ctx, ids)
				require.NoError(t, err)
				require.Equal(t, whole, c.Text)
			})
			t.Run("log-probabilities", func(t *testing.T) {
				c, err := mlx.Collect(m.Generate(ctx, "Where", mlx.WithMaxTokens(5), mlx.WithOutput(mlx.TopLogProbs(4))))
				require.NoError(t, err)
				for _, tok := range c.Tokens {
					require.Len(t, tok.TopLogProbs, 4)
					require.Equal(t, tok.LogProb, tok.TopLogProbs[0].LogProb, "greedy takes the best")
					require.LessOrEqual(t, tok.LogProb, float32(0))
				}
			})
			t.Run("label prompt", func(t *testing.T) {
				results, err := m.Classify(ctx, []string{"goal"}, []string{"sport", "food"}, mlx.WithLabels(mlx.LabelPrompt("{labels}? {text}")))
				require.NoError(t, err)
				require.Len(t, results, 1)
				var bad *mlx.OptionError
				_, err = m.Classify(ctx, []string{"goal"}, []string{"sport"}, mlx.WithLabels(mlx.LabelPrompt("no place")))
				require.ErrorAs(t, err, &bad)
			})
			t.Run("bad input", func(t *testing.T) {
				_, err := mlx.Collect(m.Generate(ctx, "\xff"))
				require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
				_, err = mlx.Collect(m.Generate(ctx, ""))
				require.ErrorIs(t, err, mlx.ErrEmptyPrompt)
				var bad *mlx.OptionError
				_, err = mlx.Collect(m.Generate(ctx, "x", mlx.WithSampling(mlx.TopP(2))))
				require.ErrorAs(t, err, &bad)
				var tooLong *mlx.ContextLengthError
				_, err = mlx.Collect(m.Generate(ctx, strings.Repeat("word ", 4000)))
				require.ErrorAs(t, err, &tooLong)
				_, err = m.Classify(ctx, []string{"x"}, nil)
				require.ErrorAs(t, err, &bad)
			})
			t.Run("no chat template", func(t *testing.T) {
				dir := testenv.CopyModel(t)
				testenv.EditJSON(t, dir, "tokenizer_config.json", func(c map[string]any) { delete(c, "chat_template") })
				plain := load(t, dir, mlx.WithEngine(engine))
				_, err := mlx.Collect(plain.Chat(ctx, []mlx.Message{{Role: "user", Content: "x"}}))
				require.ErrorIs(t, err, mlx.ErrNoChatTemplate)
				_, err = plain.Classify(ctx, []string{"goal"}, testenv.Labels(t))
				require.NoError(t, err, "classification works without a template")
			})
			t.Run("cancel is prompt", func(t *testing.T) {
				ctx, cancel := context.WithCancel(ctx)
				n := 0
				var last error
				for _, err := range m.Generate(ctx, "Where", mlx.WithMaxTokens(2000), mlx.WithSampling(mlx.IgnoreEOS())) {
					if last = err; n == 5 {
						cancel()
					}
					n++
				}
				cancel()
				require.ErrorIs(t, last, context.Canceled)
				require.LessOrEqual(t, n, 70, "no more than was already sent")
			})
			t.Run("metrics count", func(t *testing.T) {
				metrics, err := m.Metrics(ctx)
				require.NoError(t, err)
				require.Positive(t, metrics.Requests)
				require.Positive(t, metrics.GeneratedTokens)
				require.Zero(t, metrics.Active)
				require.Positive(t, metrics.ActiveBytes)
			})
			t.Run("close while streaming", func(t *testing.T) {
				n, last := 0, error(nil)
				for _, err := range m.Generate(ctx, "Where", mlx.WithMaxTokens(2000), mlx.WithSampling(mlx.IgnoreEOS())) {
					if last = err; n == 3 {
						require.NoError(t, m.Close())
					}
					n++
				}
				require.ErrorIs(t, last, mlx.ErrClosed)
				require.NoError(t, m.Close())
				_, err := mlx.Collect(m.Generate(ctx, "x"))
				require.ErrorIs(t, err, mlx.ErrClosed)
				_, err = m.Tokenizer().Encode(ctx, "x", false)
				require.ErrorIs(t, err, mlx.ErrClosed)
			})
		})
	}
}

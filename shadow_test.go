package mlx

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// settled waits until so many texts and streams were compared, or comparisons failed.
func settled(t *testing.T, m TextModel, n int64) ShadowReport {
	t.Helper()
	for range 3000 {
		r, ok := ShadowOf(m)
		require.True(t, ok)
		if r.Compared+r.Failed >= n {
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the shadow does not get on")
	return ShadowReport{}
}

func TestAShadowSeesThatTheEnginesAgree(t *testing.T) {
	m, err := LoadModel(testenv.Model(t), WithEngine(EngineNative), WithShadow(1, WithPython(testenv.Python(t))))
	require.NoError(t, err)
	defer func() { require.NoError(t, m.Close()) }()
	results, err := m.Classify(t.Context(), testenv.Texts(t)[:20], testenv.Labels(t))
	require.NoError(t, err)
	require.Len(t, results, 20)
	for _, options := range [][]GenerateOption{{}, {WithTemperature(1), WithSeed(3)}, {WithTemperature(1)}} {
		_, err := Collect(m.Generate(t.Context(), "Where can I find", append(options, WithMaxTokens(8), WithIgnoreEOS())...))
		require.NoError(t, err)
	}
	for range m.Generate(t.Context(), "Where can I find", WithMaxTokens(8)) {
		break // not read to its end: nothing to compare
	}
	r := settled(t, m, 22)
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
	m := loaded.(*model)
	m.shadow = startShadow(1, second)
	texts := testenv.Texts(t)[:100]
	results, err := m.Classify(t.Context(), texts, testenv.Labels(t))
	require.NoError(t, err)
	_, err = Collect(m.Generate(t.Context(), "Where can I find", WithMaxTokens(8), WithIgnoreEOS()))
	require.NoError(t, err)
	r := settled(t, m, 101)
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
	m := loaded.(*model)
	second := stuck{answer: make(chan error)}
	m.shadow = startShadow(1, second)
	for range shadowQueue + 10 {
		_, err := m.Classify(t.Context(), []string{"goal"}, testenv.Labels(t))
		require.NoError(t, err)
	}
	r, _ := ShadowOf(m)
	require.GreaterOrEqual(t, r.Skipped, int64(9))
	boom := errors.New("boom")
	second.answer <- boom
	r = settled(t, m, 1)
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
	_, err := LoadModel(testenv.Model(t), WithEngine(EnginePython), WithShadow(1))
	require.ErrorAs(t, err, &option)
	require.Equal(t, "WithShadow", option.Option)
	m, err := LoadModel(testenv.Model(t), WithEngine(EngineNative))
	require.NoError(t, err)
	defer m.Close()
	_, ok := ShadowOf(m)
	require.False(t, ok)
}

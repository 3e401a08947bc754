package native

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/score"
)

// openWide opens the trained model with a context that long texts fit into; both says that it attends in both directions.
func openWide(t *testing.T, both bool, o engine.NativeOptions) *Model {
	t.Helper()
	dir := testenv.CopyModel(t)
	editConfig(t, dir, func(c map[string]any) {
		c["max_position_embeddings"], c["use_bidirectional_attention"] = 100000, both
	})
	return openPath(t, dir, o)
}

// text has about so many tokens.
func textOf(t *testing.T, m *Model, tokens int) string {
	t.Helper()
	all := strings.Join(testenv.Texts(t), " ")
	ids, err := m.Encode(t.Context(), all, false)
	require.NoError(t, err)
	for len(ids) < tokens {
		ids = append(ids, ids...)
	}
	text, err := m.Decode(t.Context(), ids[:tokens])
	require.NoError(t, err)
	return text
}

// requireLittle checks that work holds no more than so many MiB at a time.
func requireLittle(t *testing.T, mib int, work func()) {
	t.Helper()
	before := mlxtest.Measure(t)
	require.NoError(t, mlxc.ResetPeak())
	work()
	memory, err := mlxc.ReadMemory()
	require.NoError(t, err)
	peak := (memory.Peak - before.Active) >> 20
	t.Logf("at most %d MiB", peak)
	require.LessOrEqual(t, peak, uint64(mib))
}

// In one pass the scores of 2,500 tokens alone would be 48 MiB in bfloat16, and as much again in each op on them.
func TestLongTextsNeedLittleMemory(t *testing.T) {
	const tokens, most = 2500, 70
	causal := openWide(t, false, engine.NativeOptions{})
	text := textOf(t, causal, tokens)
	labels := engine.ClassifyOptions{Labels: longLabels, Prompt: engine.DefaultLabelPrompt}
	t.Run("classify", func(t *testing.T) {
		requireLittle(t, most, func() {
			results, err := causal.Classify(t.Context(), []string{text, "goal"}, labels)
			require.NoError(t, err)
			require.Len(t, results[0].Scores, len(longLabels))
		})
	})
	t.Run("prefix", func(t *testing.T) {
		o := labels
		o.Prompt = text + "\n" + o.Prompt
		requireLittle(t, most, func() {
			_, err := causal.Classify(t.Context(), testenv.Texts(t)[:2], o)
			require.NoError(t, err)
		})
		require.NoError(t, causal.owner.Do(t.Context(), func() error { return causal.store.Shrink(0) }))
	})
	t.Run("embed", func(t *testing.T) {
		requireLittle(t, most, func() {
			_, err := causal.Embed(t.Context(), []string{text, "goal"}, engine.EmbedOptions{})
			require.NoError(t, err)
		})
	})
	t.Run("embed in both directions", func(t *testing.T) {
		m := openWide(t, true, engine.NativeOptions{})
		requireLittle(t, most, func() {
			_, err := m.Embed(t.Context(), []string{text, "goal"}, engine.EmbedOptions{})
			require.NoError(t, err)
		})
	})
}

// A text of more than a chunk can go both ways, and they agree.
func TestLongTextsGiveWhatOnePassGives(t *testing.T) {
	const tokens = decoder.PrefillChunk + 90
	m := openWide(t, false, engine.NativeOptions{})
	task, err := m.scorer.NewLabelTask(t.Context(), engine.ClassifyOptions{Labels: longLabels, Prompt: engine.DefaultLabelPrompt})
	require.NoError(t, err)
	row, err := task.Row(t.Context(), 0, textOf(t, m, tokens))
	require.NoError(t, err)
	require.NotEmpty(t, row.Prefix)
	results := make([]engine.Classification, 1)
	require.NoError(t, task.Score(t.Context(), []score.ScoreRow{row}, results))
	got, err := task.ScoreLong(t.Context(), row)
	require.NoError(t, err)
	for l, score := range results[0].Scores {
		require.InDelta(t, score.Score, got[l], 0.1, score.Label)
	}
	for _, both := range []bool{false, true} {
		m := openWide(t, both, engine.NativeOptions{})
		for _, lastToken := range []bool{false, true} {
			require.NoError(t, m.owner.Do(t.Context(), func() error { m.scorer.Embedder.LastToken = lastToken; return nil }))
			want := make([][]float32, 1)
			require.NoError(t, m.owner.Do(t.Context(), func() error { return m.scorer.EmbedBatch([]score.ScoreRow{{IDs: row.IDs}}, want) }))
			var got []float32
			if both {
				err = m.owner.Job(t.Context(), func(s *mlxc.Scope) (err error) {
					n := len(row.IDs)
					h := m.network.Arch.Hidden(s, s.FromInts(row.IDs, 1, n), kv.NewWidePass(m.network.Shape.Windows, decoder.PrefillChunk))
					got, err = m.scorer.Embedder.Apply(s, h, []int{n}, n).Floats()
					return err
				})
			} else {
				got, err = m.scorer.EmbedLong(t.Context(), row.IDs)
			}
			require.NoError(t, err)
			require.Less(t, testenv.RelativeDifference(want[0], got), 0.05, "both directions: %v, last token: %v", both, lastToken)
		}
	}
}

func TestALongPrefixIsThatOfOnePass(t *testing.T) {
	m := openWide(t, false, engine.NativeOptions{})
	ids := numbers(300, decoder.PrefillChunk+90)
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		whole, err := m.scorer.ExtendPrefix(&kv.History{}, ids)
		require.NoError(t, err)
		chunked, err := m.scorer.PrefillPrefix(t.Context(), &kv.History{}, ids)
		require.NoError(t, err)
		require.Equal(t, len(ids), chunked.Length)
		for i := range whole.Keys {
			want, err := whole.Keys[i].Floats()
			require.NoError(t, err)
			got, err := chunked.Keys[i].Floats()
			require.NoError(t, err)
			require.Less(t, testenv.RelativeDifference(want, got), 0.05, "layer %d", i)
		}
		require.NoError(t, whole.Free())
		return chunked.Free()
	}))
}

// Between two chunks others are served, and a call that is given up or whose model is closed ends; nothing stays.
func TestLongTextsCanBeGivenUp(t *testing.T) {
	m := openWide(t, false, engine.NativeOptions{})
	text := textOf(t, m, 40*score.MaxBatchTokens) // long enough for any machine to be under way when it is given up
	options := engine.ClassifyOptions{Labels: longLabels, Prompt: engine.DefaultLabelPrompt}
	_, err := m.Classify(t.Context(), []string{"goal"}, options) // makes the prefix
	require.NoError(t, err)
	before := mlxtest.Measure(t)
	calls := map[string]func(context.Context) error{
		"classify": func(ctx context.Context) error {
			_, err := m.Classify(ctx, []string{text}, options)
			return err
		},
		"embed": func(ctx context.Context) error {
			_, err := m.Embed(ctx, []string{text}, engine.EmbedOptions{})
			return err
		},
	}
	underWay := func() {
		for m.withScored(t) == 0 {
		}
	}
	for name, call := range calls {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- call(ctx) }()
		underWay()
		ids, _ := collect(t, m, "Please", func(o *engine.GenerateOptions) { o.MaxTokens = 2 })
		require.Len(t, ids, 2)
		cancel()
		require.ErrorIs(t, <-done, context.Canceled, name)
		require.Equal(t, before, mlxtest.Measure(t), name)
	}
	done := make(chan error)
	go func() { done <- calls["classify"](t.Context()) }()
	underWay()
	require.NoError(t, m.Close())
	require.ErrorIs(t, <-done, engine.ErrClosed)
}

// withScored is how many long texts are under way.
func (m *Model) withScored(t *testing.T) (n int) {
	require.NoError(t, m.owner.Do(t.Context(), func() error { n = len(m.scorer.Scored); return nil }))
	return n
}

func TestAFailureOfAnyOpOfALongTextLeavesNothingBehind(t *testing.T) {
	m := open(t)
	task, err := m.scorer.NewLabelTask(t.Context(), engine.ClassifyOptions{Labels: []string{"sport", "cooking and food"}, Prompt: engine.DefaultLabelPrompt})
	require.NoError(t, err)
	row, err := task.Row(t.Context(), 0, "goal")
	require.NoError(t, err)
	for _, work := range []func() error{
		func() error { _, err := task.ScoreLong(t.Context(), row); return err },
		func() error { _, err := m.scorer.EmbedLong(t.Context(), row.IDs); return err },
		func() error {
			return m.owner.Job(t.Context(), func(s *mlxc.Scope) error {
				n := len(row.IDs)
				_, err := m.network.Arch.Hidden(s, s.FromInts(row.IDs, 1, n), kv.NewWidePass(m.network.Shape.Windows, decoder.PrefillChunk)).Floats()
				return err
			})
		},
		func() error {
			return m.owner.Do(t.Context(), func() error {
				made, err := m.scorer.PrefillPrefix(t.Context(), &kv.History{}, row.Prefix)
				if err != nil {
					return err
				}
				return made.Free()
			})
		},
	} {
		mlxtest.FailEverywhere(t, 1, work)
	}
}

package native

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/score"
)

// longLabels have several tokens each, of different number.
var longLabels = []string{"sports news", "cooking and food", "law", "computer software in general"}

func TestBatchesGiveTheScoresOfSingleTexts(t *testing.T) {
	for name, exact := range map[string]bool{"kernels": false, "exact": true} {
		t.Run(name, func(t *testing.T) {
			m := openWith(t, engine.NativeOptions{Exact: exact})
			texts := testenv.Texts(t)[:24]
			if exact && !testenv.Slow() { // MLX's ops are slow on CPUs
				texts = texts[:6]
			}
			for _, labels := range [][]string{testenv.Labels(t), longLabels} {
				options := engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt}
				batch, err := m.Classify(t.Context(), texts, options)
				require.NoError(t, err)
				for i, text := range texts {
					single, err := m.Classify(t.Context(), []string{text}, options)
					require.NoError(t, err)
					requireTheSameScores(t, m, single[0], batch[i], text)
				}
			}
		})
	}
}

// requireTheSameScores checks what a device promises of two passes over one text: the CPU kernels have logits in float32 and give a row the same bits whatever others
// there are; elsewhere logits are bfloat16 and a pass of other rows may round them otherwise, by a few last bits, which are 0.06 where a logit is
// between 8 and 16. Then another label may be the first only if it was as near as that.
func requireTheSameScores(t *testing.T, m *Model, want, got engine.Classification, text string) {
	t.Helper()
	tolerance := 1e-3
	if !m.network.Shape.Rings {
		tolerance = 0.2
	}
	scores := map[string]float64{}
	require.Len(t, got.Scores, len(want.Scores))
	for l, score := range want.Scores {
		scores[score.Label] = float64(score.Score)
		require.InDelta(t, score.Score, got.Scores[l].Score, tolerance, "%q for %q", score.Label, text)
	}
	if want.Label != got.Label {
		require.False(t, m.network.Shape.Rings, "%q is %s and %s", text, want.Label, got.Label)
		require.InDelta(t, scores[want.Label], scores[got.Label], tolerance, "%q", text)
	}
}

// The oracle computes every label's tokens in one pass over prompt and label, without a shared prefix,
// without padding and without a cache.
func TestScoresMatchAWholePass(t *testing.T) {
	m := open(t)
	options := engine.ClassifyOptions{Labels: longLabels, Prompt: engine.DefaultLabelPrompt}
	texts := append(testenv.Texts(t)[30:36], "", strings.Repeat("long ", 60))
	results, err := m.Classify(t.Context(), texts, options)
	require.NoError(t, err)
	vocab := m.network.Shape.VocabSize
	for i, text := range texts {
		prompt, err := m.encoder.EncodePrompt(t.Context(), engine.Prompt{Messages: []engine.Message{{Role: "user", Content: options.UserText(text)}}}, nil)
		require.NoError(t, err)
		for l, label := range longLabels {
			ids, err := m.Encode(t.Context(), label, false)
			require.NoError(t, err)
			require.Greater(t, len(ids), 1-l%2)
			trace, err := m.Trace(t.Context(), append(slices.Clone(prompt), ids...), engine.TraceOptions{OpsOf: -1})
			require.NoError(t, err)
			want := 0.0
			for k, id := range ids {
				row := trace.Logits[(len(prompt)-1+k)*vocab:][:vocab]
				want += float64(row[id]) - logSumExp(row)
			}
			require.InDelta(t, want/float64(len(ids)), results[i].Scores[l].Score, 0.1, "%q for %q", label, text)
		}
	}
}

func logSumExp(row []float32) float64 {
	best, sum := float64(slices.Max(row)), 0.0
	for _, v := range row {
		sum += math.Exp(float64(v) - best)
	}
	return best + math.Log(sum)
}

func TestProbabilitiesAndMarginsAreConsistent(t *testing.T) {
	m := open(t)
	results, err := m.Classify(t.Context(), testenv.Texts(t)[:10], domainOptions(t))
	require.NoError(t, err)
	for _, c := range results {
		sum, sorted := 0.0, []float64{}
		for _, s := range c.Scores {
			sum += s.Probability
			sorted = append(sorted, s.Probability)
		}
		slices.Sort(sorted)
		require.InDelta(t, 1, sum, 1e-9)
		require.InDelta(t, sorted[7], c.Probability, 1e-12)
		require.InDelta(t, sorted[7]-sorted[6], c.Margin, 1e-12)
	}
}

func TestTheModelKnowsItsDomains(t *testing.T) {
	m := open(t)
	results, err := m.Classify(t.Context(), testenv.Texts(t), domainOptions(t))
	require.NoError(t, err)
	right := 0
	for i, s := range testenv.Heldout(t) {
		if results[i].Label == s.Domain {
			right++
		}
	}
	t.Logf("%d of %d", right, len(results))
	require.Greater(t, right, len(results)*7/10)
}

func TestClassifyTakesUnusualTexts(t *testing.T) {
	m := open(t)
	texts := []string{"", " ", "\n\n", "{labels} {text}", "<end_of_turn>", "🏳️‍🌈", strings.Repeat("a", 1200)}
	results, err := m.Classify(t.Context(), texts, domainOptions(t))
	require.NoError(t, err)
	require.Len(t, results, len(texts))
	none, err := m.Classify(t.Context(), nil, domainOptions(t))
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestClassifyRefusesBadInput(t *testing.T) {
	m := open(t)
	classify := func(text string, o engine.ClassifyOptions) error {
		_, err := m.Classify(t.Context(), []string{"fine", text}, o)
		return err
	}
	require.ErrorIs(t, classify("\xff", domainOptions(t)), engine.ErrInvalidUTF8)
	var tooLong *engine.ContextLengthError
	err := classify(strings.Repeat("word ", 3000), domainOptions(t))
	require.ErrorAs(t, err, &tooLong)
	require.ErrorContains(t, err, "text 1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = m.Classify(ctx, []string{"x"}, domainOptions(t))
	require.ErrorIs(t, err, context.Canceled)
}

// A template may write the date. The prefix of yesterday begins no prompt of today, so it must not be taken for theirs.
func TestAPromptThatChangesWithTheDateIsNotTakenFromTheCache(t *testing.T) {
	dir := testenv.CopyModel(t)
	testenv.EditJSON(t, dir, "tokenizer_config.json", func(c map[string]any) {
		c["chat_template"] = "{{ bos_token }}{{ strftime_now('%H:%M:%S') }}{% for m in messages %}\n{{ m.content }}\n{% endfor %}"
	})
	m := openPath(t, dir, engine.NativeOptions{})
	o := domainOptions(t)
	shares := func() bool {
		task, err := m.scorer.NewLabelTask(t.Context(), o)
		require.NoError(t, err)
		row, err := task.Row(t.Context(), 0, "goal")
		require.NoError(t, err)
		return len(row.Prefix) > 0
	}
	for !shares() { // a second may pass between a prefix and its row
	}
	sets := m.scorer.LabelSets.Values()
	before := sets[len(sets)-1].Prefix
	stale := func() bool {
		now, err := (&score.LabelTask{Scorer: m.scorer, Options: o}).Prompt(t.Context(), "goal")
		require.NoError(t, err)
		return !slices.Equal(before, now[:len(before)])
	}
	for !stale() { // until the clock goes on
	}
	shared := false
	for range 100 { // on a slow machine many seconds pass between a prefix and its row
		if shared = shares(); shared {
			break
		}
	}
	require.True(t, shared, "there is a prefix of now")
}

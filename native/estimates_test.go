package native

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// needed is what a request is refused for under a budget of what is in use, and then what it takes without a budget.
func needed(t *testing.T, m *Model, request func(ctx context.Context) error) (asked, took int64) {
	t.Helper()
	before := mlxtest.Measure(t)
	setBudget(t, m, 1)
	var over *engine.BudgetError
	require.ErrorAs(t, request(t.Context()), &over)
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		m.owner.Budget = 0
		return mlxc.ClearCache()
	}))
	require.NoError(t, mlxc.ResetPeak())
	require.NoError(t, request(t.Context()))
	memory, err := mlxc.ReadMemory()
	require.NoError(t, err)
	return over.Needed, int64(memory.Peak) - int64(before.Active)
}

// The log-probabilities of a prompt take logits of many positions at once, which count.
func TestThePassesOfPromptLogProbsCountTheirLogits(t *testing.T) {
	m := open(t)
	asked, took := needed(t, m, func(ctx context.Context) error {
		_, err := m.PromptLogProbs(ctx, numbers(300, 500), 3)
		return err
	})
	require.GreaterOrEqual(t, asked, took)
	require.GreaterOrEqual(t, asked, 12*499*int64(m.info.VocabSize))
}

// A draft model sees a long prompt in passes of its own, which wait for memory as the model's do.
func TestTheDraftsPassesAreInTheBudget(t *testing.T) {
	m := openWith(t, engine.NativeOptions{Draft: testenv.Model(t)})
	ids := numbers(300, 1200)
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 2
	var want answer
	want.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
	require.NoError(t, want.err)
	reached := false
	for more := int64(0); ; more += 200_000 {
		setBudget(t, m, more)
		var got answer
		got.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
		if got.err == nil {
			require.Equal(t, want.ids, got.ids)
			break
		}
		var over *engine.BudgetError
		require.ErrorAs(t, got.err, &over)
		reached = reached || over.What == "the draft's next part of the prompt"
		require.Less(t, more, int64(200<<20))
	}
	require.True(t, reached)
}

// What a batch of texts asks for covers what it takes, whatever the labels are made of.
func TestBatchesTakeNoMoreThanTheyAskFor(t *testing.T) {
	texts := testenv.Texts(t)[:64]
	labels := testenv.Labels(t)
	for name, o := range map[string]engine.NativeOptions{"kernels": {}, "exact": {Exact: true}} {
		m := openWith(t, o)
		for kind, request := range map[string]func(ctx context.Context) error{
			"classify": func(ctx context.Context) error {
				_, err := m.Classify(ctx, texts, engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt})
				return err
			},
			"long labels": func(ctx context.Context) error {
				_, err := m.Classify(ctx, texts, engine.ClassifyOptions{Labels: longLabels, Prompt: "{text} is {labels}"})
				return err
			},
			"states": func(ctx context.Context) error {
				_, err := m.States(ctx, texts, engine.StatesOptions{Layers: []int{1, 2}})
				return err
			},
		} {
			asked, took := needed(t, m, request)
			t.Logf("%s, %s: %d asked, %d taken", name, kind, asked, took)
			require.GreaterOrEqual(t, asked, took, "%s, %s", name, kind)
			require.NoError(t, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
		}
	}
}

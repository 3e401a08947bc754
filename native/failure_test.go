package native

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func TestAFailureOfAnyOpOfAGenerationLeavesNothingBehind(t *testing.T) {
	m := open(t)
	mlxtest.FailEverywhere(t, 1, func() error {
		o := engine.DefaultGenerateOptions()
		o.IgnoreEOS, o.MaxTokens, o.TopLogProbs = true, 3, 2
		o.Temperature, o.TopP, o.TopK, o.MinP, o.RepetitionPenalty = 1, 0.9, 40, 0.01, 1.2
		o.PresencePenalty, o.FrequencyPenalty, o.XTCProbability = 0.1, 0.1, 0.5
		o.LogitBias = map[int32]float32{300: 1}
		for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Where can I find"}, o) {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func TestAFailureOfAnyOpWithADraftAndAGrammarLeavesNothingBehind(t *testing.T) {
	drafted, alone := openDrafted(t), open(t)
	o := engine.DefaultGenerateOptions()
	o.MaxTokens = 3
	for m, grammar := range map[*Model]engine.Grammar{drafted: {}, alone: {Kind: "regex", Text: "[ab]{9}"}} {
		o.Grammar = grammar
		mlxtest.FailEverywhere(t, 2, func() error {
			var a answer
			a.run(t.Context(), m, engine.Prompt{IDs: []int32{300, 301, 302}}, o)
			return a.err
		})
	}
}

func TestAFailureOfAnyOpOfAnEmbeddingLeavesNothingBehind(t *testing.T) {
	for _, exact := range []bool{false, true} {
		m := openWith(t, engine.NativeOptions{Exact: exact})
		mlxtest.FailEverywhere(t, 1, func() error {
			_, err := m.Embed(t.Context(), []string{"goal", "a long text about soup"}, engine.EmbedOptions{})
			return err
		})
	}
}

func TestAFailureOfAnyOpOfAClassificationLeavesNothingBehind(t *testing.T) {
	options := engine.ClassifyOptions{Labels: []string{"sport", "cooking and food", "law"}, Prompt: engine.DefaultLabelPrompt}
	for _, exact := range []bool{false, true} {
		m := openWith(t, engine.NativeOptions{Exact: exact})
		mlxtest.FailEverywhere(t, 1, func() error {
			_, err := m.Classify(t.Context(), []string{"goal", "a long text about soup"}, options)
			return err
		})
	}
}

func TestAFailureOfAnyOpWithAPromptCacheLeavesNothingWrongInIt(t *testing.T) {
	m := openWith(t, engine.NativeOptions{PromptCache: 8 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 2, true
	known := make([]int32, 40)
	for i := range known {
		known[i] = int32(300 + i)
	}
	for end := range m.encoder.EOS {
		known[17] = end // a border at which a snapshot is kept
	}
	parting := append(append([]int32(nil), known[:20]...), 900, 901, 902)
	var want []answer
	mlxtest.FailEverywhere(t, 3, func() error {
		var got []answer
		for _, ids := range [][]int32{known, parting} {
			var a answer
			a.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
			if a.err != nil {
				return errors.Join(a.err, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
			}
			got = append(got, a)
		}
		if want == nil {
			want = got
		}
		require.Equal(t, want, got)
		return m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) })
	})
}

func TestLeaksAreNamedByTheirOp(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		mlxc.TraceLeaks(true)
		defer mlxc.TraceLeaks(false)
		a := s.Scalar(1, mlxc.Float32)
		leak := s.Keep(s.Add(a, a))
		s.Close()
		require.Equal(t, map[string]int{"add": 1}, mlxc.LiveByOp())
		require.NoError(t, leak.Free())
		require.Empty(t, mlxc.LiveByOp())
	})
}

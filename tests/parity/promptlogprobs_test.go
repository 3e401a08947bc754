package parity

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// The oracle is generation: after the first i tokens of a prompt it says how likely the hundred best tokens are in place i.
func TestPromptLogProbsAreThoseOfGeneration(t *testing.T) {
	exact, py := load(t, mlx.EngineNative), load(t, mlx.EnginePython)
	fast, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, fast.Close()) })
	ids, err := exact.Tokenizer().Encode(t.Context(), prompts(t)[0], true)
	require.NoError(t, err)
	begin := len(ids)
	drawn, err := mlx.Collect(fast.GenerateIDs(t.Context(), ids, mlx.WithMaxTokens(700-begin), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithOutput(mlx.LogProbs()),
		mlx.WithTemperature(0.7), mlx.WithSeed(3)))
	require.NoError(t, err)
	for _, tok := range drawn.Tokens {
		ids = append(ids, tok.ID)
	}
	require.Len(t, ids, 700, "more than a chunk of a prompt")
	const top = 5
	var all [][]mlx.Token
	for _, m := range []mlx.TextModel{exact, fast, py} {
		near := 0.07 // generation has them in bfloat16, as mlx-lm, but for the CPU kernels
		if m == fast {
			near = 2e-3
		}
		got, err := m.PromptLogProbs(t.Context(), ids, top)
		require.NoError(t, err)
		require.Len(t, got, len(ids))
		require.Equal(t, mlx.Token{ID: ids[0]}, got[0])
		known := 0
		for _, i := range []int{1, 2, 17, 18, 255, 256, 257, 511, 512, 513, 514, 699} {
			want, err := mlx.Collect(m.GenerateIDs(t.Context(), ids[:i], mlx.WithMaxTokens(1), mlx.WithOutput(mlx.TopLogProbs(100))))
			require.NoError(t, err)
			oracle := want.Tokens[0].TopLogProbs
			require.Equal(t, ids[i], got[i].ID)
			if at := slices.IndexFunc(oracle, func(o mlx.TokenLogProb) bool { return o.ID == ids[i] }); at >= 0 {
				known++
				require.InDelta(t, oracle[at].LogProb, got[i].LogProb, near, "%s: token %d", m.Info().Engine, i)
			} else {
				require.Less(t, got[i].LogProb, oracle[99].LogProb)
			}
			require.Len(t, got[i].TopLogProbs, top)
			for k, other := range got[i].TopLogProbs {
				require.InDelta(t, oracle[k].LogProb, other.LogProb, near, "%s: token %d, place %d", m.Info().Engine, i, k)
			}
		}
		require.Greater(t, known, 6)
		for i, tok := range drawn.Tokens {
			require.InDelta(t, tok.LogProb, got[begin+i].LogProb, near)
		}
		plain, err := m.PromptLogProbs(t.Context(), ids[:40], 0)
		require.NoError(t, err)
		require.Empty(t, plain[39].TopLogProbs)
		require.InDelta(t, got[39].LogProb, plain[39].LogProb, near)
		all = append(all, got)
	}
	for i := range ids {
		require.InDelta(t, all[0][i].LogProb, all[1][i].LogProb, 0.07)
		require.InDelta(t, all[0][i].LogProb, all[2][i].LogProb, 0.07)
	}
}

func TestPromptLogProbsNameWhatIsWrong(t *testing.T) {
	for _, kind := range []mlx.Engine{mlx.EngineNative, mlx.EnginePython} {
		m := load(t, kind)
		one, err := m.PromptLogProbs(t.Context(), []int32{5}, 3)
		require.NoError(t, err)
		require.Equal(t, []mlx.Token{{ID: 5}}, one)
		_, err = m.PromptLogProbs(t.Context(), nil, 3)
		require.ErrorIs(t, err, mlx.ErrEmptyPrompt)
		var option *mlx.OptionError
		_, err = m.PromptLogProbs(t.Context(), []int32{5, 6}, -1)
		require.ErrorAs(t, err, &option)
		_, err = m.PromptLogProbs(t.Context(), []int32{5, 1 << 30}, 0)
		require.Error(t, err)
		var long *mlx.ContextLengthError
		_, err = m.PromptLogProbs(t.Context(), make([]int32, m.Info().ContextLength), 0)
		require.ErrorAs(t, err, &long)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("left"))
		_, err = m.PromptLogProbs(ctx, []int32{5, 6, 7}, 0)
		require.ErrorIs(t, err, context.Canceled)
	}
}

package decoder

import (
	"cmp"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// float32 [1, k].
func BestTokens(s *mlxc.Scope, logprobs *mlxc.Array, k int) (ids, values *mlxc.Array) {
	k = min(k, logprobs.Dim(-1))
	order := s.Argpartition(s.Negative(logprobs), k-1, -1)
	ids = s.Contiguous(s.Slice(order, -1, 0, k))
	return ids, s.AsType(s.TakeAlong(logprobs, ids, -1), mlxc.Float32)
}

// SortedLogProbs pairs ids with values, best first, without tokens that cannot come.
func SortedLogProbs(ids []int64, values []float32) []engine.TokenLogProb {
	var out []engine.TokenLogProb
	for i, id := range ids {
		if !math.IsInf(float64(values[i]), -1) { // a grammar may leave fewer
			out = append(out, engine.TokenLogProb{ID: int32(id), LogProb: values[i]})
		}
	}
	slices.SortFunc(out, func(a, b engine.TokenLogProb) int {
		return cmp.Or(cmp.Compare(b.LogProb, a.LogProb), cmp.Compare(a.ID, b.ID))
	})
	return out
}

//go:build linux

package fused_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// wanted is what a drawing may draw from: each token's weight, by the rules of native/internal/decode's sampler, from log-probabilities that are rounded
// already. round rounds to the type of the logits.
func wanted(logprobs []float64, d fused.Drawing, round func(...float64) []float64) []float64 {
	n := len(logprobs)
	order := make([]int, n) // the most likely first
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case logprobs[a] > logprobs[b]:
			return -1
		case logprobs[a] < logprobs[b]:
			return 1
		}
		return 0
	})
	total := 0.0
	for _, x := range logprobs {
		total += math.Exp(x)
	}
	least, mass := math.Inf(-1), 0.0
	if d.TopP < 1 {
		for _, i := range order {
			if mass >= float64(d.TopP)*total {
				break
			}
			mass += math.Exp(logprobs[i])
			least = logprobs[i]
		}
	}
	best := logprobs[order[0]]
	if d.MinP > 0 {
		least = max(least, round(best + round(math.Log(float64(d.MinP)))[0])[0])
	}
	inverse := round(1 / float64(d.Temperature))[0]
	scaled, weights := make([]float64, n), make([]float64, n)
	for i, x := range logprobs {
		scaled[i] = x * inverse
	}
	scaled = round(scaled...)
	for rank, i := range order {
		if logprobs[i] >= least && (d.TopK == 0 || rank < d.TopK) {
			weights[i] = math.Exp(scaled[i] - scaled[order[0]])
		}
	}
	return weights
}

// checkDraws draws two of three rows at a time, by whatever filters, of flat and steep rows, with numbers that are equal where a filter cuts, and with tokens
// that a grammar forbids: what comes is the token that MLX's ops take with the same key.
func checkDraws(t *testing.T, s *mlxc.Scope, dtype mlxc.DType, vocab int, draw func(logitsWhichSettingsKeys ...*mlxc.Array) []uint32) {
	rng := rand.New(rand.NewPCG(3, uint64(vocab)))
	round := func(numbers ...float64) []float64 {
		narrow := make([]float32, len(numbers))
		for i, x := range numbers {
			narrow[i] = float32(x)
		}
		rounded, err := s.AsType(s.AsType(s.FromFloats(narrow, len(narrow)), dtype), mlxc.Float32).Floats()
		require.NoError(t, err)
		wide := make([]float64, len(rounded))
		for i, x := range rounded {
			wide[i] = float64(x)
		}
		return wide
	}
	plain := fused.Drawing{Temperature: 1, TopP: 1}
	near := 0
	for turn, d := range []fused.Drawing{
		plain, {Temperature: 0.7, TopP: 0.9}, {Temperature: 1.5, TopP: 1, MinP: 0.05}, {Temperature: 1, TopP: 1, TopK: 1},
		{Temperature: 1.3, TopP: 1, TopK: 40}, {Temperature: 0.8, TopP: 0.95, MinP: 0.01, TopK: 20}, {Temperature: 2, TopP: 0.3},
		{Temperature: 0.01, TopP: 0.5}, {Temperature: 1, TopP: 1e-6}, {Temperature: 1, TopP: 1, MinP: 1}, {Temperature: 1, TopP: 0.99, TopK: vocab - 1},
		{Temperature: 100, TopP: 1},
	} {
		for _, spread := range []float64{0.01, 1, 4} {
			values := make([]float32, 3*vocab)
			for i := range values {
				values[i] = float32(5 + spread*rng.NormFloat64())
				if turn%3 == 2 && i%5 != 0 { // a grammar allows every fifth
					values[i] = float32(math.Inf(-1))
				}
				if turn%4 == 3 { // many are equal
					values[i] = float32(math.Floor(float64(values[i])))
				}
			}
			logits := s.AsType(s.FromFloats(values, 3, vocab), dtype)
			rows := []int32{int32(turn % 3), int32((turn + 1) % 3)}
			keys := []uint32{rng.Uint32(), rng.Uint32(), rng.Uint32(), rng.Uint32()}
			got := draw(logits, s.FromInts(rows, 2), s.Concatenate(0, d.Settings(s), plain.Settings(s)), s.FromUints(keys, 2, 2))
			for row, drawing := range []fused.Drawing{d, plain} {
				one := s.Slice(logits, 0, int(rows[row]), int(rows[row])+1)
				rounded, err := s.AsType(s.Subtract(one, s.LogSumExp(one, -1, true)), mlxc.Float32).Floats()
				require.NoError(t, err)
				logprobs := make([]float64, vocab)
				for i, x := range rounded {
					logprobs[i] = float64(x)
				}
				weights, total, before := wanted(logprobs, drawing, round), 0.0, 0.0
				for _, w := range weights {
					total += w
				}
				token := int(got[row])
				require.Positive(t, weights[token], "%+v, spread %v, row %d: token %d is not to be drawn", drawing, spread, row, token)
				for _, w := range weights[:token] {
					before += w
				}
				key := s.FromUints(keys[2*row:2*row+2], 2)
				u, err := s.Uniform(key, 1).Floats()
				require.NoError(t, err)
				at, slack := float64(u[0])*total, 2e-5*total
				require.GreaterOrEqual(t, at, before-slack, "%+v, spread %v, row %d", drawing, spread, row)
				require.LessOrEqual(t, at, before+weights[token]+slack, "%+v, spread %v, row %d", drawing, spread, row)
				if at < before || at > before+weights[token] {
					near++
				}
				if drawing == plain && at > before+slack && at < before+weights[token]-slack {
					mlx, err := s.Categorical(s.FromFloats(rounded, 1, vocab), -1, key).Int()
					require.NoError(t, err)
					require.Equal(t, mlx, token)
				}
			}
		}
	}
	t.Logf("%d of 72 draws were as near to another token as sums in another order are", near)
	require.Less(t, near, 20)
}

func TestTheKernelDrawsWhatTheSamplerDoes(t *testing.T) {
	for name, c := range map[string]struct {
		dtype mlxc.DType
		vocab int
	}{"bfloat16": {mlxc.BFloat16, 3000}, "float16": {mlxc.Float16, 900}, "float32": {mlxc.Float32, 5000}, "fewer tokens than threads": {mlxc.BFloat16, 700}} {
		if name != "bfloat16" && !testenv.Slow() { // each is compiled anew
			continue
		}
		t.Run(name, func(t *testing.T) {
			onThread(t, func(s *mlxc.Scope) {
				k := emulatedKernels(t, s, fused.Shape{DType: c.dtype})
				checkDraws(t, s, c.dtype, c.vocab, func(a ...*mlxc.Array) []uint32 {
					tokens, err := k.Draw(s, a[0], a[1], a[2], a[3]).Ints()
					require.NoError(t, err)
					return []uint32{uint32(tokens[0]), uint32(tokens[1])}
				})
			})
		})
	}
}

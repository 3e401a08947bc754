package decode

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// distribution is a random distribution over n tokens as log-probabilities, with no two alike.
func distribution(rng *rand.Rand, n int) []float32 {
	logits := make([]float64, n)
	sum := 0.0
	for i := range logits {
		logits[i] = rng.NormFloat64() * 2
		sum += math.Exp(logits[i])
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(logits[i] - math.Log(sum))
	}
	return out
}

// kept are the tokens that a filter leaves.
func kept(t *testing.T, filtered *mlxc.Array) []int {
	t.Helper()
	values, err := filtered.Floats()
	require.NoError(t, err)
	var out []int
	for i, v := range values {
		if !math.IsInf(float64(v), -1) {
			out = append(out, i)
		}
	}
	return out
}

// byProbability are token ids, most likely first.
func byProbability(logprobs []float32) []int {
	order := make([]int, len(logprobs))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if logprobs[a] > logprobs[b] {
			return -1
		}
		return 1
	})
	return order
}

func TestFiltersKeepWhatTheirDefinitionsSay(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		for range 40 {
			const n = 50
			logprobs := distribution(rng, n)
			a := s.FromFloats(logprobs, 1, n)
			order := byProbability(logprobs)

			k := rng.IntN(n) + 1
			top, _ := (&sampler{options: engine.GenerateOptions{TopP: 1, TopK: k}}).filter(s, a, nil)
			require.ElementsMatch(t, order[:k], kept(t, top), "top-k %d", k)

			p := rng.Float32()*0.98 + 0.01
			var nucleus []int
			mass := 0.0
			for _, id := range order {
				nucleus = append(nucleus, id)
				if mass += math.Exp(float64(logprobs[id])); mass >= float64(p) {
					break
				}
			}
			require.ElementsMatch(t, nucleus, kept(t, topP(s, a, p)), "top-p %v", p)

			minP := rng.Float32()
			var likely []int
			for id, lp := range logprobs {
				if lp >= logprobs[order[0]]+float32(math.Log(float64(minP))) {
					likely = append(likely, id)
				}
			}
			got, _ := (&sampler{options: engine.GenerateOptions{TopP: 1, MinP: minP}}).filter(s, a, nil)
			require.ElementsMatch(t, likely, kept(t, got), "min-p %v", minP)
		}
	})
}

func TestRepetitionPenaltyPushesRecentTokensDown(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		options := engine.DefaultGenerateOptions()
		options.RepetitionPenalty, options.RepetitionContext = 2, 3
		sp := newSampler(s, options, []int32{0, 1, 2, 3}, nil, 0, false) // token 0 is too long ago
		got, err := sp.penalise(s, s.FromFloats([]float32{4, 4, -4, 0, 4}, 1, 5)).Floats()
		require.NoError(t, err)
		require.Equal(t, []float32{4, 2, -8, 0, 4}, got)
		sp.observe(s, s.FromUints([]uint32{4}, 1))
		got, err = sp.penalise(s, s.FromFloats([]float32{4, 4, -4, 0, 4}, 1, 5)).Floats()
		require.NoError(t, err)
		require.Equal(t, []float32{4, 4, -8, 0, 2}, got)
		require.NoError(t, sp.free())
	})
}

func TestSamplesFollowTheTemperedDistribution(t *testing.T) {
	logprobs := distribution(rand.New(rand.NewPCG(8, 9)), 6)
	for _, temperature := range []float32{0.5, 1, 2} {
		mlxtest.OnThread(t, func(s *mlxc.Scope) {
			options := engine.DefaultGenerateOptions()
			options.Temperature, options.Seed = temperature, 17
			sp := newSampler(s, options, []int32{0}, nil, 0, false)
			const draws = 4000
			counts := make([]float64, len(logprobs))
			for range draws {
				step := s.Child()
				token, _ := sp.sample(step, step.FromFloats(logprobs, 1, len(logprobs)))
				id, err := token.Int()
				require.NoError(t, err)
				counts[id]++
				require.NoError(t, step.Close())
			}
			total := 0.0
			for _, lp := range logprobs {
				total += math.Exp(float64(lp / temperature))
			}
			chi2 := 0.0
			for i, lp := range logprobs {
				expected := draws * math.Exp(float64(lp/temperature)) / total
				chi2 += (counts[i] - expected) * (counts[i] - expected) / expected
			}
			require.Less(t, chi2, 20.5, "chi-square, 5 degrees of freedom, p = 0.001, temperature %v: %v", temperature, counts)
			require.NoError(t, sp.free())
		})
	}
}

func TestGreedyTakesTheBestAndReportsNormalisedLogProbs(t *testing.T) {
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		sp := newSampler(s, engine.DefaultGenerateOptions(), []int32{0}, nil, 0, false)
		token, logprobs := sp.sample(s, s.FromFloats([]float32{1, 7, 3}, 1, 3))
		id, err := token.Int()
		require.NoError(t, err)
		require.Equal(t, 1, id)
		values, err := logprobs.Floats()
		require.NoError(t, err)
		sum := 0.0
		for _, v := range values {
			sum += math.Exp(float64(v))
		}
		require.InDelta(t, 1, sum, 1e-6)
		ids, best := decoder.BestTokens(s, logprobs, 2)
		gotIDs, err := ids.Ints()
		require.NoError(t, err)
		gotValues, err := best.Floats()
		require.NoError(t, err)
		sorted := decoder.SortedLogProbs(gotIDs, gotValues)
		require.EqualValues(t, 1, sorted[0].ID)
		require.EqualValues(t, 2, sorted[1].ID)
		require.NoError(t, sp.free())
	})
}

// Numbers that a type cannot hold must not make log-probabilities infinite or no numbers: then any token would be drawn.
func TestOptionsOfAnySizeLeaveNumbers(t *testing.T) {
	// Token 2 is the best by far in one row, by little in the other; 3 comes next.
	steep, flat := []float32{-9, -9, 9, 1, -9, -9}, []float32{1, 1, 1.5, 1.25, 1, 1}
	many := make([]float32, 4160) // so flat that every log-probability is far from 0
	copy(many, flat)
	for i := range many[len(flat):] {
		many[len(flat)+i] = 1
	}
	const prompt = 2 // what the penalties look at
	for name, c := range map[string]struct {
		set  func(o *engine.GenerateOptions, v float32)
		want map[float32]int // the token for each value
	}{
		"temperature": {func(o *engine.GenerateOptions, v float32) { o.Temperature = v },
			map[float32]int{1e-3: 2, 2e-4: 2, 1e-4: 2, 1e-5: 2, 1e-8: 2, 1e-30: 2, 1e-37: 2, 1e-38: 2, 1e-45: 2}},
		"bias": {func(o *engine.GenerateOptions, v float32) { o.LogitBias = map[int32]float32{3: v} },
			map[float32]int{60000: 3, 65504: 3, 1e5: 3, 1e30: 3, math.MaxFloat32: 3, -65504: 2, -1e5: 2, -math.MaxFloat32: 2}},
		"presence": {func(o *engine.GenerateOptions, v float32) { o.PresencePenalty = v },
			map[float32]int{1e5: 3, math.MaxFloat32: 3, -1e5: 2, -math.MaxFloat32: 2}},
		"frequency": {func(o *engine.GenerateOptions, v float32) { o.FrequencyPenalty = v },
			map[float32]int{1e4: 3, 1e5: 3, math.MaxFloat32: 3, -1e4: 2, -1e5: 2, -math.MaxFloat32: 2}},
		"repetition": {func(o *engine.GenerateOptions, v float32) { o.RepetitionPenalty = v },
			map[float32]int{1e5: 3, math.MaxFloat32: 3, 1e-5: 2, 1e-8: 2, 1e-38: 2, 1e-45: 2}},
	} {
		for _, dtype := range []mlxc.DType{mlxc.Float16, mlxc.BFloat16, mlxc.Float32} {
			for value, want := range c.want {
				for _, row := range [][]float32{steep, flat, many} {
					mlxtest.OnThread(t, func(s *mlxc.Scope) {
						for _, temperature := range []float32{0, 1e-6} {
							o := engine.DefaultGenerateOptions()
							o.Temperature, o.Seed, o.HasSeed = temperature, 3, true
							c.set(&o, value)
							require.NoError(t, o.Validate(len(row)))
							sp := newSampler(s, o, slices.Repeat([]int32{prompt}, 20), nil, len(row), false)
							for range 3 {
								token, logprobs := sp.sample(s, s.AsType(s.FromFloats(row, 1, len(row)), dtype))
								id, err := token.Int()
								require.NoError(t, err)
								require.Equal(t, want, id, "%s %v, %v, %d tokens", name, value, dtype, len(row))
								values, err := s.AsType(logprobs, mlxc.Float32).Floats()
								require.NoError(t, err)
								require.False(t, slices.ContainsFunc(values, func(v float32) bool { return v != v }), "%s %v, %v", name, value, dtype)
							}
							require.NoError(t, sp.free())
						}
					})
				}
			}
		}
	}
}

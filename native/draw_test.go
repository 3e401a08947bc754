package native

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// rowDrawer counts the rows of each launch of a drawer. Without one, where there is no GPU, it draws in Go, by the rules of fused.Kernels.Draw;
// internal/fused tests the kernel against them.
type rowDrawer struct {
	decoder.Drawer
	rows []int // of every launch; the owner thread's
}

func (d *rowDrawer) Draws() mlxc.DType { return mlxc.BFloat16 }

func (d *rowDrawer) Draw(s *mlxc.Scope, logits, which, settings, keys *mlxc.Array) *mlxc.Array {
	n := which.Dim(0)
	d.rows = append(d.rows, n)
	if d.Drawer != nil {
		return d.Drawer.Draw(s, logits, which, settings, keys)
	}
	rows, err := which.Ints()
	if err != nil {
		s.Fail(err)
		return which
	}
	tokens := make([]uint32, n)
	for i, row := range rows {
		one := s.Slice(logits, 0, int(row), int(row)+1)
		logprobs, err := s.AsType(decoder.LogProbs(s, one, false), mlxc.Float32).Floats()
		if err != nil {
			s.Fail(err)
			return which
		}
		numbers, err := s.Slice(settings, 0, i, i+1).Floats()
		if err != nil {
			s.Fail(err)
			return which
		}
		u, err := s.Uniform(s.Reshape(s.Slice(keys, 0, i, i+1), 2), 1).Floats()
		if err != nil {
			s.Fail(err)
			return which
		}
		tokens[i] = drawn(logprobs, numbers, float64(u[0]))
	}
	return s.FromUints(tokens, n)
}

func toBFloat16(x float64) float64 {
	bits := math.Float32bits(float32(x))
	return float64(math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff))
}

// drawn is the token at which the part u of the mass that is kept is reached. settings are those of decoder.Drawing.
func drawn(logprobs, settings []float32, u float64) uint32 {
	order := make([]int, len(logprobs))
	total := 0.0
	for i, x := range logprobs {
		order[i] = i
		total += math.Exp(float64(x))
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if logprobs[a] == logprobs[b] {
			return 0
		} else if logprobs[a] > logprobs[b] {
			return -1
		}
		return 1
	})
	inverse, topP, minP, topK := toBFloat16(float64(settings[0])), float64(settings[1]), float64(settings[2]), int(settings[3])
	best := float64(logprobs[order[0]])
	least, mass := math.Inf(-1), 0.0
	for _, i := range order {
		if topP >= 1 || mass >= topP*total {
			break
		}
		least = float64(logprobs[i])
		mass += math.Exp(least)
	}
	if minP <= 0 {
		least = max(least, toBFloat16(best+toBFloat16(minP)))
	}
	weights, sum := make([]float64, len(logprobs)), 0.0
	for rank, i := range order {
		if x := float64(logprobs[i]); x >= least && (topK == 0 || rank < topK) {
			weights[i] = math.Exp(toBFloat16(x*inverse) - toBFloat16(best*inverse))
			sum += weights[i]
		}
	}
	token, before := 0, 0.0
	for i, w := range weights {
		if w > 0 && before <= u*sum {
			token = i
		}
		before += w
	}
	return uint32(token)
}

// openDrawing opens a model whose streams decode as on an NVIDIA GPU, tokens drawn in one launch. use sets whether they are.
func openDrawing(t *testing.T) (m *Model, drawer *rowDrawer, use func(bool)) {
	m, _ = openInPlace(t, testenv.Model(t), engine.NativeOptions{})
	drawer = &rowDrawer{Drawer: m.network.Drawer}
	return m, drawer, func(on bool) {
		require.NoError(t, m.owner.Do(t.Context(), func() error {
			if m.network.Drawer = drawer; !on {
				m.network.Drawer = nil
			}
			return nil
		}))
	}
}

// What is drawn in one launch is what the sampler's ops draw with the same seed.
func TestATokenDrawnInOneLaunchIsTheSamplersOwn(t *testing.T) {
	m, drawer, use := openDrawing(t)
	for name, change := range map[string]func(*engine.GenerateOptions){
		"temperature": func(o *engine.GenerateOptions) { o.Temperature = 1.2 },
		"top p":       func(o *engine.GenerateOptions) { o.TopP = 0.8 },
		"min p":       func(o *engine.GenerateOptions) { o.MinP = 0.1 },
		"all filters": func(o *engine.GenerateOptions) { o.TopP, o.MinP, o.TopK = 0.95, 0.01, 30 },
		"penalties":   func(o *engine.GenerateOptions) { o.RepetitionPenalty, o.FrequencyPenalty, o.TopP = 1.3, 0.2, 0.9 },
		"a grammar": func(o *engine.GenerateOptions) {
			o.IgnoreEOS, o.TopP, o.Grammar = false, 0.9, engine.Grammar{Kind: "regex", Text: "[a-f ]{60,}"}
		},
		"probabilities":  func(o *engine.GenerateOptions) { o.LogProbs, o.TopP = true, 0.9 },
		"a bias":         func(o *engine.GenerateOptions) { o.LogitBias = map[int32]float32{300: 5, 301: -100} },
		"by MLX's ops":   func(o *engine.GenerateOptions) { o.XTCProbability, o.XTCThreshold = 0.5, 0.1 },
		"nearly greedy":  func(o *engine.GenerateOptions) { o.Temperature = 1e-3 },
		"the best alone": func(o *engine.GenerateOptions) { o.TopK = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.MaxTokens, o.Temperature, o.Seed, o.HasSeed = true, 24, 1, 5, true
			change(&o)
			var want, got answer
			use(false)
			want.run(t.Context(), m, engine.Prompt{Text: "Please check"}, o)
			use(true)
			before := len(drawer.rows)
			got.run(t.Context(), m, engine.Prompt{Text: "Please check"}, o)
			require.NoError(t, want.err)
			require.Equal(t, want, got)
			if name == "by MLX's ops" {
				require.Equal(t, before, len(drawer.rows))
			} else {
				require.GreaterOrEqual(t, len(drawer.rows)-before, 24)
			}
		})
	}
}

// Streams that draw together get each the token of its own row, also while others join, end, and take the most likely token.
func TestStreamsThatDrawTogetherGetTheirOwnTokens(t *testing.T) {
	m, drawer, use := openDrawing(t)
	use(true)
	prompts := []string{"Where can I find", "Please check", "Le chef", "Der Torwart hat den Ball", "The match"}
	made := make([]answer, len(prompts))
	done, all := make(chan struct{}), newMeeting(len(prompts))
	for i, text := range prompts {
		o := engine.DefaultGenerateOptions()
		o.IgnoreEOS, o.MaxTokens = true, 20+10*i
		if i != 2 {
			o.Temperature, o.TopK = 1, 1 // drawn, but only the most likely token can be
		}
		come, meet := all.join()
		go func() {
			made[i].runFrom(t.Context(), m, engine.Prompt{Text: text}, o, meet)
			come() // where it failed
			done <- struct{}{}
		}()
	}
	for range prompts {
		<-done
	}
	for i, text := range prompts {
		require.NoError(t, made[i].err)
		require.Len(t, made[i].ids, 20+10*i)
		ids, err := m.Encode(t.Context(), text, true)
		require.NoError(t, err)
		requireGreedy(t, m, ids, made[i].ids)
	}
	require.Greater(t, slices.Max(drawer.rows), 2, "several drew in one launch")
}

func TestAFailureOfAnyOpOfDrawingTogetherLeavesNothingBehind(t *testing.T) {
	m, _, use := openDrawing(t)
	use(true)
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.Temperature, o.TopP = true, 4, 1, 0.9
	prompts := [][]int32{numbers(300, 9), numbers(400, 30), numbers(500, 12)}
	mlxtest.FailEverywhere(t, 11, func() error {
		var errs []error
		for _, a := range together(t, m, prompts, o) {
			errs = append(errs, a.err)
		}
		return errors.Join(errs...)
	})
}

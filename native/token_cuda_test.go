//go:build cuda

package native

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decode"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: tokens in one launch are those of MLX's own ops, with logits that are as near to
// those of the model in float32, after texts of any length and over the edge of a sliding window.
func TestATokenInOneLaunchIsWhatMLXComputes(t *testing.T) {
	for _, name := range []string{"domains", "assistant"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(testenv.Root(), "tests", "models", name)
			one, exact := openPath(t, dir, engine.NativeOptions{}), openPath(t, dir, engine.NativeOptions{Exact: true})
			wide := openPath(t, testenv.InFloat32(t, dir), engine.NativeOptions{Exact: true})
			require.NotNil(t, one.network.Token, "the kernel does not serve this model")
			var ours, theirs float64
			for _, length := range []int{2, 3, 31, 63, 65, 300, 505, 1100} {
				ids := someIDs(t, exact, length)
				const steps = 24
				wanted, chosen := decodeWith(t, exact, ids, nil, steps)
				reference, _ := decodeWith(t, wide, ids, chosen, steps)
				got, best := decodeInOneLaunch(t, one, ids, chosen)
				for i := range chosen {
					ours += math.Pow(testenv.RelativeDifference(reference[i], got[i]), 2)
					theirs += math.Pow(testenv.RelativeDifference(reference[i], wanted[i]), 2)
				}
				require.Equal(t, chosen, best, "greedy tokens after %d", length)
			}
			t.Logf("relative error of the logits against float32, squared and summed: %.3g in one launch, %.3g with MLX's ops", ours, theirs)
			require.Less(t, ours, 1.25*theirs)
		})
	}
}

// With packed weights in groups of every size that the kernel takes, tokens are those of the same weights unpacked to float32.
func TestATokenOfPackedWeightsIsThatOfTheUnpackedOnes(t *testing.T) {
	for _, c := range []struct {
		name  string
		group int
	}{{"domains", 32}, {"domains", 64}, {"domains", 128}, {"assistant", 32}, {"assistant", 64}} {
		t.Run(fmt.Sprintf("%s, groups of %d", c.name, c.group), func(t *testing.T) {
			packed, wide := mlxtest.PackedAndWide(t, filepath.Join(testenv.Root(), "tests", "models", c.name), mlxc.Quantization{GroupSize: c.group, Bits: 4})
			one := openPath(t, packed, engine.NativeOptions{})
			reference := openPath(t, wide, engine.NativeOptions{Exact: true})
			require.NotNil(t, one.network.Token, "the kernel does not serve this model")
			var ours, theirs float64
			for _, length := range []int{2, 31, 65, 505, 1100} {
				ids := someIDs(t, reference, length)
				const steps = 24
				true32, chosen := decodeWith(t, reference, ids, nil, steps)
				passes, _ := decodeWith(t, one, ids, chosen, steps)
				got, best := decodeInOneLaunch(t, one, ids, chosen)
				for i := range chosen {
					ours += math.Pow(testenv.RelativeDifference(true32[i], got[i]), 2)
					theirs += math.Pow(testenv.RelativeDifference(true32[i], passes[i]), 2)
					if lead(true32[i]) > 0.25 { // of several units in the last place of a logit
						require.Equal(t, chosen[i], best[i], "token %d after %d", i, length)
					}
				}
			}
			t.Logf("relative error of the logits against float32, squared and summed: %.3g in one launch, %.3g in compiled passes", ours, theirs)
			require.Less(t, ours, 1.25*theirs)
		})
	}
}

// lead is by how much the largest logit is ahead.
func lead(logits []float32) float32 {
	first, second := float32(math.Inf(-1)), float32(math.Inf(-1))
	for _, x := range logits {
		if x > first {
			first, second = x, first
		} else {
			second = max(second, x)
		}
	}
	return first - second
}

// With random weights, which amplify rounding without bound, tokens need not be the same: what GO_MLX_BENCH_MODEL names is looked at.
func TestATokenInOneLaunchIsNearWhatMLXComputes(t *testing.T) {
	one, exact := openFusedAndExact(t)
	require.NotNil(t, one.network.Token, "the kernel does not serve this model")
	for _, length := range []int{2, 65, 600} {
		ids := someIDs(t, exact, length)
		const steps = 24
		want, chosen := decodeWith(t, exact, ids, nil, steps)
		got, best := decodeInOneLaunch(t, one, ids, chosen)
		compiled, _ := decodeWith(t, one, ids, chosen, steps)
		largest, passes, same := 0.0, 0.0, 0
		for i := range want {
			largest = max(largest, testenv.RelativeDifference(want[i], got[i]))
			passes = max(passes, testenv.RelativeDifference(want[i], compiled[i]))
			if best[i] == chosen[i] {
				same++
			}
		}
		t.Logf("after %d tokens: logits differ by at most %.2g (compiled passes: %.2g), %d of %d tokens are the same", length, largest, passes, same, steps)
		require.Less(t, largest, 0.6)
		require.Greater(t, same, steps/4)
	}
}

// The kernel is one of one model of a process; the next one gets it when that is closed.
func TestOneModelHasTheTokenKernel(t *testing.T) {
	dir := testenv.Model(t)
	first, err := Load(t.Context(), dir, engine.NativeOptions{})
	require.NoError(t, err)
	second, err := Load(t.Context(), dir, engine.NativeOptions{})
	require.NoError(t, err)
	require.NotNil(t, first.network.Token)
	require.Nil(t, second.network.Token)
	a, _ := collect(t, first, "Where can I find", nil)
	b, _ := collect(t, second, "Where can I find", nil)
	require.Equal(t, a, b)
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
	require.NotNil(t, openPath(t, dir, engine.NativeOptions{}).network.Token)
}

// someIDs is so many tokens of text.
func someIDs(t testing.TB, m *Model, n int) []int32 {
	ids, err := m.Encode(t.Context(), strings.Repeat(testenv.Texts(t)[0]+" ", n), true)
	require.NoError(t, err)
	return ids[:n]
}

// decodeWith returns the logits after each of some tokens, forced ones or the most likely, and what is most likely. It goes without the kernel.
func decodeWith(t *testing.T, m *Model, ids, forced []int32, steps int) (logits [][]float32, tokens []int32) {
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		state := m.network.NewSequence()
		defer state.Free()
		s := m.owner.Lease.NewScope()
		defer s.Close()
		m.network.Run(s, state, s.FromInts(ids[:len(ids)-1], 1, len(ids)-1))
		token := ids[len(ids)-1]
		for i := range steps {
			row := m.network.NextLogits(s, state, s.FromUints([]uint32{uint32(token)}, 1))
			values, err := s.AsType(row, mlxc.Float32).Floats()
			if err != nil {
				return err
			}
			next, err := decode.MostLikely(s, row, decoder.LogProbs(s, row, false), false).Int()
			if err != nil {
				return err
			}
			if token = int32(next); forced != nil {
				token = forced[i]
			}
			logits, tokens = append(logits, values), append(tokens, int32(next))
		}
		return s.Err()
	}))
	return logits, tokens
}

// decodeInOneLaunch does so with given tokens.
func decodeInOneLaunch(t *testing.T, m *Model, ids, forced []int32) (logits [][]float32, tokens []int32) {
	options := engine.DefaultGenerateOptions()
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		st := m.scheduler.NewStream(ids, options)
		defer st.Free(false)
		s := m.owner.Lease.NewScope()
		defer s.Close()
		for st.WantsPrefill() {
			if err := st.Prefill(s); err != nil {
				return err
			}
		}
		m.scheduler.Join(st)
		token := ids[len(ids)-1]
		for _, next := range forced {
			row, _, err := st.Batch.Logits(s, []*decode.Stream{st}, []*mlxc.Array{s.FromUints([]uint32{uint32(token)}, 1)})
			if err != nil {
				return err
			}
			best, err := st.Batch.Best.Int()
			if err != nil {
				return err
			}
			values, err := s.AsType(row, mlxc.Float32).Floats()
			if err != nil {
				return err
			}
			token = next
			logits, tokens = append(logits, values), append(tokens, int32(best))
		}
		return s.Err()
	}))
	return logits, tokens
}

// BenchmarkTokens is greedy tokens a second after contexts of several lengths: the best run, and the last.
func BenchmarkTokens(b *testing.B) {
	m := openPath(b, benchModel(b), engine.NativeOptions{})
	for name, length := range map[string]int{"context=64": 64, "context=1500": 1500, "context=4096": 4096} {
		if length > 1500 && benchModel(b) == testenv.Model(b) { // which was not made for so long a text
			continue
		}
		b.Run(name, func(b *testing.B) {
			ids := someIDs(b, m, length)
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.MaxTokens = true, 200
			var best, last float64
			for b.Loop() {
				var start time.Time
				n := 0
				for _, err := range m.Generate(b.Context(), engine.Prompt{IDs: ids}, o) {
					require.NoError(b, err)
					if n == 0 {
						start = time.Now()
					}
					n++
				}
				last = float64(n-1) / time.Since(start).Seconds()
				best = max(best, last)
			}
			b.ReportMetric(best, "best-tok/s")
			b.ReportMetric(last, "last-tok/s")
		})
	}
}

//go:build cuda

package native

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// `make test-cuda`, on a machine with an NVIDIA GPU: a token in one launch has the logits that MLX's own ops compute, behind texts of any
// length and over the edge of a sliding window, and the token it says is most likely is.
func TestATokenInOneLaunchIsWhatMLXComputes(t *testing.T) {
	one, exact := openFusedAndExact(t)
	require.NotNil(t, one.token, "the kernel does not serve this model")
	for _, length := range []int{2, 3, 63, 65, 300, 505, 1100} {
		ids, err := exact.Encode(t.Context(), strings.Repeat(testenv.Texts(t)[0]+" ", length), true)
		require.NoError(t, err)
		ids = ids[:length]
		const steps = 24
		want, chosen := decodeExactly(t, exact, ids, steps)
		got, best := decodeInOneLaunch(t, one, ids, chosen)
		largest, same := 0.0, 0
		for i := range want {
			largest = max(largest, testenv.RelativeDifference(want[i], got[i]))
			if best[i] == chosen[i] {
				same++
			}
		}
		t.Logf("behind %d tokens: relative difference of logits at most %.2g, %d of %d tokens the same", length, largest, same, steps)
		if benchModel(t) == testenv.Model(t) {
			require.Less(t, largest, 0.01, "behind %d tokens", length)
			require.Equal(t, steps, same, "behind %d tokens", length)
		}
	}
}

// decodeExactly returns the logits behind each of some greedy tokens, and these.
func decodeExactly(t *testing.T, m *Model, ids []int32, steps int) (logits [][]float32, tokens []int32) {
	require.NoError(t, m.do(t.Context(), func() error {
		state := newDecodeState(m.shape)
		defer state.free()
		s := m.lease.NewScope()
		defer s.Close()
		m.pass(s, state, s.FromInts(ids[:len(ids)-1], 1, len(ids)-1))
		token := ids[len(ids)-1]
		for range steps {
			row := m.nextLogits(s, state, s.FromUints([]uint32{uint32(token)}, 1))
			values, err := s.AsType(row, metal.Float32).Floats()
			if err != nil {
				return err
			}
			next, err := mostLikely(s, row, logProbs(s, row, false), false).Int()
			if err != nil {
				return err
			}
			token = int32(next)
			logits, tokens = append(logits, values), append(tokens, token)
		}
		return s.Err()
	}))
	return logits, tokens
}

// decodeInOneLaunch does so with given tokens.
func decodeInOneLaunch(t *testing.T, m *Model, ids, forced []int32) (logits [][]float32, tokens []int32) {
	options := engine.DefaultGenerateOptions()
	require.NoError(t, m.do(t.Context(), func() error {
		st := m.newStream(ids, options)
		defer st.free(false)
		s := m.lease.NewScope()
		defer s.Close()
		for st.wantsPrefill() {
			if err := st.prefill(s); err != nil {
				return err
			}
		}
		m.join(st)
		token := ids[len(ids)-1]
		for _, next := range forced {
			row, _, err := st.batch.logits(s, []*stream{st}, []*metal.Array{s.FromUints([]uint32{uint32(token)}, 1)})
			if err != nil {
				return err
			}
			best, err := st.batch.best.Int()
			if err != nil {
				return err
			}
			values, err := s.AsType(row, metal.Float32).Floats()
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

// BenchmarkTokens is greedy tokens a second behind contexts of two lengths.
func BenchmarkTokens(b *testing.B) {
	m := openPath(b, benchModel(b), engine.NativeOptions{})
	for name, length := range map[string]int{"context=64": 64, "context=4096": 4096} {
		b.Run(name, func(b *testing.B) {
			ids, err := m.Encode(b.Context(), strings.Repeat(testenv.Texts(b)[0]+" ", length), true)
			require.NoError(b, err)
			ids = ids[:length]
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

package native

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/decode"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// openSharing opens the model with streams that share KV buffers, as on a GPU.
func openSharing(t *testing.T, o engine.NativeOptions) *Model {
	o.Exact = true // buffers are shared by MLX's ops only
	m := openWith(t, o)
	require.NoError(t, m.owner.Do(t.Context(), func() error { m.scheduler.Batching = true; return nil }))
	return m
}

// together runs prompts at the same time.
func together(t *testing.T, m *Model, prompts [][]int32, o engine.GenerateOptions) []answer {
	t.Helper()
	out := make([]answer, len(prompts))
	var wg sync.WaitGroup
	for i, ids := range prompts {
		wg.Go(func() { out[i].run(t.Context(), m, engine.Prompt{IDs: ids}, o) })
	}
	wg.Wait()
	return out
}

func numbers(from, n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(from + i)
	}
	return out
}

// Buffers that grow past a block, windows that go round, streams that end one after the other, one prompt that is too
// long to be batched with the others, and KV that is kept for a second round.
func TestSharedKVIsWhatEachStreamHasAlone(t *testing.T) {
	alone, sharing := open(t), openSharing(t, engine.NativeOptions{PromptCache: 64 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.LogProbs = true, true
	prompts := [][]int32{numbers(300, 240), numbers(300, 200), numbers(700, 31), numbers(500, 33), numbers(900, 5), numbers(300, 1500), {300}}
	for i := range 2 {
		o.MaxTokens = 30 + 20*i
		got := together(t, sharing, prompts, o)
		for p, ids := range prompts {
			var want answer
			want.run(t.Context(), alone, engine.Prompt{IDs: ids}, o)
			require.NoError(t, want.err)
			require.NoError(t, got[p].err)
			require.Len(t, got[p].ids, o.MaxTokens)
			for k := range want.ids {
				require.InDelta(t, want.logprobs[k], got[p].logprobs[k], 0.2, "round %d, prompt %d, token %d", i, p, k)
				if want.ids[k] != got[p].ids[k] {
					break // rounding decided between two tokens
				}
			}
		}
	}
	metrics, err := sharing.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.KVBytes)
}

func TestLongStreamsDoNotMakeShortOnesLong(t *testing.T) {
	m := openSharing(t, engine.NativeOptions{Batch: 4})
	lengths := []int{100, 3000, 120, 80, 90, 110, 2800}
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		for _, n := range lengths {
			st := &decode.Stream{Scheduler: m.scheduler, State: m.network.NewSequence()}
			for _, c := range st.Slotted() {
				for range n {
					c.Advance()
				}
			}
			m.scheduler.Join(st)
		}
		var sizes []string
		for _, b := range m.scheduler.Batches {
			longest, sum := 0, 0
			for _, st := range b.Members {
				longest, sum = max(longest, st.State.Position()), sum+st.State.Position()
			}
			if len(b.Members) > 4 || len(b.Members)*longest > 2*decode.MaxPadding*sum {
				sizes = append(sizes, fmt.Sprint(len(b.Members), " of ", longest))
			}
		}
		m.scheduler.Batches = nil
		if len(sizes) > 0 {
			return fmt.Errorf("batches %v", sizes)
		}
		return nil
	}))
}

func TestAFailureOfAnyOpWithSharedKVLeavesNothingBehind(t *testing.T) {
	m := openSharing(t, engine.NativeOptions{})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 4
	prompts := [][]int32{numbers(300, 9), numbers(400, 30), numbers(500, 12)}
	mlxtest.FailEverywhere(t, 11, func() error {
		var errs []error
		for _, a := range together(t, m, prompts, o) {
			errs = append(errs, a.err)
		}
		return errors.Join(errs...)
	})
}

// Streams that have no room beside each other in shared buffers go one after the other.
func TestStreamsWaitWhereSharedKVExceedsTheBudget(t *testing.T) {
	m := openSharing(t, engine.NativeOptions{})
	before := mlxtest.Measure(t)
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 5
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		m.owner.Budget = int64(before.Active) + m.network.PassBytes(12, 0, 1) + 30*int64(len(m.network.Shape.Windows))*m.network.Shape.PositionBytes()
		return nil
	}))
	for _, a := range together(t, m, [][]int32{numbers(300, 10), numbers(400, 10), numbers(500, 10), numbers(600, 10)}, o) {
		require.NoError(t, a.err)
		require.Len(t, a.ids, 5)
	}
	require.Equal(t, before, mlxtest.Measure(t))
}

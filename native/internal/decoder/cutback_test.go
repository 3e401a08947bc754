package decoder

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// A ring holds more than its window, so that the last positions can be taken back: what comes then is what came without them.
func TestARingCanBeCutBack(t *testing.T) {
	n := openNetwork(t, engine.NativeOptions{})
	if !n.Shape.Rings {
		return // rings are the CPU kernels'
	}
	ids := someIDs(100)
	require.NoError(t, n.Do(t.Context(), func() error {
		s := n.Lease.NewScope()
		defer s.Close()
		step := func(st *kv.Sequence, i int) []float32 {
			row, err := n.Arch.Logits(s, n.Run(s, st, s.FromInts(ids[i:i+1], 1, 1))).Floats()
			require.NoError(t, err)
			return row
		}
		long, short := n.NewSequence(), n.NewSequence()
		defer long.Free()
		defer short.Free()
		for i := range 90 {
			step(long, i)
		}
		for i := range 70 {
			step(short, i)
		}
		require.True(t, long.Trim(s, 20))
		require.Equal(t, step(short, 70), step(long, 70))
		return s.Err()
	}))
}

// A ring that went round and was cut back, as after a draft's wrong proposals, has lost what was written over: it is not cut back
// further, however short it is by then.
func TestARingThatWentRoundIsNotCutBackTwice(t *testing.T) {
	n := openNetwork(t, engine.NativeOptions{})
	if !n.Shape.Rings {
		return // rings are the CPU kernels'
	}
	ids := someIDs(100) // the window is 32, the room of its ring 96
	require.NoError(t, n.Do(t.Context(), func() error {
		s := n.Lease.NewScope()
		defer s.Close()
		st := n.NewSequence()
		defer st.Free()
		n.Run(s, st, s.FromInts(ids[:60], 1, 60))
		n.Run(s, st, s.FromInts(ids[60:], 1, 40))
		require.True(t, st.Trim(s, 10))
		shared := st.Share(s)
		defer shared.Free()
		require.False(t, shared.Trim(s, 60), "the first positions are gone")
		require.True(t, st.Trim(s, 30))
		return s.Err()
	}))
}

// The fault that the cache must not have: a sequence whose sliding window has moved on is cut back to a
// shorter prompt as if nothing had been overwritten.
func TestACutBackSlidingWindowWouldBeWrong(t *testing.T) {
	n := openNetwork(t, engine.NativeOptions{Exact: true})
	ids := someIDs(100)
	require.NoError(t, n.Do(t.Context(), func() error {
		s := n.Lease.NewScope()
		defer s.Close()
		last := func(st *kv.Sequence, from, to int) []float32 {
			var row []float32
			for i := from; i < to; i++ { // token by token, so that the window is overwritten in place
				h := n.Run(s, st, s.FromInts(ids[i:i+1], 1, 1))
				row, _ = n.Arch.Logits(s, h).Floats()
			}
			return row
		}
		long, short := n.NewSequence(), n.NewSequence()
		defer long.Free()
		defer short.Free()
		last(long, 0, 90)
		want := last(short, 0, 71)
		difference := func(st *kv.Sequence) float64 {
			worst := 0.0
			for i, v := range last(st, 70, 71) {
				worst = max(worst, float64(max(v-want[i], want[i]-v)))
			}
			return worst
		}
		shared := long.Share(s)
		if shared.Trim(s, 20) {
			t.Error("a window that has moved on was cut back")
		}
		if err := shared.Free(); err != nil {
			return err
		}
		// Where it was overwritten, what is left of the window is not the window of position 70.
		forced := long.Share(s)
		defer forced.Free()
		for _, c := range forced.Caches {
			c.Trim(s, 20) // the full layers can
		}
		if d := difference(forced); d < 0.5 {
			t.Errorf("the fault shows in no logit: %v", d)
		}
		return s.Err()
	}))
}

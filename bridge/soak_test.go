//go:build unix

package bridge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// soakVariable is how many requests the soak sends; `make test-slow` sends 300, `make soak` 2,000.
const soakVariable = "SOAK_REQUESTS"

// Mixed requests over three workers, one of which is killed every now and then: every request is answered
// once, and right, or with the error of its worker. Nothing is left over.
func TestRealSoak(t *testing.T) {
	total := testenv.Number(t, soakVariable, 50)
	m := loadReal(t, []func(*Options){func(o *Options) { o.Workers, o.PromptCache = 3, 1<<20 }})
	kinds := soakKinds(t)
	want := make([]any, len(kinds))
	for i, run := range kinds {
		got, err := run(t.Context(), m, 0)
		require.NoError(t, err)
		want[i] = got
	}
	heap := heapInUse()

	rng := rand.New(rand.NewPCG(5, 6))
	// A worker is killed after so many answers, not after a time: on a machine on which workers start more slowly than they are
	// killed nothing would get done.
	const answersPerKill = 20
	var answered, failed, kills atomic.Int64
	var killer sync.Mutex // guards killRNG
	killRNG := rand.New(rand.NewPCG(7, 8))
	answer := func() {
		if answered.Add(1)%answersPerKill != 0 {
			return
		}
		killer.Lock()
		defer killer.Unlock()
		var pids []int
		for _, w := range m.Stat().Workers {
			if w.PID != 0 {
				pids = append(pids, w.PID)
			}
		}
		if len(pids) > 0 {
			kills.Add(1)
			_ = syscall.Kill(pids[killRNG.IntN(len(pids))], syscall.SIGKILL)
		}
	}
	limit := make(chan struct{}, 16)
	var group sync.WaitGroup
	for n := range total {
		limit <- struct{}{}
		kind := rng.IntN(len(kinds))
		giveUp := rng.IntN(10) == 0
		after := time.Duration(rng.IntN(200)) * time.Millisecond
		group.Go(func() {
			defer func() { <-limit }()
			ctx := t.Context()
			if giveUp {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, after)
				defer cancel()
			}
			begin := time.Now()
			got, err := kinds[kind](ctx, m, n)
			switch {
			case err == nil && reflect.DeepEqual(got, want[kind]):
				answer()
			case err == nil:
				t.Errorf("kind %d: got %v, want %v", kind, got, want[kind])
			case giveUp && errors.Is(err, context.DeadlineExceeded):
				answer()
			case errors.Is(err, ErrWorkerStopped):
				failed.Add(1)
				t.Logf("kind %d, after %v: %.150v", kind, time.Since(begin), err)
			default:
				t.Errorf("kind %d: %v", kind, err)
			}
		})
	}
	group.Wait()
	require.EqualValues(t, total, answered.Load()+failed.Load())
	// One whose second worker is killed too, while it is alone there, is taken for what killed them.
	require.LessOrEqual(t, failed.Load(), 2*kills.Load(), "nearly all survive")
	require.Zero(t, m.counters.active.Load())
	require.Eventually(t, func() bool {
		s := m.Stat()
		for _, w := range s.Workers {
			if w.State != "ready" || w.Phase != "idle" || w.Active != 0 {
				return false
			}
		}
		return len(s.Workers) == 3 && s.Waiting == 0
	}, aWhile, 50*time.Millisecond)
	s := m.Stat()
	t.Logf("%d requests, %d kills: %d answered, %d failed, %d resumed; %d workers started",
		total, kills.Load(), answered.Load(), failed.Load(), s.Resumed, s.Starts)
	require.GreaterOrEqual(t, kills.Load(), int64(total/2/answersPerKill))
	require.GreaterOrEqual(t, s.Starts, kills.Load())
	for _, w := range s.Workers {
		require.Less(t, w.ActiveBytes, int64(2743296+3<<20), "weights, prompt cache, and nothing of requests that are over")
	}
	require.Less(t, heapInUse(), heap+4<<20)
}

// heapInUse is this process's live heap.
func heapInUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// unique makes a request another one, so that one in quarantine does not speak for all of its kind.
func unique(n int) []string { return []string{fmt.Sprintf("\x00%d", n)} }

// soakKinds are requests of every kind with an answer that can be compared, whatever their number is.
func soakKinds(t *testing.T) []func(context.Context, *Model, int) (any, error) {
	texts, labels := testenv.Texts(t), testenv.Labels(t)
	var kinds []func(context.Context, *Model, int) (any, error)
	for i := range 6 {
		kinds = append(kinds, func(ctx context.Context, m *Model, n int) (any, error) {
			o := longOptions(10 + 12*i)
			o.Session = "soak"
			o.Stop = unique(n)
			if i%2 == 1 {
				o.Temperature, o.Seed, o.HasSeed, o.TopP = 1, uint64(i), true, 0.9
			}
			return drain(ctx, m, engine.Prompt{Text: texts[i]}, o)
		})
	}
	return append(kinds,
		func(ctx context.Context, m *Model, n int) (any, error) {
			got, err := m.Classify(ctx, append([]string{fmt.Sprint("number ", n)}, texts[:20]...), engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt})
			var out []string
			for _, c := range got[min(1, len(got)):] {
				out = append(out, c.Label)
			}
			return out, err
		},
		func(ctx context.Context, m *Model, n int) (any, error) {
			ids, err := m.Encode(ctx, fmt.Sprint(texts[3], n), true)
			return ids[:min(8, len(ids))], err
		},
		func(ctx context.Context, m *Model, n int) (any, error) {
			_, err := drain(ctx, m, engine.Prompt{IDs: make([]int32, 3000+n)}, longOptions(1))
			var tooLong *engine.ContextLengthError
			if errors.As(err, &tooLong) {
				return tooLong.Limit, nil
			}
			return nil, err
		},
		func(ctx context.Context, m *Model, n int) (any, error) { // a reader that leaves
			var ids []int32
			o := longOptions(500)
			o.Stop = unique(n)
			for tok, err := range m.Generate(ctx, engine.Prompt{Text: "Please"}, o) {
				if err != nil {
					return nil, err
				}
				if ids = append(ids, tok.ID); len(ids) == 5 {
					break
				}
			}
			return ids, nil
		},
	)
}

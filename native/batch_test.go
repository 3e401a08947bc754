package native

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decode"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

type answer struct {
	ids      []int32
	logprobs []float32
	text     string
	err      error
}

// run is collect for goroutines.
func (a *answer) run(ctx context.Context, m *Model, prompt engine.Prompt, o engine.GenerateOptions) {
	a.runFrom(ctx, m, prompt, o, func() {})
}

// runFrom calls begun when it has read the first token.
func (a *answer) runFrom(ctx context.Context, m *Model, prompt engine.Prompt, o engine.GenerateOptions, begun func()) {
	for tok, err := range m.Generate(ctx, prompt, o) {
		if err != nil {
			a.err = err
			return
		}
		if a.ids, a.logprobs, a.text = append(a.ids, tok.ID), append(a.logprobs, tok.LogProb), a.text+tok.Text; len(a.ids) == 1 {
			begun()
		}
	}
}

// meeting lets requests that are to run beside each other do so, where a fast one would be over before the next has come: whoever has its first
// token waits until every other has one, too, or waits for memory.
type meeting struct{ all sync.WaitGroup }

func newMeeting(requests int) *meeting {
	m := &meeting{}
	m.all.Add(requests)
	return m
}

// join is for one request: come says that it is there, and so does meet, which then waits for the others.
func (m *meeting) join() (come, meet func()) {
	come = sync.OnceFunc(m.all.Done)
	return come, func() {
		come()
		m.all.Wait()
	}
}

// Requests of every kind, with prompts from one token to more than a chunk, computed alone and then all
// together. They begin and end at different times.
func TestABatchOfRequestsGivesWhatEachGivesAlone(t *testing.T) {
	withAndWithoutSharedKV(t, testABatchOfRequestsGivesWhatEachGivesAlone)
}

// withAndWithoutSharedKV runs a test with the CPU kernels, with MLX's ops, with those and streams that share KV buffers, as on a GPU, and
// with a stand-in for the kernel of a token, as on an NVIDIA GPU.
func withAndWithoutSharedKV(t *testing.T, test func(t *testing.T, m *Model)) {
	for name, c := range map[string]struct{ exact, shared, launch bool }{
		"CPU kernels": {false, false, false}, "MLX's ops": {true, false, false}, "shared KV": {true, true, false}, "one launch": {true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.launch {
				m, _ := openInPlace(t, testenv.Model(t), engine.NativeOptions{})
				test(t, m)
				return
			}
			m := openWith(t, engine.NativeOptions{Exact: c.exact})
			require.NoError(t, m.owner.Do(t.Context(), func() error { m.scheduler.Batching = c.shared; return nil }))
			test(t, m)
		})
	}
}

func testABatchOfRequestsGivesWhatEachGivesAlone(t *testing.T, m *Model) {
	prompts := []string{"Where can I find", "Please check", "Le chef", "Der Torwart hat den Ball", strings.Repeat("The match. ", 200)}
	type request struct {
		prompt  engine.Prompt
		options engine.GenerateOptions
	}
	var requests []request
	count := 20
	if m.options.Exact && !testenv.Slow() { // MLX's ops are slow on CPUs: two of each kind
		count = 10
	}
	for i := range count {
		o := engine.DefaultGenerateOptions()
		o.IgnoreEOS, o.LogProbs, o.MaxTokens = true, i%2 == 0, 10+7*(i%6)
		switch i % 5 {
		case 1:
			o.Temperature, o.Seed, o.HasSeed = 1, uint64(i), true
		case 2:
			o.Temperature, o.TopP, o.Seed, o.HasSeed = 1.3, 0.9, uint64(i), true
			o.RepetitionPenalty, o.PresencePenalty = 1.2, 0.5
		case 3:
			o.Temperature, o.XTCProbability, o.XTCThreshold, o.Seed, o.HasSeed = 0.8, 0.5, 0.1, uint64(i), true
		case 4:
			o.Solo = true
		}
		requests = append(requests, request{engine.Prompt{Text: prompts[i%len(prompts)]}, o})
	}
	alone, together := make([]answer, len(requests)), make([]answer, len(requests))
	for i, r := range requests {
		alone[i].run(t.Context(), m, r.prompt, r.options)
		require.NoError(t, alone[i].err)
		require.Len(t, alone[i].ids, r.options.MaxTokens)
	}
	before := mlxtest.Measure(t)
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() { together[i].run(t.Context(), m, r.prompt, r.options) })
	}
	wg.Wait()
	require.Equal(t, before, mlxtest.Measure(t))
	same := 0
	for i := range requests {
		require.NoError(t, together[i].err)
		if requests[i].options.Solo {
			require.Equal(t, alone[i], together[i], "a solo request is computed alone")
		}
		if slices.Equal(alone[i].ids, together[i].ids) {
			same++
		}
		// A token is chosen from logits that may be rounded differently: up to the first token that
		// differs, if any, probabilities agree but for rounding.
		for k := range alone[i].ids {
			if alone[i].ids[k] != together[i].ids[k] {
				break
			}
			require.InDelta(t, alone[i].logprobs[k], together[i].logprobs[k], 0.15, "request %d, token %d", i, k)
		}
	}
	t.Logf("%d of %d requests have the same tokens in a batch", same, len(requests))
	if m.owner.Lease.Device().Name == "cpu" { // a GPU's sums of one row and of several differ more often
		require.GreaterOrEqual(t, same, len(requests)*3/4)
	}
	require.GreaterOrEqual(t, same, len(requests)/2)
}

func TestASlowReaderBlocksNoOtherStream(t *testing.T) {
	withAndWithoutSharedKV(t, testASlowReaderBlocksNoOtherStream)
}

func testASlowReaderBlocksNoOtherStream(t *testing.T, m *Model) {
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 200
	slow, tokens := make(chan struct{}), 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, o) {
			if tokens++; tokens == 1 {
				<-slow
			}
		}
	}()
	for range 3 {
		ids, _ := collect(t, m, "Where can I", func(o *engine.GenerateOptions) { o.MaxTokens = 50 })
		require.Len(t, ids, 50)
	}
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.LessOrEqual(t, metrics.GeneratedTokens, int64(150+1+decode.Lookahead+1), "the slow one is not computed far ahead")
	close(slow)
	<-done
	require.Equal(t, 200, tokens)
}

func TestManyRequestsThatEndInEveryWayLeaveNothingBehind(t *testing.T) {
	withAndWithoutSharedKV(t, testManyRequestsThatEndInEveryWayLeaveNothingBehind)
}

func testManyRequestsThatEndInEveryWayLeaveNothingBehind(t *testing.T, m *Model) {
	_, err := m.Classify(t.Context(), []string{"goal"}, domainOptions(t))
	require.NoError(t, err)
	before := mlxtest.Measure(t)
	var wg sync.WaitGroup
	requests := testenv.Number(t, "SOAK_REQUESTS", 300) / 12 // of each worker
	for worker := range 12 {
		wg.Go(func() {
			for i := range requests {
				ctx, cancel := context.WithCancel(t.Context())
				o := engine.DefaultGenerateOptions()
				o.IgnoreEOS, o.MaxTokens, o.TopLogProbs = true, 12, i%3
				o.Temperature = float32(i % 2)
				switch i % 5 {
				case 1:
					time.AfterFunc(time.Duration(worker)*time.Millisecond, cancel)
				case 2:
					o.MaxTokens = -1
				case 3:
					if _, err := m.Classify(ctx, []string{fmt.Sprint("text ", i)}, domainOptions(t)); err != nil {
						t.Error(err)
					}
				}
				n := 0
				for range m.Generate(ctx, engine.Prompt{Text: "Please check"}, o) {
					if n++; i%5 == 4 && n == 3 {
						break
					}
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.Equal(t, before, mlxtest.Measure(t))
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.Active)
	require.Zero(t, metrics.KVBytes)
}

func TestCloseEndsABatch(t *testing.T) {
	m := open(t)
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 2000
	answers, read := make([]answer, 6), make([]int, 6)
	closed := make(chan struct{})
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			for _, err := range m.Generate(context.Background(), engine.Prompt{Text: "Please"}, o) {
				answers[i].err = err
				if read[i]++; read[i] == o.MaxTokens/2 {
					<-closed // or a fast model would have answered before it is closed
				}
			}
		})
	}
	for { // until they are at work
		metrics, err := m.Metrics(t.Context())
		require.NoError(t, err)
		if metrics.GeneratedTokens > 60 {
			break
		}
	}
	require.NoError(t, m.Close())
	close(closed)
	within(t, wg.Wait)
	for _, a := range answers {
		require.ErrorIs(t, a.err, engine.ErrClosed)
	}
}

// panicking is a model whose passes over several rows panic.
type panicking struct{ decoder.Architecture }

func (p panicking) Hidden(s *mlxc.Scope, ids *mlxc.Array, pass *kv.Pass) *mlxc.Array {
	h := p.Architecture.Hidden(s, ids, pass)
	if ids.Dim(0) > 1 {
		panic("two are too many")
	}
	return h
}

func TestAPanicEndsTheStreamsOfItsPassAndNotTheModel(t *testing.T) {
	withAndWithoutSharedKV(t, testAPanicEndsTheStreamsOfItsPassAndNotTheModel)
}

func testAPanicEndsTheStreamsOfItsPassAndNotTheModel(t *testing.T, m *Model) {
	before := mlxtest.Measure(t)
	goOn := paused(t, m, 3)
	require.NoError(t, m.owner.Do(t.Context(), func() error { m.network.Arch = panicking{m.network.Arch}; return nil }))
	ended := 0
	for _, a := range goOn() {
		if a.err == nil { // one that was by itself until the others ended
			require.Len(t, a.ids, 256)
			continue
		}
		require.ErrorContains(t, a.err, "two are too many")
		ended++
	}
	require.GreaterOrEqual(t, ended, 2)
	require.Equal(t, before, mlxtest.Measure(t))
	ids, _ := collect(t, m, "Please", nil)
	require.Len(t, ids, 256)
}

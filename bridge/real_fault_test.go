//go:build unix

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// faultyModel is a copy of the trained model whose own code has faults: see tests/python/faulty_model.py.
func faultyModel(t *testing.T, faults map[string]string) string {
	t.Helper()
	dir := testenv.CopyModel(t)
	code, err := os.ReadFile(filepath.Join(testenv.Root(), "tests", "python", "faulty_model.py"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "faulty_model.py"), code, 0o644))
	data, err := json.Marshal(faults)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "faults.json"), data, 0o644))
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["model_file"] = "faulty_model.py" })
	return dir
}

// badToken is an id that no healthy stream of these tests makes or is given.
const badToken = 4100

func loadFaulty(t *testing.T, fault string, change ...func(*Options)) *Model {
	t.Helper()
	dir := faultyModel(t, map[string]string{strconv.Itoa(badToken): fault})
	return loadReal(t, append(change, func(o *Options) { o.TrustRemoteCode = true }), dir)
}

// badPrompt makes the model meet badToken at its second token.
func badPrompt() (engine.Prompt, engine.GenerateOptions) {
	o := longOptions(10)
	o.LogitBias = map[int32]float32{badToken: 1e6}
	return engine.Prompt{Text: "Please"}, o
}

// otherStreams are what runs beside a fault: greedy and seeded streams with every kind of option. They are longer than a worker may run ahead of
// readers that stand still.
func otherStreams() (prompts []string, options []engine.GenerateOptions) {
	for i, prompt := range []string{"Please check", "Where can I", "The team", "Soup with bread"} {
		o := longOptions(streamCredit + 30 + 5*i)
		if i%2 == 1 {
			o.Temperature, o.Seed, o.HasSeed, o.TopP, o.RepetitionPenalty = 1.1, uint64(i), true, 0.95, 1.2
		}
		prompts, options = append(prompts, prompt), append(options, o)
	}
	return prompts, options
}

var undisturbedOnce struct {
	sync.Mutex
	want [][]int32
}

// undisturbed is what the other streams give when each runs alone. All models of these tests have the same weights, so the
// first one's answer is kept.
func undisturbed(t *testing.T, m *Model) (want [][]int32) {
	t.Helper()
	undisturbedOnce.Lock()
	defer undisturbedOnce.Unlock()
	if undisturbedOnce.want != nil {
		return undisturbedOnce.want
	}
	defer func() { undisturbedOnce.want = want }()
	prompts, options := otherStreams()
	for i := range prompts {
		ids, err := collect(t.Context(), m, prompts[i], options[i])
		require.NoError(t, err)
		want = append(want, ids)
	}
	return want
}

// withOtherStreams runs these streams at once and checks that each is what it was alone. Once all streams are under way disturb is called,
// and their readers stand still until it calls goOn or returns, so that no stream is over before it is disturbed. A reader that stands
// still does not take its stream to another worker either.
func withOtherStreams(t *testing.T, m *Model, want [][]int32, disturb func(goOn func())) {
	t.Helper()
	prompts, options := otherStreams()
	var group, begun sync.WaitGroup
	begun.Add(len(prompts))
	disturbed := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(disturbed) })
	for i := range prompts {
		group.Go(func() {
			var ids []int32
			come := sync.OnceFunc(begun.Done)
			defer come() // where it fails
			for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: prompts[i]}, options[i]) {
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					break
				}
				if ids = append(ids, tok.ID); len(ids) == 5 && disturb != nil {
					come()
					<-disturbed
				}
			}
			if !equal(ids, want[i]) {
				t.Errorf("stream %d: with the others\n%v, alone\n%v", i, ids, want[i])
			}
		})
	}
	if disturb != nil {
		begun.Wait()
		disturb(goOn)
		goOn()
	}
	group.Wait()
}

func TestRealKillingRequestIsFoundAndOthersGoOn(t *testing.T) {
	dir := t.TempDir()
	m := loadFaulty(t, "die", func(o *Options) { o.QuarantineDir = dir })
	want := undisturbed(t, m)
	withOtherStreams(t, m, want, func(goOn func()) {
		prompt, o := badPrompt()
		var gaps atomic.Int64
		o.Events = func(e engine.Event) {
			if e.Kind == engine.EventGap { // the first worker is gone, and with the next one all go on
				gaps.Add(1)
				goOn()
			}
		}
		_, err := drain(t.Context(), m, prompt, o)
		require.ErrorIs(t, err, ErrQuarantined)
		require.ErrorContains(t, err, "signal: killed")
		require.EqualValues(t, 1, gaps.Load())
	})
	stat := m.Stat()
	require.EqualValues(t, 2, stat.Crashes)
	// The other streams once or twice, for some may be through before the second worker is gone, and the killer once.
	require.GreaterOrEqual(t, stat.Resumed, int64(5))
	require.LessOrEqual(t, stat.Resumed, int64(9))
	require.Empty(t, m.quarantine.suspects, "the other streams were not in the pass that ended the second worker")
	require.Equal(t, 1, stat.Quarantined)

	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	// The file brings the fault back, alone and without this program.
	cmd := exec.Command(testenv.Python(t), "-m", "go_mlx_worker.repro", files[0])
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(testenv.Root(), "python")+":"+os.Getenv("PYTHONPATH"), "HF_HUB_OFFLINE=1")
	err = cmd.Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())

	// Reset forgets the quarantine.
	require.NoError(t, m.Reset(t.Context()))
	require.Zero(t, m.Stat().Quarantined)
}

// Faults that a worker survives, one after the other in the same one.
func TestRealExceptionEndsOnlyItsRequest(t *testing.T) {
	const oomToken, printToken = badToken + 1, badToken + 2
	dir := faultyModel(t, map[string]string{strconv.Itoa(badToken): "raise", strconv.Itoa(oomToken): "oom", strconv.Itoa(printToken): "print"})
	m := loadReal(t, []func(*Options){func(o *Options) { o.TrustRemoteCode = true }}, dir)
	alone := undisturbed(t, m)
	for token, want := range map[int32]string{badToken: "this model does not like the token", oomToken: "MemoryError"} {
		t.Run(want, func(t *testing.T) {
			withOtherStreams(t, m, alone, func(func()) {
				prompt, o := badPrompt()
				o.LogitBias = map[int32]float32{token: 1e6}
				_, err := drain(t.Context(), m, prompt, o)
				require.NotErrorIs(t, err, ErrWorkerStopped)
				require.ErrorContains(t, err, want)
				if token == oomToken {
					require.ErrorIs(t, err, ErrOutOfMemory)
				}
			})
			require.Zero(t, m.Stat().Crashes)
			// The other streams go on by themselves; what comes now is batched again.
			withOtherStreams(t, m, alone, nil)
		})
	}
	t.Run("prints do not reach the frames", func(t *testing.T) {
		prompt, o := badPrompt()
		o.LogitBias = map[int32]float32{printToken: 1e6}
		ids, err := drain(t.Context(), m, prompt, o)
		require.NoError(t, err)
		require.Len(t, ids, 10)
	})
	t.Run("no token is lost when a pass fails", func(t *testing.T) { noTokenIsLost(t, m) })
}

func TestRealHungWorkerShowsItsStackAndOtherStreamsGoOn(t *testing.T) {
	m := loadFaulty(t, "hang", func(o *Options) { o.StallTimeout = 10 * time.Second })
	want := undisturbed(t, m)
	withOtherStreams(t, m, want, func(goOn func()) {
		prompt, o := badPrompt()
		o.Events = func(e engine.Event) {
			if e.Kind == engine.EventGap {
				goOn()
			}
		}
		_, err := drain(t.Context(), m, prompt, o)
		require.ErrorIs(t, err, ErrQuarantined)
		require.ErrorIs(t, err, ErrHung)
		require.ErrorContains(t, err, `no progress for`)
		require.ErrorContains(t, err, `faulty_model.py", line`)
		require.ErrorContains(t, err, "Thread 0x", "the stacks of all threads")
	})
}

func TestRealCrashShowsItsStack(t *testing.T) {
	m := loadFaulty(t, "crash")
	prompt, o := badPrompt()
	_, err := drain(t.Context(), m, prompt, o)
	require.ErrorIs(t, err, ErrQuarantined)
	require.ErrorContains(t, err, "segmentation fault")
	require.ErrorContains(t, err, `faulty_model.py", line`)
}

// A stopped process answers no signal but SIGKILL.
func TestRealStoppedWorkerIsReplaced(t *testing.T) {
	m := loadReal(t, []func(*Options){func(o *Options) { o.StallTimeout = 10 * time.Second }})
	want := undisturbed(t, m)
	withOtherStreams(t, m, want, func(func()) {
		require.NoError(t, syscall.Kill(pid(m), syscall.SIGSTOP))
	})
	require.EqualValues(t, 1, m.Stat().Crashes)
}

func TestRealStreamGoesOnWhereItsWorkerDied(t *testing.T) {
	m := loadReal(t, nil)
	const torn = 20
	plain := longOptions(torn + streamCredit + 10) // longer than the worker may run ahead of readers that wait for each other
	seeded := plain
	seeded.Temperature, seeded.Seed, seeded.HasSeed = 1.3, 77, true
	filtered := seeded
	filtered.TopP, filtered.MinP, filtered.TopK = 0.9, 0.02, 50
	penal := seeded
	penal.RepetitionPenalty, penal.PresencePenalty, penal.FrequencyPenalty, penal.RepetitionContext = 1.3, 0.4, 0.2, 64
	xtc := seeded
	xtc.XTCProbability, xtc.XTCThreshold = 0.5, 0.05
	probs := plain
	probs.LogProbs, probs.TopLogProbs, probs.Stop = true, 3, []string{"zzzz"}
	kinds := map[string]engine.GenerateOptions{
		"greedy": plain, "seeded": seeded, "filtered": filtered, "penalties": penal, "XTC": xtc, "log-probabilities": probs,
	}
	prompt := engine.Prompt{Text: "Please check the "}
	read := func(o engine.GenerateOptions, at func()) (tokens []engine.Token) {
		for tok, err := range m.Generate(t.Context(), prompt, o) {
			if err != nil {
				t.Error(err)
				return
			}
			if tokens = append(tokens, tok); len(tokens) == torn {
				at()
			}
		}
		return tokens
	}
	// Each kind alone, then all of them when their worker dies.
	whole := map[string][]engine.Token{}
	for name, o := range kinds {
		whole[name] = read(o, func() {})
	}
	tear := func(kinds map[string]engine.GenerateOptions) {
		victim := pid(m)
		var group, far sync.WaitGroup
		far.Add(len(kinds))
		for name, o := range kinds {
			group.Go(func() {
				var gaps []engine.Event
				o.Events = func(e engine.Event) {
					if e.Kind == engine.EventGap {
						gaps = append(gaps, e)
					}
				}
				got := read(o, func() {
					far.Done()
					far.Wait()
					_ = syscall.Kill(victim, syscall.SIGKILL)
				})
				if !assert.Equal(t, whole[name], got, name) || !assert.Len(t, gaps, 1, name) {
					return
				}
				assert.GreaterOrEqual(t, gaps[0].Done, int64(torn), name)
				assert.ErrorIs(t, gaps[0].Err, ErrWorkerStopped, name)
			})
		}
		group.Wait()
	}
	// In a batch the last bits of log-probabilities may differ, tokens may not.
	tear(map[string]engine.GenerateOptions{"log-probabilities": probs})
	delete(kinds, "log-probabilities")
	tear(kinds)
	require.EqualValues(t, 2, m.Stat().Crashes)
}

func TestRealCallsSurviveTheDeathOfTheirWorker(t *testing.T) {
	// Its worker dies in the pass that has the first token of the prompts, once, and not as long as this file is there.
	const firstToken = "2"
	once := filepath.Join(t.TempDir(), "once")
	require.NoError(t, os.WriteFile(once, nil, 0o600))
	dir := faultyModel(t, map[string]string{firstToken: "die", "once": once})
	m := loadReal(t, []func(*Options){func(o *Options) { o.TrustRemoteCode = true }}, dir)
	texts := testenv.Texts(t)[:30]
	o := engine.ClassifyOptions{Labels: testenv.Labels(t), Prompt: engine.DefaultLabelPrompt}
	want, err := m.Classify(t.Context(), texts, o)
	require.NoError(t, err)
	require.NoError(t, os.Remove(once))
	got, err := m.Classify(t.Context(), texts, o)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.FileExists(t, once)
	stat := m.Stat()
	require.EqualValues(t, 1, stat.Crashes)
	require.EqualValues(t, 1, stat.Resumed)
}

// Hundreds of requests (a thousand in `make test-slow`) cancelled at random moments, with streams beside them that must not notice.
func manyCancels(t *testing.T, m *Model) {
	want := undisturbed(t, m)
	rng := rand.New(rand.NewPCG(1, 2))
	total := 250
	if testenv.Slow() {
		total = 1000
	}
	long := make([]int32, 1500)
	for i := range long {
		long[i] = int32(100 + i%1000)
	}
	before := m.Stat().Stops.Count
	var left atomic.Int64 // streams that were left by their readers, of which the worker is told in any case
	withOtherStreams(t, m, want, func(goOn func()) {
		goOn()
		limit := make(chan struct{}, 24)
		var group sync.WaitGroup
		for i := range total {
			limit <- struct{}{}
			after := time.Duration(rng.ExpFloat64() * float64(15*time.Millisecond))
			way := rng.IntN(3)
			group.Go(func() {
				defer func() { <-limit }()
				ctx, cancel := context.WithTimeout(t.Context(), after)
				defer cancel()
				var err error
				switch way {
				case 0:
					_, err = drain(ctx, m, engine.Prompt{Text: "Please " + strconv.Itoa(i)}, longOptions(1000))
				case 1: // in prefill, more often than not
					_, err = drain(ctx, m, engine.Prompt{IDs: long}, longOptions(500))
				case 2:
					for range m.Generate(t.Context(), engine.Prompt{Text: "Go"}, longOptions(1000)) {
						if ctx.Err() != nil {
							left.Add(1)
							return
						}
					}
				}
				if err != context.DeadlineExceeded {
					t.Errorf("request %d, way %d: %v", i, way, err)
				}
			})
		}
		group.Wait()
	})
	require.Zero(t, m.counters.active.Load())
	require.Eventually(t, func() bool {
		s := m.Stat()
		return len(s.Workers) == 1 && s.Workers[0].Active == 0 && s.Workers[0].Phase == "idle"
	}, aWhile, 20*time.Millisecond)
	stat := m.Stat()
	require.Zero(t, stat.Crashes)
	require.Zero(t, stat.Waiting)
	// Of the others some end before they are sent, on a busy machine many.
	require.GreaterOrEqual(t, stat.Stops.Count-before, left.Load(), "cancels that reached the worker are acknowledged")
	require.Positive(t, left.Load())
	require.Positive(t, stat.Stops.Longest)
}

func TestFullDiskForTheReproFile(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies in mid-stream")
	m.quarantine.create = func(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_WRONLY, 0) }
	_, err := generateAll(t.Context(), m)
	var q *QuarantineError
	require.ErrorAs(t, err, &q)
	require.Empty(t, q.File)
	require.ErrorIs(t, q.FileErr, syscall.ENOSPC)
	require.ErrorContains(t, err, "no repro file")
	// The request is held all the same.
	_, err = generateAll(t.Context(), m)
	require.ErrorIs(t, err, ErrQuarantined)
	require.EqualValues(t, 2, m.Stat().Crashes)
}

// A disk that takes its time with a repro file keeps nobody waiting but those who ask for the same.
func TestASlowDiskForAReproFileDelaysNoOtherRequest(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies of poison")
	asked, disk := make(chan struct{}), make(chan struct{})
	m.quarantine.create = func(path string) (*os.File, error) {
		close(asked)
		<-disk
		return createPrivate(path)
	}
	ask := func(prompt string) error {
		_, err := drain(t.Context(), m, engine.Prompt{Text: prompt}, longOptions(3))
		return err
	}
	guilty := make(chan error, 2)
	go func() { guilty <- ask("poison") }()
	<-asked
	require.NoError(t, ask("harmless"))
	go func() { guilty <- ask("poison") }()
	require.NoError(t, ask("harmless, too"))
	require.Empty(t, guilty, "their error names the file")
	close(disk)
	for range 2 {
		var q *QuarantineError
		require.ErrorAs(t, <-guilty, &q)
		require.FileExists(t, q.File)
	}
}

// A stream that runs alone is joined by another whose prompt makes the pass fail, again and again: no token is lost.
func noTokenIsLost(t *testing.T, m *Model) {
	o := longOptions(120)
	want, err := collect(t.Context(), m, "Please check", o)
	require.NoError(t, err)
	var got []int32
	var group sync.WaitGroup
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please check"}, o) {
		require.NoError(t, err)
		if got = append(got, tok.ID); len(got)%30 == 10 {
			begun := make(chan struct{})
			group.Go(func() {
				close(begun)
				_, err := drain(t.Context(), m, engine.Prompt{IDs: []int32{5, badToken, 7, 8}}, longOptions(3))
				if err == nil || errors.Is(err, ErrWorkerStopped) {
					t.Errorf("the bad request: %v", err)
				}
			})
			<-begun
		}
	}
	group.Wait()
	require.Equal(t, want, got)
	require.Zero(t, m.Stat().Crashes)
}

// Every stream of a full worker goes on after its death, together, and who comes then waits no longer than for a slot.
func TestRealAllStreamsGoOnTogether(t *testing.T) {
	m := loadReal(t, []func(*Options){func(o *Options) { o.Queue = 4 }})
	const n, tokens = 16, streamCredit + 40 // more than the worker may run ahead of readers that stand still
	var group, begun sync.WaitGroup
	begun.Add(n)
	killed := make(chan struct{})
	for i := range n {
		group.Go(func() {
			come := sync.OnceFunc(begun.Done)
			defer come() // where it fails
			count := 0
			for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please check " + strconv.Itoa(i)}, longOptions(tokens)) {
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
				if count++; count == 5 {
					come()
					<-killed
				}
			}
			if count != tokens {
				t.Errorf("stream %d made %d tokens", i, count)
			}
		})
	}
	begun.Wait()
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGKILL))
	close(killed)
	_, err := drain(t.Context(), m, engine.Prompt{Text: "newcomer"}, longOptions(5))
	require.NoError(t, err)
	group.Wait()
	stat := m.Stat()
	require.EqualValues(t, 1, stat.Crashes)
	require.Zero(t, stat.Refused)
	require.GreaterOrEqual(t, stat.Resumed, int64(n), "all of them")
	require.LessOrEqual(t, stat.Resumed, int64(n+1), "and the newcomer, if it came before the death was noticed")
}

// The folder is replaced while a stream runs; the next worker would go on with other weights.
func TestRealStreamDoesNotGoOnWithOtherWeights(t *testing.T) {
	dir := testenv.CopyModel(t)
	m := loadReal(t, nil, dir)
	next := func() (stop func(), step func() (engine.Token, error, bool)) {
		step, stop = iter.Pull2(m.Generate(t.Context(), engine.Prompt{Text: "Please check"}, longOptions(200)))
		return stop, step
	}
	stop, step := next()
	defer stop()
	_, err, _ := step()
	require.NoError(t, err)
	weights := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(weights)
	require.NoError(t, err)
	data[len(data)-1] ^= 1
	require.NoError(t, os.WriteFile(weights, data, 0o600))
	require.NoError(t, syscall.Kill(pid(m), syscall.SIGKILL))
	for ok := true; ok && err == nil; {
		_, err, ok = step()
	}
	var changed *ModelChangedError
	require.ErrorAs(t, err, &changed)
	require.ErrorIs(t, err, ErrModelChanged)
	// A request that has made nothing yet is served by what is there now.
	_, err = drain(t.Context(), m, engine.Prompt{Text: "Please"}, longOptions(3))
	require.NoError(t, err)
}

// Workers end clean when they are asked to, without having to be pressed: their stdin stays open, and no signal is sent.
func endsCleanly(t *testing.T, m *Model) {
	w := m.pool.members[0].worker()
	require.NoError(t, w.conn.send(&bareRequest{head{Type: "shutdown"}}))
	select {
	case <-w.process.exited:
	case <-time.After(aWhile):
		t.Fatal("the worker was asked to end and did not")
	}
	require.Equal(t, "exit status 0", w.process.state)
}

// A model's folder is the working directory, and has modules of its own.
func TestRealWorkersImportNothingFromTheWorkingDirectory(t *testing.T) {
	dir := testenv.CopyModel(t)
	ran := filepath.Join(t.TempDir(), "ran")
	for _, name := range []string{"msgpack", "mlx", "go_mlx_worker", "runpy", "sitecustomize", "json"} {
		code := "open(" + strconv.Quote(ran) + ", 'a').write(__name__)\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".py"), []byte(code), 0o600))
	}
	t.Chdir(dir)
	t.Setenv("PYTHONPATH", dir)
	m := loadReal(t, nil, dir)
	_, err := drain(t.Context(), m, engine.Prompt{Text: "Please"}, longOptions(3))
	require.NoError(t, err)
	_, _, err = Inspect(t.Context(), testenv.Python(t))
	require.NoError(t, err)
	tool, err := NewTool(testenv.Python(t))
	require.NoError(t, err)
	probe, err := tool.Probe(t.Context(), ".", false)
	require.NoError(t, err)
	require.True(t, probe.Supported)
	require.NoFileExists(t, ran)
}

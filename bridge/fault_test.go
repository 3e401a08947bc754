//go:build unix

package bridge

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// aWhile is a bound for what has to come: a test that has waited so long says that it never does. It is no measure of speed.
const aWhile = 2 * time.Minute

var leaksWatched sync.Map

// noLeaks checks at the end of the test that no goroutine, file descriptor or child is left.
func noLeaks(t *testing.T) {
	t.Helper()
	startSpawner() // it stays
	openPoller(t)  // so does this
	if _, again := leaksWatched.LoadOrStore(t, true); again {
		return // a test with several models: the first one's check comes last
	}
	goroutines, fds, family := runtime.NumGoroutine(), openFiles(t), hasChildren() // a test around this one may have a worker
	t.Cleanup(func() {
		deadline := time.Now().Add(aWhile)
		for {
			g, f, children := runtime.NumGoroutine(), openFiles(t), !family && hasChildren()
			if g <= goroutines && f <= fds && !children {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("leak: goroutines %d -> %d, files %d -> %d, children %v", goroutines, g, fds, f, children)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

// openPoller makes Go's runtime open the files by which it waits for pipes, which it does for the first pipe: whichever test came first
// would seem to leave them behind.
func openPoller(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, w.Close())
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	require.NoError(t, err)
	return len(entries)
}

// hasChildren reports whether this process has a child, alive or not reaped.
func hasChildren() bool {
	var status syscall.WaitStatus
	_, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	return err != syscall.ECHILD
}

func generateAll(ctx context.Context, m *Model) (text string, err error) {
	for tok, e := range m.Generate(ctx, engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()) {
		text += tok.Text
		err = e
	}
	return text, err
}

// generateSlowly is the same with a reader that stands still until its worker is gone. One that reads on gives credit, and on a quick machine
// as fast as a worker sends.
func generateSlowly(t *testing.T, m *Model) (text string, err error) {
	t.Helper()
	crashes := m.Stat().Crashes
	for tok, e := range m.Generate(t.Context(), engine.Prompt{Text: "x"}, engine.DefaultGenerateOptions()) {
		text += tok.Text
		if err = e; tok.Text == "one " { // the first of each worker
			crashes++
			require.Eventually(t, func() bool { return m.Stat().Crashes == crashes }, aWhile, time.Millisecond)
		}
	}
	return text, err
}

func loadFake(t *testing.T, fault string, change ...func(*Options)) *Model {
	t.Helper()
	o := Options{QuarantineDir: t.TempDir()}
	for _, f := range change {
		f(&o)
	}
	m, err := load(t.Context(), "/nowhere", o, fakeCommand(fault, onceVariable+"="+filepath.Join(t.TempDir(), "once")))
	require.NoError(t, err)
	rememberDeaths(m)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// rememberDeaths lets a request that ended a worker be a suspect for as long as a slow machine takes to start the next one.
func rememberDeaths(m *Model) {
	m.quarantine.mu.Lock()
	defer m.quarantine.mu.Unlock()
	m.quarantine.suspicion = time.Hour
}

func TestWorkersThatNeverComeUp(t *testing.T) {
	noLeaks(t)
	for fault, want := range map[string][]string{
		"dies at start":     {"exit status 1", "No module named 'mlx_lm'", "pip install -r requirements.txt"},
		"is no worker":      {"exit status 0", "is " + os.Args[0] + " a Python with mlx-lm?"},
		"dies at load":      {"exit status 139", "Segmentation fault in the loader"},
		"prints on stdout":  {"broken frame", "is something printing"},
		"old version":       {fmt.Sprintf("protocol 0, this program %d", protocolVersion), "rebuild"},
		"old mlx-lm":        {"mlx-lm is 0.20.1, want 0.32.2", "-m pip install 'mlx-lm==0.32.2'"},
		"hangs in load":     {"hangs", `phase "load"`},
		"never says hello":  {"hangs", `phase "start"`},
		"no hello":          {"broke the protocol", "want hello"},
		"load without info": {"load without info"},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			o := Options{Workers: 2}
			if slices.Contains(want, "hangs") {
				o.StallTimeout = stall
			}
			_, err := load(t.Context(), "/nowhere", o, fakeCommand(fault))
			require.Error(t, err)
			for _, part := range want {
				require.ErrorContains(t, err, part)
			}
		})
	}
}

func TestStartCanBeGivenUp(t *testing.T) {
	noLeaks(t)
	for _, fault := range []string{"never says hello", "hangs in load"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		cmd := fakeCommand(fault)
		cmd.down = &steps{ask: aWhile, grace: aWhile, term: aWhile}
		_, err := load(ctx, "/nowhere", Options{}, cmd)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(start), aWhile, "%s: it is not asked first", fault)
	}
}

func TestTooFewOpenFilesForAWorkerAreTold(t *testing.T) {
	noLeaks(t)
	cmd := fakeCommand("default")
	cmd.spawn = func(*exec.Cmd) error { return &os.PathError{Op: "fork/exec", Path: cmd.name, Err: syscall.EMFILE} }
	_, err := load(t.Context(), "/nowhere", Options{}, cmd)
	require.ErrorIs(t, err, ErrWorkerStopped)
	require.ErrorIs(t, err, syscall.EMFILE)
	require.ErrorContains(t, err, "ulimit -n")
}

func TestMissingPrograms(t *testing.T) {
	noLeaks(t)
	_, err := load(t.Context(), "/nowhere", Options{}, command{name: "/no/such/python"})
	require.ErrorIs(t, err, ErrWorkerStopped)
	require.ErrorContains(t, err, "no such file")
	_, err = FindPython("/no/such/python")
	require.ErrorIs(t, err, ErrNoPython)
	t.Setenv(PythonVariable, "/no/such/python")
	_, err = FindPython("")
	require.ErrorIs(t, err, ErrNoPython)
	require.ErrorContains(t, err, PythonVariable)
}

// A request whose workers die under it is tried twice, then kept from further ones.
func TestFaultsInMidStream(t *testing.T) {
	noLeaks(t)
	for fault, want := range map[string][]string{
		"dies at prefill":       {"exit status 1"},
		"dies in mid-stream":    {"exit status 1", "RuntimeError: out of memory"},
		"is killed":             {"signal: killed", "memory ran out"},
		"dies in mid-write":     {"cut off in a frame of 1024 bytes"},
		"cuts a frame":          {"broken frame", "cut off in a frame of 50 bytes"},
		"oversize frame":        {"broken frame", "2147483647 bytes"},
		"garbage in mid-stream": {"broken frame"},
		"bad msgpack":           {"broken frame", "msgpack"},
		"sends too much":        {"broke the protocol", "without credit"},
		"unknown message":       {"broke the protocol", "surprise"},
		"closes its pipes":      {"hangs", "phase"},
		"no heartbeat":          {"no heartbeat for", `phase "decode"`},
		"no progress":           {"no progress for", `phase "decode"`},
		"exits over a child":    {"exit status 1"},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			m := loadFake(t, fault, func(o *Options) {
				if slices.Contains([]string{"closes its pipes", "no heartbeat", "no progress"}, fault) {
					o.StallTimeout = stall
				}
			})
			generate := func() (string, error) { return generateAll(t.Context(), m) }
			if fault == "sends too much" {
				generate = func() (string, error) { return generateSlowly(t, m) }
			}
			text, err := generate()
			require.ErrorIs(t, err, ErrWorkerStopped)
			require.ErrorIs(t, err, ErrQuarantined)
			if fault != "dies at prefill" {
				require.True(t, strings.HasPrefix(text, "one "), "what came before the fault arrived: %q", text)
			}
			for _, part := range want {
				require.ErrorContains(t, err, part)
			}
			stat := m.Stat()
			require.EqualValues(t, 2, stat.Crashes)
			require.EqualValues(t, 1, stat.Resumed)
			require.Equal(t, 1, stat.Quarantined)
			require.Zero(t, stat.Waiting)
			require.Zero(t, m.counters.active.Load())
			// The same request is not given to a third worker.
			_, err = generate()
			require.ErrorIs(t, err, ErrQuarantined)
			require.EqualValues(t, 2, m.Stat().Crashes)
			// After a while it is tried once more, and held for longer.
			for _, h := range m.quarantine.held {
				require.Equal(t, holdFirst, h.wait)
				h.until = time.Now()
			}
			_, err = generate()
			require.ErrorIs(t, err, ErrQuarantined)
			require.EqualValues(t, 3, m.Stat().Crashes)
			for _, h := range m.quarantine.held {
				require.Equal(t, 2*holdFirst, h.wait)
			}
		})
	}
}

func TestQuarantineEndsWhenTheRequestIsServed(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "counts and dies once")
	o := engine.DefaultGenerateOptions()
	prompt := engine.Prompt{Text: "x"}
	frame, err := generateFrame(prompt, o)
	require.NoError(t, err)
	frame.Seed = 0
	key, err := keyOf(frame)()
	require.NoError(t, err)
	m.quarantine.held = map[requestKey]*heldRequest{key: {err: &QuarantineError{Err: ErrWorkerStopped}, until: time.Now().Add(time.Hour)}}
	_, err = drain(t.Context(), m, prompt, o)
	require.ErrorIs(t, err, ErrQuarantined)
	m.quarantine.held[key].until = time.Now()
	// The fault that happens once happens to another request.
	_, err = drain(t.Context(), m, engine.Prompt{Text: "another"}, o)
	require.NoError(t, err)
	require.EqualValues(t, 1, m.Stat().Crashes)
	_, err = drain(t.Context(), m, prompt, o)
	require.NoError(t, err)
	require.Zero(t, m.Stat().Quarantined)
}

func TestFaultsOfOneRequestLeaveTheWorkerAlive(t *testing.T) {
	for fault, want := range map[string]string{
		"remote error":       "ValueError: no",
		"result in a stream": "\"result\" in a stream of tokens",
		"unknown finish":     "finish reason \"bored\"",
	} {
		t.Run(fault, func(t *testing.T) {
			noLeaks(t)
			m := loadFake(t, fault)
			for range 2 {
				_, err := generateAll(t.Context(), m)
				require.ErrorContains(t, err, want)
				require.NotErrorIs(t, err, ErrWorkerStopped)
			}
			require.Equal(t, 1, m.pool.workers())
			require.Zero(t, m.Stat().Crashes)
		})
	}
}

func TestWorkersSurviveHarmlessFaults(t *testing.T) {
	noLeaks(t)
	for _, fault := range []string{"replies to nobody", "floods stderr", "healthy", "ends twice", "starts slowly", "loads for long", "slow but working"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			m := loadFake(t, fault, func(o *Options) { o.StallTimeout = stall })
			text, err := generateAll(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, "one two", text)
			require.Zero(t, m.Stat().Crashes)
		})
	}
}

func TestTooFewScoresAreAnError(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "too few scores")
	o := engine.ClassifyOptions{Labels: []string{"a", "b"}, Prompt: engine.DefaultLabelPrompt}
	_, err := m.Classify(t.Context(), []string{"x", "y", "z"}, o)
	require.ErrorContains(t, err, "scores for 1 texts, want 3")
}

func TestHangingWorkersDoNotHangTheirCallers(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "hangs")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := generateAll(ctx, m)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), time.Minute, "half of StallTimeout")
}

func TestCloseEndsStreamsAndStubbornProcesses(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "ignores SIGTERM")
	result := make(chan error)
	go func() {
		_, err := generateAll(context.Background(), m)
		result <- err
	}()
	require.Eventually(t, func() bool { return m.counters.active.Load() == 1 }, aWhile, time.Millisecond)
	require.NoError(t, m.Close())
	require.ErrorIs(t, <-result, engine.ErrClosed)
	require.NoError(t, m.Close())
	_, err := generateAll(t.Context(), m)
	require.ErrorIs(t, err, engine.ErrClosed)
}

// docs/supervisor.md lists what passes, and nothing else does.
func TestTheDocumentedEnvironmentIsTheRealOne(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "supervisor.md"))
	require.NoError(t, err)
	rows := map[string][]string{}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			for i, part := range strings.Split(cells[2], "`") {
				if i%2 == 1 {
					rows[strings.TrimSpace(cells[1])] = append(rows[strings.TrimSpace(cells[1])], part)
				}
			}
		}
	}
	require.ElementsMatch(t, passed, rows["always"])
	require.ElementsMatch(t, passedPrefixes, rows["always, by prefix"])
	require.ElementsMatch(t, passedOnline, rows["with `Online`"])
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		t.Setenv(name, "")
		require.NoError(t, os.Unsetenv(name))
	}
	require.ElementsMatch(t, append(environment(false), "Online"), rows["set"]) // the name of the option is in that row, too
}

func TestWorkersGetAMinimalEnvironment(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "x")
	t.Setenv("HF_HUB_OFFLINE", "0")
	t.Setenv("MLX_TEST", "y")
	t.Setenv("HF_TOKEN", "secret")
	t.Setenv("PYTHONPATH", "/foreign")
	t.Setenv("HF_HOME", "/hf")
	env := environment(false)
	joined := strings.Join(env, "\n")
	require.NotContains(t, joined, "SECRET_TOKEN")
	require.NotContains(t, joined, "HF_HUB_OFFLINE=0")
	require.Contains(t, env, "HF_HUB_OFFLINE=1")
	require.Contains(t, env, "MLX_TEST=y")
	require.NotContains(t, joined, "HF_TOKEN")
	require.NotContains(t, joined, "PYTHONPATH")
	require.Contains(t, env, "PYTHONSAFEPATH=1")
	require.Contains(t, env, "HF_HOME=/hf")
	online := environment(true)
	require.NotContains(t, strings.Join(online, "\n"), "OFFLINE")
	require.Contains(t, online, "HF_TOKEN=secret")
}

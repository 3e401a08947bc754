package bridge

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
)

// command is how a worker is started.
type command struct {
	name      string
	args, env []string
	dir       string                 // the working directory; empty for the worker's own, where nothing foreign is imported from
	spawn     func(*exec.Cmd) error  // how it is started so that it ends with this program; nil for the system's way
	down      *steps                 // how it is ended; nil for the usual way
	source    func() (string, error) // makes sure that the worker's files are on disk, and says in which folder; nil for a program that needs none
}

// ready is the command for one start. What the first worker found on disk may be gone or changed when the next one is started: folders
// for temporary files and caches are cleared at any time.
func (c command) ready() (command, error) {
	if c.source != nil {
		source, err := c.source()
		if err != nil {
			return c, err
		}
		c.args, c.dir = moduleArguments(source, "go_mlx_worker"), cmp.Or(c.dir, source)
	}
	if c.dir != "" {
		if _, err := os.Stat(c.dir); err != nil { // the system would say that the interpreter is missing
			return c, fmt.Errorf("bridge: working directory of a worker: %w", err)
		}
	}
	return c, nil
}

// on is the command with what makes the worker compute on a device.
func (c command) on(device string) command {
	c.env = append(slices.Clip(c.env), deviceEnvironment(device)...)
	return c
}

// worker is one process that has said hello.
type worker struct {
	device   string // that it was started for; "" for MLX's default
	process  *process
	conn     *conn
	watchdog *watchdog
	versions Versions
	info     *workerInfo // set by load

	stopping atomic.Bool // the process is ended on purpose

	mu       sync.Mutex      // guards what follows
	cause    error           // why the supervisor killed it; nil if it did not
	underWay map[*job]uint64 // requests under way with a slot, and their ids; of a worker that died, those that it then had
	givenUp  map[uint64]*job // by id: requests that were given up, and that the worker may not be through with
}

// startWorker starts a process and waits for its hello. A worker that gives no sign of life for stall is
// given up.
func startWorker(ctx context.Context, cmd command, stall time.Duration, told listener) (*worker, error) {
	p, err := startProcess(cmd, told)
	if err != nil {
		e := &WorkerError{State: "could not be started", Hint: err.Error(), Err: err}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			e.Hint += ": let this program have more of them (`ulimit -n`)"
		}
		return nil, e
	}
	w := &worker{underWay: map[*job]uint64{}, givenUp: map[uint64]*job{}, process: p, conn: newConn(p.stdin)}
	w.watchdog = newWatchdog(stall, func() int64 { return p.log.size() }, w.hung)
	w.conn.onBeat = func(m *message) {
		w.watchdog.beat(m)
		if told.beat != nil {
			told.beat(m)
		}
	}
	w.conn.onSettled = told.settled
	hello := make(chan *message, 1)
	go w.watch(hello)
	go w.watchdog.run(p.ended)
	first, err := w.greeting(ctx, hello)
	switch {
	case err == nil:
		w.versions = first.Versions
		err = checkVersions(cmd.name, w.versions)
	case ctx.Err() != nil:
		w.kill()
		return nil, ctx.Err()
	}
	if err == nil {
		return w, nil
	}
	w.stop()
	var ended *WorkerError
	if errors.As(err, &ended) && ended.Hint == "" && ended.Err == nil {
		told := *ended
		told.Hint = "it ended before it said hello; is " + cmd.name + " a Python with mlx-lm?"
		err = &told
	}
	return nil, err
}

// greeting waits for the worker's hello. That of a worker which ended right afterwards counts: why it ended is seen by whoever asks it next.
func (w *worker) greeting(ctx context.Context, hello <-chan *message) (*message, error) {
	select {
	case m := <-hello:
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.conn.done:
	}
	select {
	case m := <-hello:
		return m, nil
	default:
		return nil, w.conn.failure()
	}
}

// watch reads the worker's messages to their end, waits for the end of the process, and fails what is
// under way.
func (w *worker) watch(hello chan<- *message) {
	out := bufio.NewReaderSize(w.process, 64<<10) // a frame in one read
	first, err := readFrame(out)
	if err == nil && first.Type != "hello" {
		err = fmt.Errorf("%w: first message is %q, want hello", errProtocol, first.Type)
	}
	if err == nil {
		hello <- first
		err = w.conn.serve(out)
	}
	if !errors.Is(err, io.EOF) {
		// The session cannot go on, so neither can the process; its pipe is read out so that it does
		// not hang on it meanwhile.
		w.killFor(err)
	}
	_, _ = io.Copy(io.Discard, w.process)
	<-w.process.exited
	_ = w.process.stdout.Close()
	w.conn.fail(w.explain())
}

// killFor kills the process and remembers why; the first reason counts.
func (w *worker) killFor(cause error) {
	w.mu.Lock()
	if w.cause == nil {
		w.cause = cause
	}
	w.mu.Unlock()
	w.process.kill()
}

// hung kills a worker that makes no progress, after it was asked for its stack.
func (w *worker) hung(why error) {
	before := w.process.log.size()
	w.process.signal(stackSignal)
	awaitStack(func() int64 { return w.process.log.size() - before })
	w.killFor(why)
}

const (
	stackBegins = time.Second            // in which a worker that can print its stack begins to
	stackQuiet  = 250 * time.Millisecond // without output after which the stack is whole: on a busy machine it comes in pieces
	stackMost   = 5 * time.Second
)

// awaitStack waits until a worker has printed its stack; printed is how many bytes have come. The stack is printed by a signal handler, so also if
// Python itself is stuck. A stopped process prints nothing.
func awaitStack(printed func() int64) {
	const tick = 25 * time.Millisecond
	last, quiet := int64(0), time.Duration(0)
	for waited := time.Duration(0); waited < stackMost; waited += tick {
		time.Sleep(tick)
		size := printed()
		if size != last {
			last, quiet = size, 0
			continue
		}
		if quiet += tick; quiet >= stackQuiet && last > 0 || quiet >= stackBegins {
			return
		}
	}
}

// explain says why the session ended, in the caller's terms.
func (w *worker) explain() error {
	if w.stopping.Load() {
		return engine.ErrClosed
	}
	w.mu.Lock()
	cause := w.cause
	w.mu.Unlock()
	e := &WorkerError{State: w.process.state, Stderr: w.process.log.String(), Err: cause}
	switch {
	case cause != nil:
		e.State = cause.Error()
	case strings.Contains(e.Stderr, "No module named"):
		e.Hint = "this Python lacks a module of requirements.txt: run `make build`, or `pip install -r requirements.txt` in the environment that " + PythonVariable + " names"
	case strings.Contains(e.State, "signal: killed"):
		e.Hint = "killed from outside, most often because memory ran out"
	}
	return e
}

// enter notes that a request is under way, and under which id.
func (w *worker) enter(j *job, id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underWay[j] = id
	maps.DeleteFunc(w.givenUp, func(id uint64, _ *job) bool { return w.alive() && !w.conn.lingers(id) })
}

// leave notes that a request is over. A dead worker keeps the requests that it then had: they are the suspects.
func (w *worker) leave(j *job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, found := w.underWay[j]
	if !found || !w.alive() {
		return
	}
	delete(w.underWay, j)
	if w.conn.lingers(id) {
		w.givenUp[id] = j.afterwards()
	}
}

// suspect says whether a request can be what ended the worker, and whether nothing else can: it was in what the worker was
// computing, and all that was is this request and its equals. Called after the worker's death.
func (w *worker) suspect(j *job) (suspected, alone bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	id, sent := w.underWay[j]
	if !sent {
		return false, false, nil
	}
	return w.judge(j, id)
}

// suspectsGivenUp are the requests that were given up and can be what ended the worker, and whether each was alone. Called after the
// worker's death.
func (w *worker) suspectsGivenUp() map[*job]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	found := map[*job]bool{}
	for id, j := range w.givenUp {
		if suspected, alone, err := w.judge(j, id); suspected && err == nil && w.conn.lingers(id) {
			found[j] = alone
		}
	}
	return found
}

// judge is suspect for a request with an id. Caller must hold w.mu.
func (w *worker) judge(j *job, id uint64) (suspected, alone bool, err error) {
	if !w.conn.computed(id) {
		return false, false, nil
	}
	own, err := j.key()
	if err != nil {
		return true, false, err
	}
	others := map[uint64]*job{}
	for other, id := range w.underWay {
		others[id] = other
	}
	for id, other := range w.givenUp {
		if w.conn.lingers(id) {
			others[id] = other
		}
	}
	for id, other := range others {
		if !w.conn.computed(id) {
			continue
		}
		if key, err := other.key(); err != nil || key != own {
			return true, false, err
		}
	}
	return true, true, nil
}

func (w *worker) alive() bool { return w.conn.failure() == nil }

func (w *worker) done() <-chan struct{} { return w.conn.done }

func (w *worker) failure() error { return w.conn.failure() }

func (w *worker) weights() string { return w.info.Fingerprint }

// busyUntil gives the watchdog time to find that the worker hangs, if it does not say that it is through with what was cancelled. If it
// were ended as idle before that, nobody would be blamed, and the next worker would get the same request again.
func (w *worker) busyUntil() time.Time {
	at, lingering := w.conn.lastCancel()
	if !lingering {
		return time.Time{}
	}
	return at.Add(2 * w.watchdog.stall)
}

// load makes the worker load a model; onProgress sees how many bytes are loaded.
func (w *worker) load(ctx context.Context, r loadRequest, onProgress func(*message)) error {
	r.head = head{Type: "load"}
	m, err := w.conn.call(ctx, &r, onProgress)
	if err != nil {
		return err
	}
	if m.Info == nil {
		return fmt.Errorf("%w: load without info", errProtocol)
	}
	w.info = m.Info
	return nil
}

// stop ends the process the gentle way first and returns when it is reaped.
func (w *worker) stop() {
	w.stopping.Store(true)
	w.process.stop(func() { _ = w.conn.send(&bareRequest{head{Type: "shutdown"}}) })
	<-w.conn.done
}

// kill ends the process at once.
func (w *worker) kill() {
	w.stopping.Store(true)
	w.process.kill()
	<-w.conn.done
}

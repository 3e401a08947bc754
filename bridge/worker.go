package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// command is how a worker is started.
type command struct {
	name      string
	args, env []string
}

// worker is one process that has said hello.
type worker struct {
	process  *process
	conn     *conn
	versions versions
	active   atomic.Int64 // requests under way
	stopping atomic.Bool  // the end of the process is wanted
}

// startWorker starts a process and waits for its hello.
func startWorker(ctx context.Context, cmd command) (*worker, error) {
	p, err := startProcess(cmd.name, cmd.args, cmd.env)
	if err != nil {
		return nil, &WorkerError{State: "could not be started", Hint: err.Error()}
	}
	w := &worker{process: p, conn: newConn(p.stdin)}
	hello := make(chan *message, 1)
	go w.watch(hello)
	select {
	case m := <-hello:
		if m.Versions.Protocol != protocolVersion {
			w.stop()
			return nil, &WorkerError{
				State: fmt.Sprintf("it speaks protocol %d, this program %d", m.Versions.Protocol, protocolVersion),
				Hint:  "the worker files and the program are of different versions: rebuild the program",
			}
		}
		w.versions = m.Versions
		return w, nil
	case <-w.conn.done:
		err := w.conn.failure()
		w.stop()
		return nil, err
	case <-ctx.Done():
		w.kill()
		return nil, ctx.Err()
	}
}

// watch reads the worker's messages to their end, reaps the process, and fails what is under way.
func (w *worker) watch(hello chan<- *message) {
	first, err := readFrame(w.process.stdout)
	if err == nil && first.Type != "hello" {
		err = fmt.Errorf("%w: first message is %q, want hello", errProtocol, first.Type)
	}
	if err == nil {
		hello <- first
		err = w.conn.serve(w.process.stdout)
	}
	if !errors.Is(err, io.EOF) {
		// The session cannot go on, so neither can the process; its pipe is read out so that it does
		// not hang on it meanwhile.
		_ = w.process.stdin.Close()
		w.process.kill()
	}
	_, _ = io.Copy(io.Discard, w.process.stdout)
	w.process.wait()
	w.conn.fail(w.explain(err))
}

// explain says why the session ended, in the caller's terms.
func (w *worker) explain(err error) error {
	if w.stopping.Load() {
		return engine.ErrClosed
	}
	e := &WorkerError{State: w.process.state, Stderr: w.process.stderr.String()}
	if !errors.Is(err, io.EOF) {
		e.State = err.Error()
	}
	switch {
	case strings.Contains(e.Stderr, "No module named"):
		e.Hint = "this Python lacks a module of requirements.txt: run `make build`, or `pip install -r requirements.txt` in the environment that " + PythonVariable + " names"
	case strings.Contains(e.State, "signal: killed") && errors.Is(err, io.EOF):
		e.Hint = "killed from outside, most often because memory ran out"
	}
	return e
}

func (w *worker) alive() bool { return w.conn.failure() == nil }

// load makes the worker load a model.
func (w *worker) load(ctx context.Context, path string, trust bool) (*workerInfo, error) {
	m, err := w.conn.call(ctx, &loadRequest{head: head{Type: "load"}, Path: path, TrustRemoteCode: trust}, nil)
	if err != nil {
		return nil, err
	}
	if m.Info == nil {
		return nil, fmt.Errorf("%w: load without info", errProtocol)
	}
	return m.Info, nil
}

// stop ends the process the gentle way first and returns when it is reaped.
func (w *worker) stop() {
	w.stopping.Store(true)
	w.process.stop(func() { go func() { _ = w.conn.send(&bareRequest{head{Type: "shutdown"}}) }() })
	<-w.conn.done
}

// kill ends the process at once.
func (w *worker) kill() {
	w.stopping.Store(true)
	w.process.kill()
	<-w.conn.done
}

package bridge

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is a child in a process group of its own. Frames go over two pipes; its stderr is a terminal,
// so that progress bars are drawn as they would be for a person.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	log    *outputLog

	down   steps
	ended  chan struct{} // closed when the process is reaped
	exited chan struct{} // closed when its output is read too
	state  string        // how it ended; set before ended is closed
	once   sync.Once
}

// steps is how long each step of ending a process gets before the next step.
type steps struct {
	ask   time.Duration // after a shutdown message
	grace time.Duration // after stdin was closed
	term  time.Duration // after SIGTERM
}

var usualSteps = steps{ask: 500 * time.Millisecond, grace: 2 * time.Second, term: 2 * time.Second}

// drainPeriod is how long output may still come when the process is gone: a process that it started
// and that left its group may hold the pipes open.
const drainPeriod = time.Second

// startProcess starts a command. The caller reads stdout to its end.
func startProcess(cmd command, told listener) (*process, error) {
	p := &process{down: usualSteps, ended: make(chan struct{}), exited: make(chan struct{})}
	if cmd.down != nil {
		p.down = *cmd.down
	}
	var childIn, childOut, childErr *os.File
	parent, child := []*os.File{}, []*os.File{}
	closeAll := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close()
		}
	}
	open := func() (err error) {
		if childIn, p.stdin, err = os.Pipe(); err != nil {
			return err
		}
		parent, child = append(parent, p.stdin), append(child, childIn)
		if p.stdout, childOut, err = os.Pipe(); err != nil {
			return err
		}
		parent, child = append(parent, p.stdout), append(child, childOut)
		var terminal *os.File
		if terminal, childErr, err = openTerminal(); err != nil {
			return err
		}
		parent, child = append(parent, terminal), append(child, childErr)
		p.log = newOutputLog(terminal, told)
		p.cmd = exec.Command(cmd.name, cmd.args...)
		p.cmd.Env, p.cmd.Dir = cmd.env, cmd.dir
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = childIn, childOut, childErr
		if cmd.spawn != nil {
			return cmd.spawn(p.cmd)
		}
		return spawn(p.cmd)
	}
	err := open()
	closeAll(child)
	if err != nil {
		closeAll(parent)
		return nil, err
	}
	go p.log.read()
	go p.reap()
	return p, nil
}

// reap waits for the end of the process, then of what is left of its group, then of its output.
func (p *process) reap() {
	err := p.cmd.Wait()
	switch {
	case p.cmd.ProcessState != nil:
		p.state = p.cmd.ProcessState.String()
	case err != nil:
		p.state = err.Error()
	}
	close(p.ended)
	p.kill()
	deadline := time.Now().Add(drainPeriod)
	_ = p.stdout.SetReadDeadline(deadline)
	p.log.finish(deadline)
	_ = p.stdin.Close()
	close(p.exited)
}

// Read reads stdout. A read that the deadline ended counts as the end of the stream.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.stdout.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, os.ErrClosed) {
		err = io.EOF
	}
	return n, err
}

// stop ends the process: it is asked to, then its stdin is closed, then its group gets SIGTERM, then
// SIGKILL. It returns when the process is reaped. ask must not wait.
func (p *process) stop(ask func()) {
	p.once.Do(func() {
		ask()
		if p.gone(p.down.ask) {
			return
		}
		_ = p.stdin.Close()
		if p.gone(p.down.grace) {
			return
		}
		p.signal(syscall.SIGTERM)
		if p.gone(p.down.term) {
			return
		}
		p.kill()
	})
	<-p.exited
}

func (p *process) gone(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
		return false
	}
}

// kill ends the whole group at once.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

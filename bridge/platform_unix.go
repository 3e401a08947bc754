//go:build unix

package bridge

import (
	"os"
	"syscall"

	"github.com/creack/pty"
)

// platform returns an error where workers cannot run.
func platform() error { return nil }

// stackSignal makes a worker print the Python stack of all its threads.
const stackSignal = syscall.SIGUSR1

// signal reaches the whole group, so that what the worker started ends with it.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// openTerminal opens a pseudo-terminal for a worker's stderr.
func openTerminal() (terminal, child *os.File, err error) {
	if terminal, child, err = pty.Open(); err != nil {
		return nil, nil, err
	}
	// Wide enough that progress bars keep their figures.
	_ = pty.Setsize(child, &pty.Winsize{Rows: 24, Cols: 160})
	// Opened this way the descriptor blocks in read, and closing it would not wake the reader.
	syscall.ForkLock.RLock() // no worker that starts meanwhile inherits it
	fd, err := syscall.Dup(int(terminal.Fd()))
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	_ = terminal.Close()
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		_ = child.Close()
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "terminal"), child, nil
}

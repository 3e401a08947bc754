//go:build !unix

package bridge

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Workers need a terminal for their progress bars, a process group that ends as a whole, and a signal that shows what hangs;
// there is no code for what other systems have in their place (on Windows job objects and ConPTY). MLX's wheels have no Windows
// build either.

// platform returns an error where workers cannot run.
func platform() error {
	return fmt.Errorf("%w on %s; use Linux, macOS or the Windows Subsystem for Linux", ErrPlatform, runtime.GOOS)
}

const stackSignal = syscall.Signal(0)

func (p *process) signal(syscall.Signal) { _ = p.cmd.Process.Kill() }

func openTerminal() (terminal, child *os.File, err error) { return nil, nil, platform() }

func spawn(*exec.Cmd) error { return platform() }

func startSpawner() {}

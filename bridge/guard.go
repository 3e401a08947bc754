//go:build unix

package bridge

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// guardScript waits until the pipe that is its stdin ends and then kills its process group. What stop and the watchdog send to the
// group does not end it from "ready" on.
const guardScript = `trap '' HUP INT TERM USR1; echo ready; read -r line; kill -KILL 0`

// spawnGuarded starts a command in a process group of its own, and beside it, in the same group, a shell that reads a pipe whose
// other end only this program has. However this program dies, the kernel closes that end and the shell kills the group, also a
// worker that hangs with Python's lock held and looks at nothing. Linux needs no such help: see spawn_linux.go.
func spawnGuarded(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := startGuard(cmd.Process.Pid); err != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return errors.Join(err, cmd.Wait())
	}
	return nil
}

// startGuard starts the shell. It ends when the group is killed, which is done after every worker's end.
func startGuard(group int) error {
	read, write, err := os.Pipe() // closed in every process that is started
	if err != nil {
		return err
	}
	guard := exec.Command("/bin/sh", "-c", guardScript)
	guard.Env, guard.Stdin = []string{}, read
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: group}
	ready, err := guard.StdoutPipe()
	if err == nil {
		err = guard.Start()
	}
	_ = read.Close()
	if err != nil {
		_ = write.Close()
		return err
	}
	_, err = ready.Read(make([]byte, 1))
	go func() {
		_ = guard.Wait() // how it ended does not matter
		_ = write.Close()
	}()
	if err != nil {
		return fmt.Errorf("/bin/sh, which ends a worker with its program: %w", err)
	}
	return nil
}

//go:build unix && !linux

package bridge

import (
	"os/exec"
	"syscall"
)

// spawn starts a command in a process group of its own. When this program dies, the end of the worker's
// stdin ends the worker; its heartbeat looks for its parent too.
func spawn(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd.Start()
}

func startSpawner() {}

package bridge

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// spawn starts a command in a process group of its own. The kernel kills it when this program dies,
// however it dies and whatever the worker is doing. That signal is tied to the thread that forked, so all
// forks are made by one thread that lives as long as the program.
func spawn(cmd *exec.Cmd) error {
	startSpawner()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	result := make(chan error, 1)
	spawns <- func() { result <- cmd.Start() }
	return <-result
}

var (
	spawns       = make(chan func())
	startSpawner = sync.OnceFunc(func() { go serveSpawns() })
)

// serveSpawns runs for as long as the program does.
func serveSpawns() {
	runtime.LockOSThread()
	for start := range spawns {
		start()
	}
}

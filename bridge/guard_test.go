//go:build unix

package bridge

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// guardedVariable makes this test binary start a guarded process and wait to be killed.
const guardedVariable = "GUARDED"

// runGuarded starts a process that looks at nothing, says its number and waits.
func runGuarded() {
	cmd := exec.Command("/bin/sh", "-c", "trap '' HUP INT TERM USR1; echo ready; while :; do sleep 1000; done")
	ready, err := cmd.StdoutPipe()
	if err == nil {
		err = spawnGuarded(cmd)
	}
	if err == nil {
		_, err = ready.Read(make([]byte, 1))
	}
	if err != nil {
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString(strconv.Itoa(cmd.Process.Pid) + "\n")
	select {}
}

// lives reports whether a process is there. Where /proc tells, one that ended and that nobody has reaped is not.
func lives(pid int) bool {
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		return running(pid)
	}
	return syscall.Kill(pid, 0) == nil
}

// How workers end with the program where the kernel does not see to it. It is what macOS uses, and runs on every Unix.
func TestAGuardEndsAWorkerWhenItsProgramIsKilled(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), guardedVariable+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }() // where the test ends early
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	group, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err)
	defer func() { _ = syscall.Kill(-group, syscall.SIGKILL) }()
	// What stops a worker that may still answer does not stop its guard, and a stopped worker ends, too.
	require.NoError(t, syscall.Kill(-group, syscall.SIGTERM))
	require.NoError(t, syscall.Kill(-group, syscall.SIGUSR1))
	require.NoError(t, syscall.Kill(group, syscall.SIGSTOP))
	require.True(t, lives(group))
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Eventually(t, func() bool { return !lives(group) }, aWhile, 5*time.Millisecond)
}

func TestAGuardEndsWithItsWorker(t *testing.T) {
	noLeaks(t)
	cmd := exec.Command("/bin/sh", "-c", "exit 3")
	require.NoError(t, spawnGuarded(cmd))
	require.Error(t, cmd.Wait())
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)) // as process.reap does
	require.Eventually(t, func() bool { return !hasChildren() }, aWhile, 5*time.Millisecond)
	require.Error(t, spawnGuarded(exec.Command("/nowhere/nothing")))
}

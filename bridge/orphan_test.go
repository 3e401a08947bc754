//go:build unix

package bridge

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// However a program ends, its workers end with it. The program that is to be killed is this test binary.
const (
	orphanVariable = "ORPHANS_OF"      // the model's folder
	orphanGuarded  = "ORPHANS_GUARDED" // workers are started as on systems whose kernel does not end them
	orphanLoading  = "ORPHANS_LOADING" // the only worker does not get beyond its load
)

// hangsFile is made in the model's folder when a worker begins to hang.
const hangsFile = "hangs"

func runOrphanMaker(dir string) {
	failed := func(err error) {
		if err != nil {
			_, _ = os.Stdout.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
	}
	o := Options{Python: os.Getenv(PythonVariable), Workers: 2, TrustRemoteCode: true}
	if os.Getenv(orphanLoading) != "" {
		o.Workers, o.Logger = 1, slog.New(slog.NewJSONHandler(os.Stdout, nil)) // it says which process was started
	}
	cmd, err := workerCommand(o)
	failed(err)
	if os.Getenv(orphanGuarded) != "" {
		cmd.spawn = spawnGuarded
	}
	m, err := load(context.Background(), dir, o, cmd)
	failed(err)
	// Both workers are at work, one of them hangs: only then their ids are told.
	prompt, options := badPrompt()
	go func() { _, _ = drain(context.Background(), m, prompt, options) }()
	for _, err := os.Stat(filepath.Join(dir, hangsFile)); err != nil; _, err = os.Stat(filepath.Join(dir, hangsFile)) {
		time.Sleep(5 * time.Millisecond)
	}
	for range m.Generate(context.Background(), engine.Prompt{Text: "Please"}, longOptions(2000)) {
		for _, w := range m.Stat().Workers {
			_, _ = os.Stdout.WriteString(strconv.Itoa(w.PID) + "\n")
		}
		_ = os.Stdout.Close()
		select {}
	}
}

// startOrphanMaker starts the program; its output ends with it, or when it has said what there is to say.
func startOrphanMaker(t *testing.T, dir string, env ...string) (kill func(), out io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), orphanVariable+"="+dir, PythonVariable+"="+testenv.Python(t)), env...)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return func() {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}, pipe
}

func endsSoon(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return !running(pid) }, aWhile, 5*time.Millisecond, "worker %d lives on", pid)
}

// orphanWays are both ways in which workers end with the program: the kernel's, where it has one, and a pipe that every Unix has.
var orphanWays = map[string][]string{"system's way": nil, "pipe": {orphanGuarded + "=1"}}

// One worker computes, and one hangs in native code with Python's lock held.
func TestRealWorkersDieWithTheirSupervisor(t *testing.T) {
	for name, env := range orphanWays {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			dir := faultyModel(t, nil)
			faults, err := json.Marshal(map[string]string{strconv.Itoa(badToken): "hang", "once": filepath.Join(dir, hangsFile)})
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "faults.json"), faults, 0o600))
			kill, out := startOrphanMaker(t, dir, env...)
			var pids []int
			for line := range lines(out) {
				n, err := strconv.Atoi(line)
				require.NoError(t, err, line)
				pids = append(pids, n)
			}
			require.Len(t, pids, 2)
			kill()
			for _, pid := range pids {
				endsSoon(t, pid)
			}
		})
	}
}

// A worker that is stopped in the middle of its load runs no code of its own.
func TestRealAWorkerThatIsStoppedInItsLoadDiesWithItsSupervisor(t *testing.T) {
	for name, env := range orphanWays {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			// A file of weights from which nothing ever comes: the load waits in native code.
			dir := testenv.CopyModel(t)
			weights := filepath.Join(dir, "model.safetensors")
			require.NoError(t, os.Remove(weights))
			require.NoError(t, syscall.Mkfifo(weights, 0o600))
			kill, out := startOrphanMaker(t, dir, append(env, orphanLoading+"=1")...)
			line, err := bufio.NewReader(out).ReadBytes('\n')
			require.NoError(t, err)
			var started struct{ PID int }
			require.NoError(t, json.Unmarshal(line, &started))
			defer func() { _ = syscall.Kill(-started.PID, syscall.SIGKILL) }()
			// Opening it succeeds when the worker reads.
			var feed *os.File
			require.Eventually(t, func() bool {
				feed, err = os.OpenFile(weights, os.O_WRONLY|syscall.O_NONBLOCK, 0)
				return err == nil
			}, aWhile, 5*time.Millisecond)
			defer feed.Close()
			require.NoError(t, syscall.Kill(started.PID, syscall.SIGSTOP))
			require.True(t, running(started.PID))
			kill()
			endsSoon(t, started.PID)
		})
	}
}

package bridge

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child in a process group of its own, with its pipes.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	stderr *tail

	exited chan struct{} // closed when the process is reaped
	state  string        // how it ended; set before exited is closed
	once   sync.Once
}

// Steps of the way down: each gets this long before the next.
const (
	askPeriod   = 500 * time.Millisecond // after a shutdown message
	gracePeriod = 2 * time.Second        // after stdin was closed
	termPeriod  = 2 * time.Second        // after SIGTERM
)

// startProcess starts a command. wait must be called, once, when stdout was read to its end.
func startProcess(name string, args, env []string) (*process, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, stderr: &tail{}, exited: make(chan struct{})}
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = out
	cmd.Stderr = p.stderr
	// A grandchild that inherited stderr must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return p, nil
}

// wait reaps the process and ends what is left of its group.
func (p *process) wait() {
	err := p.cmd.Wait()
	switch {
	case p.cmd.ProcessState != nil:
		p.state = p.cmd.ProcessState.String()
	case err != nil:
		p.state = err.Error()
	}
	p.kill()
	close(p.exited)
}

// stop ends the process: it is asked to, then its stdin is closed, then its group gets SIGTERM, then
// SIGKILL. It returns when the process is reaped. ask must not wait.
func (p *process) stop(ask func()) {
	p.once.Do(func() {
		ask()
		if p.gone(askPeriod) {
			return
		}
		_ = p.stdin.Close()
		if p.gone(gracePeriod) {
			return
		}
		p.signal(syscall.SIGTERM)
		if p.gone(termPeriod) {
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

// signal reaches the whole group, so that what the worker started ends with it.
func (p *process) signal(s syscall.Signal) { _ = syscall.Kill(-p.cmd.Process.Pid, s) }

// kill ends the whole group at once.
func (p *process) kill() { p.signal(syscall.SIGKILL) }

// tail keeps the last lines of a stream, for diagnosis.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const (
	tailBytes = 8 << 10
	tailLines = 20
)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p[max(0, len(p)-tailBytes):]...)
	if extra := len(t.data) - tailBytes; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

// String is the last lines, without what a carriage return overwrote.
func (t *tail) String() string {
	t.mu.Lock()
	text := strings.ToValidUTF8(string(bytes.TrimSpace(t.data)), "\uFFFD")
	t.mu.Unlock()
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		lines[i] = line[strings.LastIndexByte(line, '\r')+1:]
	}
	return strings.Join(lines, "\n")
}

// environment is what a worker sees: what Python, MLX and the dynamic linker need, and no more.
func environment(workerDir string) []string {
	keep := []string{"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE"}
	prefixes := []string{"MLX_", "CUDA_", "NVIDIA_", "METAL_", "MTL_", "HF_", "OMP_", "OPENBLAS_"}
	env := []string{
		"PYTHONPATH=" + workerDir, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8",
		"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1", "TOKENIZERS_PARALLELISM=false",
	}
	if extra := os.Getenv("PYTHONPATH"); extra != "" {
		env[0] += string(os.PathListSeparator) + extra
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name == "HF_HUB_OFFLINE" {
			continue
		}
		hasPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if slices.Contains(keep, name) || slices.ContainsFunc(prefixes, hasPrefix) {
			env = append(env, entry)
		}
	}
	return env
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// httpSide is mlx_lm.server.
type httpSide struct {
	model, python string
	cmd           *exec.Cmd
	url           string
	client        http.Client
}

func (h *httpSide) name() string { return "mlx_lm.server" }

func (h *httpSide) start(ctx context.Context, prompt string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	h.url = "http://127.0.0.1:" + port + "/v1/completions"
	h.client = http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	h.cmd = exec.Command(h.python, "-m", "mlx_lm.server", "--model", h.model, "--host", "127.0.0.1", "--port", port, "--log-level", "ERROR")
	h.cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	if err := h.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, _, err = h.stream(ctx, prompt, 1); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

func (h *httpSide) post(ctx context.Context, prompt string, n int, stream bool) (*http.Response, error) {
	body, err := json.Marshal(map[string]any{"model": h.model, "prompt": prompt, "max_tokens": n, "temperature": 0, "stream": stream})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := h.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return nil, fmt.Errorf("%s: %s", response.Status, text)
	}
	return response, nil
}

func (h *httpSide) stream(ctx context.Context, prompt string, n int) (first, all time.Duration, err error) {
	begin := time.Now()
	response, err := h.post(ctx, prompt, n, true)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	var last time.Duration
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		if first == 0 {
			first = time.Since(begin)
		}
		last = time.Since(begin)
	}
	if first == 0 {
		return 0, 0, fmt.Errorf("the answer is empty")
	}
	return first, last, nil
}

func (h *httpSide) whole(ctx context.Context, prompt string, n int) error {
	response, err := h.post(ctx, prompt, n, false)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

func (h *httpSide) pid() int { return h.cmd.Process.Pid }

func (h *httpSide) stop() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
	h.client.CloseIdleConnections()
}

// inprocess is mlx-lm called from Python.
type inprocess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

type inprocessResult struct{ First, All float64 } // seconds

func startInprocess(python, model string) (*inprocess, error) {
	p := &inprocess{cmd: exec.Command(python, "tests/serving/inprocess.py", model)}
	p.cmd.Env = append(os.Environ(), "HF_HUB_OFFLINE=1")
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if !p.out.Scan() || p.out.Text() != "ready" {
		return nil, fmt.Errorf("in-process mlx-lm did not start: %q", p.out.Text())
	}
	return p, nil
}

func (p *inprocess) name() string { return "mlx-lm in-process" }

func (p *inprocess) run(prompts []string, tokens int) (r inprocessResult, err error) {
	if err := json.NewEncoder(p.in).Encode(map[string]any{"prompts": prompts, "tokens": tokens}); err != nil {
		return r, err
	}
	if !p.out.Scan() {
		return r, fmt.Errorf("in-process mlx-lm ended")
	}
	return r, json.Unmarshal(p.out.Bytes(), &r)
}

func (p *inprocess) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// cpuTime is how much processor time a process has used, from /proc.
func cpuTime(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks a second on every Linux
}

// children are the processes that this one has started.
func children() map[int]bool {
	found := map[int]bool{}
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		data, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				found[pid] = true
			}
		}
	}
	return found
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// server is a process that serves /v1/completions.
type server struct {
	name, model string // what requests call the model
	url         string
	pid         int
	stop        func()
}

// goMLX starts this project's server with one engine.
func goMLX(model, python, engine string) (*server, error) {
	cmd := exec.Command("bin/go-mlx", "serve", "--port", "0", "--python", python, "--model", "m="+model+",engine="+engine, "--preload", "--max-requests", "1024", "--write-timeout", "5s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{name: "go-mlx, " + engine, model: "m", pid: cmd.Process.Pid, stop: func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if found := regexp.MustCompile(`address=(\S+)/`).FindStringSubmatch(lines.Text()); found != nil {
			s.url = found[1] + "/v1/completions"
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	if s.url == "" {
		s.stop()
		return nil, errors.New("go-mlx serve ended")
	}
	return s, s.ready()
}

// ready waits until the model is loaded: the server answers before.
func (s *server) ready() error {
	for range 600 {
		response, err := http.Get(strings.Replace(s.url, "/v1/completions", "/readyz", 1))
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New("go-mlx serve does not get ready")
}

// mlxLM starts mlx-lm's own server.
func mlxLM(ctx context.Context, model, python string) (*server, error) {
	h := &httpSide{model: model, python: python}
	if err := h.start(ctx, prompt()); err != nil {
		return nil, err
	}
	return &server{name: h.name(), model: model, url: h.url, pid: h.pid(), stop: h.stop}, nil
}

// visitor is one request: how it asks, and whether it leaves.
type visitor struct {
	prompt  string
	tokens  int
	stream  bool
	leaves  bool
	patient time.Duration // before it leaves, where nothing tells of the first token
}

// tally is what visitors met.
type tally struct {
	mu     sync.Mutex
	first  []time.Duration // streams: time to the first token
	served int
	left   int
	lost   []string // answers that were not what was asked for
}

// loadTest sends visitors to each server at several levels and prints a table.
func loadTest(model, python string, engines []string, perClient int, onlyHostile bool) error {
	model, cleanup, err := endless(model)
	if err != nil {
		return err
	}
	defer cleanup()
	ctx := context.Background()
	var servers []*server
	for _, engine := range engines {
		s, err := goMLX(model, python, engine)
		if err != nil {
			return err
		}
		defer s.stop()
		servers = append(servers, s)
	}
	other, err := mlxLM(ctx, model, python)
	if err != nil {
		return err
	}
	defer other.stop()
	servers = append(servers, other)
	fmt.Println("| clients | server | requests | left | lost | first token p50, ms | p99, ms | requests/s | memory before, MB | after, MB |")
	const line = "| %s | %s | %d | %d | %d | %.0f | %.0f | %.1f | %.0f | %.0f |\n"
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for _, s := range servers { // warm up
		s.burst(ctx, 4, visitors(8, 1))
	}
	// The level of 128 three times for this project's servers: memory that grows with requests, and not with how many there are
	// at once, would show.
	level := func(name string, clients int, seed uint64, hostile int, servers []*server) error {
		for _, s := range servers {
			visits := max(24, clients*perClient)
			if hostile > 0 {
				visits = 240 // long enough for every sort to come often
			}
			all := visitors(visits, seed)
			before := memory(s.pid)
			crowd := s.harass(ctx, hostile)
			begin := time.Now()
			t := s.burst(ctx, clients, all)
			took := time.Since(begin)
			came := crowd.end()
			slices.Sort(t.first)
			if hostile > 0 {
				fmt.Fprintf(os.Stderr, "%s: hostile clients came %d times\n", s.name, came)
				if err := s.free(ctx, 30*time.Second); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			if len(t.first) == 0 {
				return fmt.Errorf("%s: no stream of %d had a token: %v", s.name, len(all), t.lost)
			}
			fmt.Printf(line, name, s.name, len(all), t.left, len(t.lost),
				t.first[len(t.first)/2].Seconds()*1e3, t.first[len(t.first)*99/100].Seconds()*1e3, float64(t.served)/took.Seconds(),
				float64(before)/1e6, float64(memory(s.pid))/1e6)
			for _, reason := range t.lost[:min(3, len(t.lost))] {
				fmt.Fprintln(os.Stderr, s.name, "lost:", reason)
			}
		}
		return nil
	}
	ours := servers[:len(engines)]
	levels := []int{1, 8, 32, 128, 128, 128}
	if onlyHostile {
		levels = nil
	}
	for i, clients := range levels {
		asked := servers
		if i >= 4 {
			asked = ours
		}
		if err := level(fmt.Sprint(clients), clients, uint64(i+2), 0, asked); err != nil {
			return err
		}
	}
	// Whether slots come back is told by these servers only.
	return level("8, and 14 hostile", 8, 8, 14, ours)
}

// visitors are drawn from a seed: the same for every server. Two of three stream; one in ten leaves early.
func visitors(n int, seed uint64) []visitor {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := make([]visitor, n)
	for i := range out {
		words := strings.Repeat("where can I find the next one, please? ", 1+rng.IntN(8))
		out[i] = visitor{
			prompt: fmt.Sprintf("%d %d. %s", seed, i, words), tokens: 10 + rng.IntN(60), stream: rng.IntN(3) > 0, leaves: rng.IntN(10) == 0,
			patient: time.Duration(50+rng.IntN(200)) * time.Millisecond,
		}
	}
	return out
}

// burst has so many clients make the visits, each the next one as soon as it is done with one.
func (s *server) burst(ctx context.Context, clients int, all []visitor) *tally {
	t := &tally{}
	queue := make(chan visitor, len(all))
	for _, v := range all {
		queue <- v
	}
	close(queue)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for v := range queue {
				first, err := s.visit(ctx, client, v)
				t.mu.Lock()
				switch {
				case err != nil:
					t.lost = append(t.lost, err.Error())
				case v.leaves:
					t.left++
				default:
					t.served++
				}
				if err == nil && first > 0 {
					t.first = append(t.first, first)
				}
				t.mu.Unlock()
			}
		})
	}
	group.Wait()
	return t
}

// visit makes one request. An answer that is not whole is an error, but for one that the client itself left.
func (s *server) visit(ctx context.Context, client *http.Client, v visitor) (first time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	body, err := json.Marshal(map[string]any{"model": s.model, "prompt": v.prompt, "max_tokens": v.tokens, "temperature": 0, "stream": v.stream})
	if err != nil {
		return 0, err
	}
	if v.leaves && !v.stream {
		time.AfterFunc(v.patient, cancel)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	begin := time.Now()
	response, err := client.Do(r)
	if err != nil {
		if v.leaves && ctx.Err() != nil {
			return 0, nil
		}
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		return 0, fmt.Errorf("%s: %s", response.Status, text)
	}
	if !v.stream {
		var whole struct {
			Usage struct {
				CompletionTokens int `json:"completion_tokens"`
			}
		}
		err := json.NewDecoder(response.Body).Decode(&whole)
		switch {
		case v.leaves && ctx.Err() != nil:
			return 0, nil
		case err != nil:
			return 0, err
		case whole.Usage.CompletionTokens != v.tokens:
			return 0, fmt.Errorf("%d tokens of %d", whole.Usage.CompletionTokens, v.tokens)
		}
		return 0, nil
	}
	done := false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !is:
		case data == "[DONE]":
			done = true
		case strings.Contains(data, `"error"`):
			return first, errors.New(data)
		case first == 0:
			first = time.Since(begin)
			if v.leaves {
				return first, nil
			}
		}
	}
	if !done {
		return first, errors.New("the stream was cut off")
	}
	return first, nil
}

// memory is the resident memory of a process and of those it has started, in bytes.
func memory(pid int) int64 {
	parents := map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if data, err := os.ReadFile("/proc/" + e.Name() + "/stat"); err == nil {
			fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
			parents[id], _ = strconv.Atoi(fields[1])
		}
	}
	var sum int64
	for id := range parents {
		for up := id; up > 1; up = parents[up] {
			if up == pid {
				sum += resident(id)
				break
			}
		}
	}
	return sum
}

func resident(pid int) (bytes int64) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if fields := strings.Fields(string(data)); len(fields) > 1 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		bytes = pages * int64(os.Getpagesize())
	}
	return bytes
}

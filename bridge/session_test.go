//go:build unix

package bridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// A recorded session is what travelled between this side and a real worker, with what this side made of
// it. It replays without Python: every frame that is sent must be the one that was sent then.
//
//	GO_MLX_RECORD=1 go test ./bridge -run RecordedSession
//
// records it anew, for when the protocol changes on purpose.
const recordVariable = "GO_MLX_RECORD"

func TestARecordedSessionIsReplayed(t *testing.T) {
	noLeaks(t)
	file := filepath.Join(testenv.Root(), "tests", "golden", "session.txt")
	if os.Getenv(recordVariable) != "" {
		record(t, file)
	}
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	want, script := all[0], all[1:]

	toWorker, fromUs := io.Pipe()
	fromWorker, toUs := io.Pipe()
	played := make(chan error, 1)
	go func() {
		err := play(script, toWorker, toUs)
		_ = toUs.Close()
		_ = toWorker.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		played <- err
	}()
	hello, err := readFrame(fromWorker)
	require.NoError(t, err)
	require.NoError(t, checkVersions("python3", hello.Versions))
	c := newConn(fromUs)
	go func() { c.fail(c.serve(fromWorker)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := session(ctx, c)
	require.NoError(t, err)
	require.NoError(t, <-played)
	require.JSONEq(t, strings.TrimPrefix(want, "results "), got)
}

// play is the worker's side of a script: it says what was said and checks what it is told.
func play(script []string, in io.Reader, out io.Writer) error {
	for i, line := range script {
		frame, err := hex.DecodeString(line[2:])
		if err != nil {
			return err
		}
		if line[0] == '<' {
			if _, err := out.Write(frame); err != nil {
				return err
			}
			continue
		}
		got := make([]byte, len(frame))
		if _, err := io.ReadFull(in, got); err != nil {
			return err
		}
		if !bytes.Equal(frame, got) {
			return fmt.Errorf("line %d: sent %q, recorded %q", i+2, got, frame)
		}
	}
	return nil
}

// session is the recorded conversation: every kind of request, one after the other.
func session(ctx context.Context, c *conn) (string, error) {
	w := &worker{conn: c}
	if err := w.load(ctx, loadRequest{Path: "tests/models/domains", Batch: 4, PromptCache: 1 << 20}, nil); err != nil {
		return "", err
	}
	results := map[string]any{"load": w.info}
	call := func(name string, r request) {
		m, err := c.call(ctx, r, nil)
		if err != nil {
			results[name] = err.Error()
			return
		}
		results[name] = []any{m.IDs, m.Text, m.Scores}
	}
	call("encode", &encodeRequest{head: head{Type: "encode"}, Text: "Where can I 日本", Special: true})
	call("decode", &decodeRequest{head: head{Type: "decode"}, IDs: []int32{376, 377, 1069}})
	call("render", &renderRequest{head: head{Type: "render"}, Messages: `[{"role":"user","content":"hi"}]`})
	call("bad chat", &renderRequest{head: head{Type: "render"}, Messages: `[{"role":"assistant","content":"hi"}]`})
	call("classify", &classifyRequest{head: head{Type: "classify"}, Texts: []string{"goal", "soup"}, Labels: []string{"sport", "food"}})
	stream := func(name string, prompt engine.Prompt, leaveAfter int, change func(*engine.GenerateOptions)) error {
		o := longOptions(80)
		change(&o)
		frame, err := generateFrame(prompt, o)
		if err != nil {
			return err
		}
		var tokens []engine.Token
		s := &stream{model: &Model{}, options: o, yield: func(tok engine.Token, _ error) bool {
			tokens = append(tokens, tok)
			return len(tokens) != leaveAfter
		}}
		if err := s.serve(ctx, visit{worker: w, begun: func(uint64) {}, works: func() {}}, frame); err != nil {
			results[name] = err.Error()
			return nil
		}
		results[name] = tokens
		return nil
	}
	err := errors.Join(
		stream("greedy", engine.Prompt{Text: "Please check"}, 0, func(o *engine.GenerateOptions) { o.TopLogProbs, o.LogProbs = 2, true }),
		stream("seeded", engine.Prompt{Text: "Where"}, 0, func(o *engine.GenerateOptions) {
			o.Temperature, o.Seed, o.Stop, o.Segments = 1.1, 3, []string{" the"}, true
		}),
		stream("too long", engine.Prompt{Text: strings.Repeat("word ", 3000)}, 0, func(*engine.GenerateOptions) {}),
		stream("left", engine.Prompt{Text: "Please"}, 3, func(o *engine.GenerateOptions) { o.MaxTokens = 2000 }),
	)
	if err != nil {
		return "", err
	}
	// The reader that left is acknowledged before the worker goes.
	for range 1000 {
		c.mu.Lock()
		n := c.stops.Count
		c.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := c.send(&bareRequest{head{Type: "shutdown"}}); err != nil {
		return "", err
	}
	data, err := json.Marshal(results)
	return string(data), err
}

// tape takes down frames in both directions, in order.
type tape struct {
	mu    sync.Mutex
	lines []string
	part  []byte // of a frame being read
}

func (t *tape) sent(frame []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, "> "+hex.EncodeToString(frame))
}

func (t *tape) received(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part = append(t.part, p...)
	for len(t.part) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(t.part))
		if len(t.part) < n {
			return
		}
		t.lines = append(t.lines, "< "+hex.EncodeToString(t.part[:n]))
		t.part = t.part[n:]
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func record(t *testing.T, file string) {
	t.Chdir(testenv.Root())
	source, err := workerSource()
	require.NoError(t, err)
	p, err := startProcess(command{name: testenv.Python(t), args: moduleArguments(source, "go_mlx_worker"), env: environment(false)}, listener{})
	require.NoError(t, err)
	tape := &tape{}
	in := io.TeeReader(p, writerFunc(func(b []byte) (int, error) { tape.received(b); return len(b), nil }))
	c := newConn(writerFunc(func(b []byte) (int, error) { tape.sent(b); return p.stdin.Write(b) }))
	_, err = readFrame(in)
	require.NoError(t, err)
	go func() { c.fail(c.serve(in)) }()
	results, err := session(t.Context(), c)
	require.NoError(t, err)
	<-p.exited
	_ = p.stdout.Close()
	out, err := os.Create(file)
	require.NoError(t, err)
	w := bufio.NewWriter(out)
	_, _ = fmt.Fprintf(w, "results %s\n%s\n", results, strings.Join(tape.lines, "\n"))
	require.NoError(t, errors.Join(w.Flush(), out.Close()))
}

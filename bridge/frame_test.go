//go:build unix

package bridge

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// writeFrame writes one frame.
func writeFrame(w io.Writer, message any) error {
	frame, err := encodeFrame(message)
	if err != nil {
		return err
	}
	_, err = w.Write(frame)
	return err
}

func TestFramesRoundTrip(t *testing.T) {
	var buffer bytes.Buffer
	require.NoError(t, writeFrame(&buffer, fields{"t": "token", "id": 7, "text": "é", "top": [][]any{{3, -0.5}}}))
	require.NoError(t, writeFrame(&buffer, fields{"t": "result", "id": 8, "scores": [][]float64{{-1, -2}}}))
	m, err := readFrame(&buffer)
	require.NoError(t, err)
	require.Equal(t, "token", m.Type)
	require.EqualValues(t, 7, m.ID)
	require.Equal(t, "é", m.Text)
	require.Equal(t, []topLP{{ID: 3, LogProb: -0.5}}, m.Top)
	m, err = readFrame(&buffer)
	require.NoError(t, err)
	require.Equal(t, [][]float64{{-1, -2}}, m.Scores)
	_, err = readFrame(&buffer)
	require.ErrorIs(t, err, io.EOF)
}

func TestBrokenFramesAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"cut in the length": {0, 0},
		"cut in the body":   {0, 0, 0, 9, 0x80},
		"oversize":          {0xff, 0xff, 0xff, 0xff},
		"one too large":     binary.BigEndian.AppendUint32(nil, MaxFrame+1),
		"not a map":         frame([]byte{0x93, 1, 2, 3}),
		"wrong type":        frame([]byte{0x81, 0xa1, 't', 0x05}),
		"empty body":        frame(nil),
		"text":              []byte("Loading model...\n"),
	} {
		_, err := readFrame(bytes.NewReader(b))
		require.ErrorIs(t, err, ErrFrame, name)
	}
}

// The decoder calls itself for what lies in each other. A stack that overflows ends the program.
func TestFramesThatAreTooDeepAreRefused(t *testing.T) {
	frame := func(open string, times int, value string) []byte {
		body := "\x82\xa1t\xa4beat\xa1z" + strings.Repeat(open, times) + value
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	for name, open := range map[string]string{
		"arrays": "\x91", "maps": "\x81\xa1a", "long arrays": "\xdc\x00\x01", "longer arrays": "\xdd\x00\x00\x00\x01", "long maps": "\xde\x00\x01\xa1a",
		"longer maps": "\xdf\x00\x00\x00\x01\xa1a", "keys": "\x81", "after numbers": "\x92\xcd\x91\x91", "after texts": "\x92\xd9\x02\x91\x91",
		"after bytes": "\x92\xc4\x01\x91", "after floats": "\x92\xcb\x91\x91\x91\x91\x91\x91\x91\x91", "after others": "\x92\xd4\x01\x91",
		"after long others": "\x92\xc7\x01\x05\x91",
	} {
		_, err := readFrame(bytes.NewReader(frame(open, (MaxFrame-100)/len(open), "\xc0")))
		require.ErrorIs(t, err, ErrFrame, name)
		require.ErrorContains(t, err, "deep", name)
		_, err = readFrame(bytes.NewReader(frame(open, deepestFrame, "\xc0")))
		require.ErrorContains(t, err, "deep", name)
		require.NoError(t, checkNesting(frame(open, deepestFrame-1, "\xc0")[4:]), name)
	}
	// What only looks like it, being text, bytes or one after the other, is not deep.
	for _, value := range []string{
		"\xda\x40\x00" + strings.Repeat("\x91", 0x4000), "\xc5\x40\x00" + strings.Repeat("\x91", 0x4000),
		"\xdc\x40\x00" + strings.Repeat("\x91\xc0", 0x4000), "\xdc\x40\x00" + strings.Repeat("\x90", 0x4000), "\xde\x20\x00" + strings.Repeat("\xa1a\x80", 0x2000),
	} {
		m, err := readFrame(bytes.NewReader(frame("", 0, value)))
		require.NoError(t, err)
		require.Equal(t, "beat", m.Type)
	}
}

func TestOversizeFramesAreNotSent(t *testing.T) {
	var buffer bytes.Buffer
	require.ErrorIs(t, writeFrame(&buffer, fields{"text": strings.Repeat("x", MaxFrame)}), ErrFrame)
	require.Zero(t, buffer.Len())
}

// Golden frames: what this side sends must be what Python reads, and the other way round
// (tests/python/test_worker.py reads the same file).
func TestGoldenFrames(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Root(), "tests", "golden", "frames.txt"))
	require.NoError(t, err)
	sent := map[string]any{
		"cancel":   &bareRequest{head{Type: "cancel", ID: 3}},
		"credit":   &creditRequest{head{Type: "credit", ID: 3}, 32},
		"load":     &loadRequest{head: head{Type: "load", ID: 1}, Path: "/m", TrustRemoteCode: false, Adapter: "/a", Batch: 32, PromptCache: 1 << 20},
		"encode":   &encodeRequest{head: head{Type: "encode", ID: 4}, Text: "é", Special: true},
		"generate": &generateRequest{head: head{Type: "generate", ID: 6}, IDs: []int32{2, 7}, Resume: []int32{9}, LogitBias: []tokenBias{{ID: 3, Bias: -1.5}}, Seed: 1<<63 + 1, Stop: []string{}, StopTokens: []int32{}, Credit: 64},
		"classify": &classifyRequest{head: head{Type: "classify", ID: 5}, From: 2, Texts: []string{"a"}, Labels: []string{"x", "y"}},
		"embed":    &embedRequest{head: head{Type: "embed", ID: 7}, From: 1, Texts: []string{"a"}, IDs: [][]int32{{2}}, Prompt: "query", Dimensions: 128},
	}
	seen := 0
	for line := range strings.Lines(string(data)) {
		direction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, code, _ := strings.Cut(rest, " ")
		want, err := hex.DecodeString(code)
		require.NoError(t, err)
		switch direction {
		case "go":
			var buffer bytes.Buffer
			require.NoError(t, writeFrame(&buffer, sent[name]), name)
			require.Equal(t, want, buffer.Bytes(), "%s: %x", name, buffer.Bytes())
			seen++
		case "python":
			m, err := readFrame(bytes.NewReader(want))
			require.NoError(t, err)
			require.Equal(t, name, m.Type)
			seen++
		}
	}
	require.Equal(t, 12, seen)
}

// FuzzConn gives a session what a worker may never send: any message, for any request, in any order. The
// requests under way end once each, and the session with a typed error.
func FuzzConn(f *testing.F) {
	f.Add([]byte{0, 1, 0, 3, 1, 0, 2, 2, 0})
	f.Add([]byte{3, 1, 1, 3, 1, 1, 4, 1, 0, 5, 2, 0, 6, 0, 0, 9, 9, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		types := []string{"result", "error", "cancelled", "token", "progress", "beat", "hello", "surprise"}
		var out bytes.Buffer
		for ; len(b) >= 3; b = b[3:] {
			m := fields{"t": types[int(b[0])%len(types)], "id": int(b[1]) % 4, "phase": "decode", "code": "internal", "tokens": int(b[2])}
			if b[2]%3 == 1 {
				m["finish"] = "stop"
			}
			require.NoError(t, writeFrame(&out, m))
		}
		out.Write(b) // and a torn end
		c := newConn(io.Discard)
		stream, err := c.begin(&generateRequest{head: head{Type: "generate"}}, true)
		require.NoError(t, err)
		call, err := c.begin(&bareRequest{head{Type: "memory"}}, false)
		require.NoError(t, err)
		err = c.serve(&out)
		if !errors.Is(err, io.EOF) && !errors.Is(err, ErrFrame) && !errors.Is(err, errProtocol) {
			t.Fatalf("untyped error %v", err)
		}
		c.fail(err)
		for _, e := range []*exchange{stream, call} {
			for n := 0; ; n++ {
				m, err := c.next(t.Context(), e, func(*message) {})
				if err != nil {
					break
				}
				_, _ = m.token()
				require.LessOrEqual(t, n, streamCredit+1)
			}
			c.end(e)
		}
		require.Empty(t, c.pending)
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frame([]byte{0x80}))
	f.Add(frame([]byte{0x82, 0xa1, 't', 0xa5, 't', 'o', 'k', 'e', 'n', 0xa2, 'i', 'd', 0x07}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			_, err := readFrame(r)
			if err == nil {
				continue
			}
			if !errors.Is(err, io.EOF) && !errors.Is(err, ErrFrame) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
	})
}

package turn

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
)

// NewID is a random id of some kind.
func NewID(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// tidier turns segments into events. Newlines between reasoning, calls and text are the template's and not part of the
// answer; they are held back until it is clear what they are. Calls of functions that were not offered are text.
type tidier struct {
	emit               func(Event) error
	tools              *Tools
	callStart, callEnd string // the marks around calls
	logProbs           bool
	again              string // the mark that closed a thought from outside: small models write it once more

	kind    mlx.SegmentKind // of the last segment
	inside  bool            // something of it was emitted
	held    string          // newlines at the end of what was emitted
	calls   int
	pending []pendingToken // tokens whose text is not emitted yet
}

// pendingToken is a token with the text that became certain with it.
type pendingToken struct {
	mlx.Token
	bytes int
}

func (t *tidier) add(tok mlx.Token, segments []mlx.Segment) error {
	if t.logProbs {
		size := 0
		for _, s := range segments {
			size += len(s.Text)
		}
		t.pending = append(t.pending, pendingToken{tok, size})
	}
	for _, s := range segments {
		if s.Kind != t.kind {
			if t.kind != "" {
				t.held = ""
			}
			// An answer of plain text stays as it is.
			t.inside = t.kind == "" && s.Kind == mlx.SegmentNormal
			t.kind = s.Kind
			if s.Kind == mlx.SegmentNormal {
				t.forget(tok)
			}
		}
		if s.Kind == mlx.SegmentTool {
			if err := t.tool(s, tok.FinishReason == mlx.FinishLength); err != nil {
				return err
			}
			continue
		}
		if err := t.text(s.Kind, s.Text); err != nil {
			return err
		}
	}
	return nil
}

// forget drops the tokens of what stood before a text: thoughts, calls and marks.
func (t *tidier) forget(last mlx.Token) {
	if n := len(t.pending); n > 0 && t.pending[n-1].ID == last.ID {
		t.pending = t.pending[n-1:]
	}
}

func (t *tidier) text(kind mlx.SegmentKind, text string) error {
	if !t.inside {
		text = strings.TrimLeft(text, "\n")
		if rest, found := strings.CutPrefix(text, t.again); found && t.again != "" && kind == mlx.SegmentNormal {
			t.again, text = "", strings.TrimLeft(rest, "\n")
		}
		if text == "" { // these newlines are the template's, and so are their tokens
			t.pending = nil
		}
	}
	text = t.held + text
	trimmed := strings.TrimRight(text, "\n")
	t.held = text[len(trimmed):]
	if trimmed == "" {
		return nil
	}
	t.inside = true
	if kind == mlx.SegmentReasoning {
		t.pending = nil
		return t.emit(Event{Kind: Reasoning, Text: trimmed})
	}
	return t.emit(Event{Kind: Text, Text: trimmed, Tokens: t.taken()})
}

// taken are the tokens of the text that is emitted now.
func (t *tidier) taken() (out []mlx.Token) {
	for _, p := range t.pending {
		out = append(out, p.Token)
	}
	t.pending = nil
	return out
}

// tool emits the calls of a segment. One that calls nothing, or a function that was not offered, is text with its marks.
func (t *tidier) tool(s mlx.Segment, cutOff bool) error {
	var offered []mlx.ToolCall
	for _, call := range s.Calls {
		if t.tools.offers(call.Function.Name) {
			offered = append(offered, call)
		}
	}
	if len(offered) == 0 {
		text := t.callStart + s.Text
		if !cutOff {
			text += t.callEnd
		}
		return t.text(mlx.SegmentNormal, text)
	}
	t.pending = nil
	for _, call := range offered {
		if t.calls++; call.ID == "" {
			call.ID = NewID("call_")
		}
		if err := t.emit(Event{Kind: Call, Call: call}); err != nil {
			return err
		}
		if t.tools.OneCall {
			return errEnough
		}
	}
	return nil
}

// end emits the newlines at the end of a text.
func (t *tidier) end() error {
	if t.kind == mlx.SegmentNormal && t.held != "" && t.inside {
		var tokens []mlx.Token
		for _, p := range t.pending {
			if p.bytes > 0 {
				tokens = append(tokens, p.Token)
			}
		}
		return t.emit(Event{Kind: Text, Text: t.held, Tokens: tokens})
	}
	return nil
}

package turn

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// NewID is a random id of some kind.
func NewID(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + hex.EncodeToString(b[:])
}

// eventBuilder turns segments into events. Newlines between reasoning, calls and text are the template's and not part of the
// answer; they are held back until it is clear what they are. Calls of functions that were not offered are text.
type eventBuilder struct {
	emit     func(Event) error
	tools    *Tools
	template string // of the chat: its notation of calls
	logProbs bool
	again    string // the mark with which the server closed a thought: small models write it once more

	kind    mlx.SegmentKind // of the last segment
	inside  bool            // something of it was emitted
	held    string          // newlines at the end of what was emitted
	calls   int
	pending []pendingToken // tokens whose text is not emitted yet

	cutter *segment.Cutter // of the call under way
	cut    int             // how much of the call's text it has
	begun  bool            // the cutter has found a call
}

// pendingToken is a token with the text that became certain with it.
type pendingToken struct {
	mlx.Token
	bytes int
}

func (t *eventBuilder) add(tok mlx.Token, segments []mlx.Segment) error {
	if t.logProbs {
		size := 0
		for _, s := range segments {
			size += len(s.Text)
		}
		t.pending = append(t.pending, pendingToken{tok, size})
	}
	for _, s := range segments {
		t.enter(s.Kind, tok)
		if s.Kind == mlx.SegmentTool {
			if err := t.tool(s, tok.FinishReason == mlx.FinishLength, tok.StopString != ""); err != nil {
				return err
			}
			continue
		}
		if err := t.text(s.Kind, s.Text); err != nil {
			return err
		}
	}
	if tok.CallText == "" {
		return nil
	}
	t.enter(mlx.SegmentTool, tok)
	return t.grow(tok.CallText)
}

// enter notes that segments of a kind begin.
func (t *eventBuilder) enter(kind mlx.SegmentKind, tok mlx.Token) {
	if kind == t.kind {
		return
	}
	if t.kind != "" {
		t.held = ""
	}
	// An answer of plain text stays as it is.
	t.inside = t.kind == "" && kind == mlx.SegmentNormal
	t.kind = kind
	if kind == mlx.SegmentNormal {
		t.forget(tok)
	}
}

// forget drops the tokens of what stood before a text: thoughts, calls and marks.
func (t *eventBuilder) forget(last mlx.Token) {
	if n := len(t.pending); n > 0 && t.pending[n-1].ID == last.ID {
		t.pending = t.pending[n-1:]
	}
}

func (t *eventBuilder) text(kind mlx.SegmentKind, text string) error {
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
func (t *eventBuilder) taken() (out []mlx.Token) {
	for _, p := range t.pending {
		out = append(out, p.Token)
	}
	t.pending = nil
	return out
}

// grow emits what a call under way shows by now.
func (t *eventBuilder) grow(text string) error {
	if t.cutter == nil {
		t.cutter = segment.NewCutter(t.template, t.tools.offers)
	}
	if t.cutter == nil {
		return nil
	}
	t.cut += len(text)
	for _, p := range t.cutter.Add(text) {
		if p.Begins {
			t.begun = true
			if err := t.begin(mlx.ToolCall{ID: p.ID, Function: mlx.FunctionCall{Name: p.Name}}); err != nil {
				return err
			}
		}
		if p.Arguments != "" {
			if err := t.emit(Event{Kind: Arguments, Text: p.Arguments}); err != nil {
				return err
			}
		}
		if p.Ends && t.tools.OneCall {
			return errEnough
		}
	}
	return nil
}

// begin emits the beginning of a call.
func (t *eventBuilder) begin(call mlx.ToolCall) error {
	t.pending = nil
	t.calls++
	call.Type = "function"
	if call.ID == "" {
		call.ID = NewID("call_")
	}
	call.Function.Arguments = nil
	return t.emit(Event{Kind: Call, Call: call})
}

// tool emits the calls of a segment that were not emitted while it grew. One that calls nothing, or a function that was not offered, is text
// with its marks. The beginning of a call that the limit of tokens cuts off is no text: it is a call without arguments, or, without a name,
// nothing. One that a stop string cuts off is nothing, and what has begun of its arguments does not count as a call: clients would make it.
func (t *eventBuilder) tool(s mlx.Segment, limited, stopped bool) error {
	if err := t.grow(s.Text[t.cut:]); err != nil {
		return err
	}
	cutOff := limited || stopped
	cutter, begun := t.cutter, t.begun
	t.cutter, t.cut, t.begun = nil, 0, false
	mayCall := len(t.tools.callable()) > 0
	if cutOff && mayCall && cutter != nil {
		if id, name, ok := cutter.Unbegun(); ok {
			t.pending = nil
			if name == "" || stopped {
				return nil
			}
			return t.begin(mlx.ToolCall{ID: id, Function: mlx.FunctionCall{Name: name}})
		}
	}
	if begun {
		if stopped && cutter.Open() {
			t.calls--
		}
		if rest := cutter.Rest(); rest != "" && cutter.Endless() {
			return t.text(mlx.SegmentNormal, rest)
		}
		return nil
	}
	var offered []mlx.ToolCall
	for _, call := range s.Calls {
		if t.tools.offers(call.Function.Name) {
			offered = append(offered, call)
		}
	}
	if len(offered) == 0 {
		start, end := segment.ToolMarks(t.template)
		if cutOff && mayCall && cutter == nil && len(s.Calls) == 0 && start != "" {
			t.pending = nil // what of a call in a notation that is read as a whole was cut off
			return nil
		}
		text := start + s.Text
		if !cutOff {
			text += end
		}
		return t.text(mlx.SegmentNormal, text)
	}
	for _, call := range offered {
		if err := t.begin(call); err != nil {
			return err
		}
		if err := t.emit(Event{Kind: Arguments, Text: string(call.Function.Arguments)}); err != nil {
			return err
		}
		if t.tools.OneCall {
			return errEnough
		}
	}
	return nil
}

// end emits the newlines at the end of a text.
func (t *eventBuilder) end() error {
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

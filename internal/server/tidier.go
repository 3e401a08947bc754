package server

import (
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
)

// tidier turns segments into events. Newlines between reasoning, calls and text are the template's and not part of the
// answer; they are held back until it is clear what they are.
type tidier struct {
	emit    func(event) error
	oneCall bool

	kind   mlx.SegmentKind // of the last segment
	inside bool            // something of it was emitted
	held   string          // newlines at the end of what was emitted
	calls  int
	tokens []mlx.Token // not emitted yet
}

func (t *tidier) add(segments []mlx.Segment) error {
	for _, s := range segments {
		if s.Kind != t.kind {
			if t.kind != "" {
				t.held = ""
			}
			t.inside = t.kind == "" && s.Kind == mlx.SegmentNormal // an answer of plain text stays as it is
			t.kind = s.Kind
		}
		if len(s.Calls) > 0 {
			for _, call := range s.Calls {
				if t.calls++; call.ID == "" {
					call.ID = newID("call_")
				}
				if err := t.give(event{kind: eventCall, call: call}); err != nil {
					return err
				}
				if t.oneCall {
					return errEnough
				}
			}
			continue
		}
		text := s.Text
		if !t.inside {
			text = strings.TrimLeft(text, "\n")
		}
		text = t.held + text
		trimmed := strings.TrimRight(text, "\n")
		t.held = text[len(trimmed):]
		if trimmed == "" {
			continue
		}
		t.inside = true
		kind := eventText
		if s.Kind == mlx.SegmentReasoning {
			kind = eventReasoning
		}
		if err := t.give(event{kind: kind, text: trimmed}); err != nil {
			return err
		}
	}
	return nil
}

func (t *tidier) give(e event) error {
	e.tokens, t.tokens = t.tokens, nil
	return t.emit(e)
}

// end emits the newlines at the end of a text, and tokens that gave no text.
func (t *tidier) end() error {
	if t.kind == mlx.SegmentNormal && t.held != "" && t.inside || len(t.tokens) > 0 {
		text := ""
		if t.kind == mlx.SegmentNormal {
			text = t.held
		}
		return t.give(event{kind: eventText, text: text})
	}
	return nil
}

package segment

import (
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/stop"
)

// Splitter divides one streamed text. What may begin a mark is held back until that is decided; marks are part of no
// segment; a tool call is held back until it is whole.
type Splitter struct {
	marks Marks
	kind  engine.SegmentKind
	held  string // undecided text of the kind under way
	begun bool   // it is decided whether a text without marks is a call
	tool  strings.Builder
	piece string // what the last Add added to a call that is not whole yet
}

// NewSplitter starts a text; in reasoning, if the prompt has opened it.
func NewSplitter(marks Marks, reasoning bool) *Splitter {
	s := &Splitter{marks: marks, kind: engine.SegmentNormal}
	if reasoning {
		s.kind = engine.SegmentReasoning
	}
	return s
}

// edges are the marks that may come now, and the kind of what follows each.
func (s *Splitter) edges() (marks []string, to []engine.SegmentKind) {
	add := func(mark string, kind engine.SegmentKind) {
		if mark != "" {
			marks, to = append(marks, mark), append(to, kind)
		}
	}
	switch s.kind {
	case engine.SegmentReasoning:
		add(s.marks.ThinkEnd, engine.SegmentNormal)
		add(s.marks.ToolStart, engine.SegmentTool)
	case engine.SegmentTool:
		add(s.marks.ToolEnd, engine.SegmentNormal)
	default:
		add(s.marks.ThinkStart, engine.SegmentReasoning)
		add(s.marks.ToolStart, engine.SegmentTool)
	}
	return marks, to
}

// Add takes the next piece and returns the segments that are certain by now. last says that no more comes.
func (s *Splitter) Add(piece string, last bool) []engine.Segment {
	var out []engine.Segment
	s.piece = ""
	text := s.held + piece
	if s.marks.bare && !s.begun && s.kind == engine.SegmentNormal {
		s.held = text
		if text = strings.TrimLeft(text, " \n\t\r"); text == "" && !last {
			return nil
		}
		s.begun = true
		if strings.HasPrefix(text, "{") {
			s.kind = engine.SegmentTool
		} else {
			text = s.held
		}
		s.held = ""
	}
	marks, to := s.edges()
	for {
		at, which := stop.FirstOf(text, marks)
		if at < 0 {
			break
		}
		out = s.give(out, text[:at], true)
		text, s.kind = text[at+len(marks[which]):], to[which]
		marks, to = s.edges()
	}
	keep := 0
	if !last {
		keep = stop.OpenEnd(text, marks)
	}
	s.held = text[len(text)-keep:]
	return s.give(out, text[:len(text)-keep], last)
}

// CallText is the text of a call under way that the last Add was certain of: see engine.Token.
func (s *Splitter) CallText() string { return s.piece }

// give appends text of the kind under way; ends says that the kind, or the whole text, ends after it.
func (s *Splitter) give(out []engine.Segment, text string, ends bool) []engine.Segment {
	if s.kind != engine.SegmentTool {
		if text == "" {
			return out
		}
		return append(out, engine.Segment{Kind: s.kind, Text: text})
	}
	s.tool.WriteString(text)
	if !ends || s.tool.Len() == 0 {
		s.piece += text
		return out
	}
	s.piece = ""
	whole := engine.Segment{Kind: s.kind, Text: s.tool.String()}
	s.tool.Reset()
	if calls, err := s.marks.parse(whole.Text); err == nil {
		whole.Calls = calls
	}
	return append(out, whole)
}

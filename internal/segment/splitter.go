package segment

import (
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// Splitter divides one streamed text. What may begin a mark is held back until that is decided; marks are part of no
// segment; a tool call is held back until it is whole.
type Splitter struct {
	marks Marks
	kind  engine.SegmentKind
	held  string // undecided text of the kind under way
	tool  strings.Builder
}

// NewSplitter starts a text; in reasoning, if the prompt has opened it.
func NewSplitter(marks Marks, reasoning bool) *Splitter {
	s := &Splitter{marks: marks, kind: engine.SegmentNormal}
	if reasoning {
		s.kind = engine.SegmentReasoning
	}
	return s
}

// edge is a mark and the kind of what follows it.
type edge struct {
	mark string
	to   engine.SegmentKind
}

// edges are the marks that may come now.
func (s *Splitter) edges() []edge {
	var out []edge
	add := func(mark string, to engine.SegmentKind) {
		if mark != "" {
			out = append(out, edge{mark, to})
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
	return out
}

// Add takes the next piece and returns the segments that are certain by now. last says that no more comes.
func (s *Splitter) Add(piece string, last bool) []engine.Segment {
	var out []engine.Segment
	text := s.held + piece
	for {
		at, taken := -1, edge{}
		for _, e := range s.edges() {
			if i := strings.Index(text, e.mark); i >= 0 && (at < 0 || i < at) {
				at, taken = i, e
			}
		}
		if at < 0 {
			break
		}
		out = s.give(out, text[:at], true)
		text, s.kind = text[at+len(taken.mark):], taken.to
	}
	keep := 0
	if !last {
		for _, e := range s.edges() {
			for n := min(len(e.mark)-1, len(text)); n > keep; n-- {
				if strings.HasSuffix(text, e.mark[:n]) {
					keep = n
				}
			}
		}
	}
	s.held = text[len(text)-keep:]
	return s.give(out, text[:len(text)-keep], last)
}

// give appends text of the kind under way; ends says that the kind, or the whole text, ends behind it.
func (s *Splitter) give(out []engine.Segment, text string, ends bool) []engine.Segment {
	if s.kind != engine.SegmentTool {
		if text == "" {
			return out
		}
		return append(out, engine.Segment{Kind: s.kind, Text: text})
	}
	s.tool.WriteString(text)
	if !ends || s.tool.Len() == 0 {
		return out
	}
	whole := engine.Segment{Kind: s.kind, Text: s.tool.String()}
	s.tool.Reset()
	if calls, err := s.marks.parse(whole.Text); err == nil {
		whole.Calls = calls
	}
	return append(out, whole)
}

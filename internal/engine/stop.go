package engine

import "strings"

// StopMatcher looks for stop strings in streamed text, over the borders of its pieces. Text that may
// be the beginning of a stop string is held back until that is decided.
type StopMatcher struct {
	stops []string
	held  string
}

// NewStopMatcher looks for any of the stop strings; with none, text passes through.
func NewStopMatcher(stops []string) *StopMatcher { return &StopMatcher{stops: stops} }

// Add takes the next piece. It returns the text before the earliest stop string, and that string; "" if none was
// found.
func (m *StopMatcher) Add(piece string) (text, stop string) {
	if len(m.stops) == 0 {
		return piece, ""
	}
	buffer := m.held + piece
	first := -1
	for _, s := range m.stops {
		if i := strings.Index(buffer, s); i >= 0 && (first < 0 || i < first) {
			first, stop = i, s
		}
	}
	if first >= 0 {
		m.held = ""
		return buffer[:first], stop
	}
	keep := 0
	for _, stop := range m.stops {
		for n := min(len(stop)-1, len(buffer)); n > keep; n-- {
			if strings.HasSuffix(buffer, stop[:n]) {
				keep = n
				break
			}
		}
	}
	text, m.held = buffer[:len(buffer)-keep], buffer[len(buffer)-keep:]
	return text, ""
}

// Finish returns the text held back.
func (m *StopMatcher) Finish() string {
	held := m.held
	m.held = ""
	return held
}

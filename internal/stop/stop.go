// Package stop looks for stop strings and other marks in streamed text.
package stop

import "strings"

// Matcher looks for stop strings in streamed text, over the borders of its pieces. Text that may
// be the beginning of a stop string is held back until that is decided.
type Matcher struct {
	stops []string
	held  string
}

// NewMatcher looks for any of the stop strings; with none, text passes through.
func NewMatcher(stops []string) *Matcher { return &Matcher{stops: stops} }

// Add takes the next piece. It returns the text before the earliest stop string, and that string; "" if none was
// found.
func (m *Matcher) Add(piece string) (text, stop string) {
	if len(m.stops) == 0 {
		return piece, ""
	}
	buffer := m.held + piece
	if at, which := FirstOf(buffer, m.stops); at >= 0 {
		m.held = ""
		return buffer[:at], m.stops[which]
	}
	keep := OpenEnd(buffer, m.stops)
	text, m.held = buffer[:len(buffer)-keep], buffer[len(buffer)-keep:]
	return text, ""
}

// FirstOf returns where the earliest of some strings stands in a text, and which one it is; of several at one place, the first
// in the list. Without any, at is -1.
func FirstOf(text string, of []string) (at, which int) {
	at = -1
	for k, s := range of {
		if i := strings.Index(text, s); i >= 0 && (at < 0 || i < at) {
			at, which = i, k
		}
	}
	return at, which
}

// OpenEnd is how many bytes at the end of a text may be the beginning of one of some strings.
func OpenEnd(text string, of []string) int {
	longest := 0
	for _, s := range of {
		for n := min(len(s)-1, len(text)); n > longest; n-- {
			if strings.HasSuffix(text, s[:n]) {
				longest = n
				break
			}
		}
	}
	return longest
}

// Finish returns the text held back.
func (m *Matcher) Finish() string {
	held := m.held
	m.held = ""
	return held
}

package segment

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// CallPiece is a piece of a call under way: the call begins, its arguments grow, or it is whole. The arguments of a call are its
// pieces, joined: JSON as the model wrote it, with control characters in strings as escapes.
type CallPiece struct {
	Begins    bool
	ID, Name  string // where it begins; the id is empty where the model gives none before the arguments
	Arguments string
	Ends      bool // the arguments are whole
}

// Cutter reads the calls of one segment while the model writes them. It begins a call when its name is known and its arguments
// open, for from there on nothing can make it another call. A call that comes in another order (arguments first, or as a string)
// is read when it is whole. What is no call is not reported: a segment without pieces is to be read as a whole.
type Cutter struct {
	notation string
	offered  func(name string) bool

	out     []CallPiece
	state   cutState
	json    structure
	object  strings.Builder // of the call under way, or of a head of Mistral's
	key     string          // the last key of the call's own fields
	start   int             // in object, where the string or value under way began
	value   bool            // after the colon
	id      string
	name    string
	begun   bool // the call under way was reported
	refused bool // the call is of a function that was not offered
	started bool // a call, or what could become one, has begun in this segment
	ended   bool // a call has ended since the last mark, so that what comes may be a text
	growing bool // its arguments are under way
	grown   []byte
	failed  bool // what came is in no order that a call has
}

type cutState int

const (
	between cutState = iota // two calls
	inHead                  // name[ARGS], before the arguments
	inBare                  // the arguments of such a call
	inCall                  // an object that is a call
)

// NewCutter reads the calls of a template's notation; nil for a notation that cannot be cut.
func NewCutter(template string, offered func(name string) bool) *Cutter {
	switch name := notation(template); name {
	case "json_tools", "mistral", "llama3":
		return &Cutter{notation: name, offered: offered}
	}
	return nil
}

// Endless reports whether calls of this notation have no end mark, so that a text may follow them in their segment.
func (c *Cutter) Endless() bool { return notations[c.notation].ToolEnd == "" }

// Add takes the next piece of the segment.
func (c *Cutter) Add(text string) []CallPiece {
	c.out = nil
	for i := range len(text) {
		if c.failed {
			c.object.WriteString(text[i:])
			break
		}
		c.add(text[i])
	}
	c.flush()
	return c.out
}

// flush reports how the arguments have grown.
func (c *Cutter) flush() {
	if len(c.grown) > 0 {
		c.out = append(c.out, CallPiece{Arguments: string(c.grown)})
		c.grown = c.grown[:0]
	}
}

// Rest is what the segment has after its last call and is none.
func (c *Cutter) Rest() string {
	if c.begun {
		return ""
	}
	return strings.TrimSpace(c.object.String())
}

var mistralName = regexp.MustCompile(`^([\w.-]+)\s*\[(?:ARGS|CALL_ID)\]`)

// Open reports whether the arguments of a call that was reported are under way.
func (c *Cutter) Open() bool { return c.begun && c.growing }

// Unbegun reports whether the segment, if it is cut off here, ends in the beginning of a call that was not reported, and its name, if
// it is known and was offered. Where calls have no mark, what has no such name may be any JSON.
func (c *Cutter) Unbegun() (id, name string, ok bool) {
	marked := !notations[c.notation].bare
	switch {
	case c.failed || c.begun || c.refused:
		return "", "", false
	case c.state == between:
		return "", "", marked && !c.started
	}
	id, name = c.id, c.name
	if c.state == inHead {
		text := c.object.String()
		if found := mistralName.FindStringSubmatch(text); found != nil {
			name = found[1]
		}
		if found := mistralID.FindStringSubmatch(text); found != nil {
			id = found[1]
		}
	}
	switch {
	case name == "":
		return "", "", marked && !(c.state == inHead && c.ended && !strings.HasPrefix(mistralNext, c.object.String()))
	case !c.offered(name):
		return "", "", false
	}
	return id, name, true
}

func (c *Cutter) add(b byte) {
	switch c.state {
	case between:
		c.between(b)
	case inHead:
		c.object.WriteByte(b)
		c.head(b)
	case inBare:
		c.grow(b)
		if c.json.depth == 0 {
			c.end()
		}
	case inCall:
		c.call(b)
	}
}

// between looks for the next call.
func (c *Cutter) between(b byte) {
	switch {
	case strings.IndexByte(" \n\t\r;", b) >= 0 || c.notation == "mistral" && strings.IndexByte("[],", b) >= 0:
		return
	case b == '{':
		c.state, c.json, c.started = inCall, structure{}, true
		c.call(b)
	case c.notation == "mistral":
		c.state, c.started = inHead, true
		c.object.WriteByte(b)
	default:
		c.failed = true
		c.object.WriteByte(b)
	}
}

var (
	mistralID   = regexp.MustCompile(`\[CALL_ID\]\s*([\w-]+)`)
	mistralNext = "TOOL_CALLS]" // the mark of one more call, without the bracket that between passes over
)

// head reads name[ARGS] or name[CALL_ID]id[ARGS], up to the arguments.
func (c *Cutter) head(b byte) {
	const longest = 512
	text := c.object.String()
	if text == mistralNext {
		c.clear()
		c.ended = false
		return
	}
	if c.failed = len(text) > longest; c.failed || b != '{' {
		return
	}
	found := mistralHead.FindStringSubmatch(text)
	if found == nil || len(found[0]) != len(text)-1 {
		c.failed = true
		return
	}
	if id := mistralID.FindStringSubmatch(text); id != nil {
		c.id = id[1]
	}
	c.name, c.state, c.json = found[1], inBare, structure{}
	c.begin()
	c.grow(b)
}

// begin reports the call, if it is one that was offered.
func (c *Cutter) begin() {
	c.growing = true
	c.begun = c.offered(c.name)
	c.refused = !c.begun
	if c.begun {
		c.out = append(c.out, CallPiece{Begins: true, ID: c.id, Name: c.name})
	}
}

// grow adds a byte to the arguments of the call under way.
func (c *Cutter) grow(b byte) {
	text := c.json.add(b)
	if c.begun {
		c.grown = append(c.grown, text...)
	}
}

// end reports the end of the arguments under way.
func (c *Cutter) end() {
	c.growing, c.ended = false, true
	if c.begun {
		c.flush()
		c.out = append(c.out, CallPiece{Ends: true})
	}
	if c.state == inBare {
		c.clear()
	}
}

// clear makes ready for the next call.
func (c *Cutter) clear() {
	c.state, c.key, c.value, c.id, c.name, c.begun, c.refused, c.growing = between, "", false, "", "", false, false, false
	c.object.Reset()
}

// call reads an object with a name and arguments, which may be called parameters.
func (c *Cutter) call(b byte) {
	if c.growing {
		c.grow(b)
		if c.json.depth == 1 {
			c.end()
			c.value = false
		}
		return
	}
	field := c.json.depth == 1 && !c.json.inString
	if field && b == '{' && c.value && (c.key == "arguments" || c.key == "parameters") && c.name != "" && !c.begun && !c.refused {
		c.begin()
		c.grow(b)
		return
	}
	text := c.json.add(b)
	if !c.begun {
		c.object.WriteString(text)
	}
	switch {
	case c.json.depth == 0:
		c.endObject()
	case c.json.depth > 1 || c.begun:
	case field && c.json.inString: // a key or a value begins
		c.start = c.object.Len() - 1
	case !field && !c.json.inString && b == '"':
		c.endString(c.object.String()[c.start:])
	case field && b == ':':
		c.value = true
	case field && b == ',':
		c.value = false
	}
}

// endString takes a key of the call, or a value that is a string.
func (c *Cutter) endString(quoted string) {
	var text string
	if json.Unmarshal([]byte(quoted), &text) != nil {
		return
	}
	switch {
	case !c.value:
		c.key = text
	case c.key == "name":
		c.name = text
	case c.key == "id":
		c.id = text
	}
}

// endObject takes a call that is whole. One that was not reported before is read now.
func (c *Cutter) endObject() {
	if !c.begun && !c.refused {
		call, err := parseNamed(json.RawMessage(c.object.String()))
		if err != nil {
			c.failed = true
			return
		}
		if c.offered(call.Function.Name) {
			c.out = append(c.out, CallPiece{Begins: true, ID: call.ID, Name: call.Function.Name},
				CallPiece{Arguments: string(call.Function.Arguments)}, CallPiece{Ends: true})
		}
	}
	c.clear()
}

// structure follows the brackets and strings of JSON that need not be valid.
type structure struct {
	depth             int
	inString, escaped bool
}

// add takes the next byte, and returns it as JSON needs it: control characters in strings become escapes.
func (s *structure) add(b byte) string {
	switch {
	case !s.inString:
		switch b {
		case '"':
			s.inString = true
		case '{', '[':
			s.depth++
		case '}', ']':
			s.depth--
		}
	case s.escaped:
		s.escaped = false
	case b == '\\':
		s.escaped = true
	case b == '"':
		s.inString = false
	case b == '\n':
		return `\n`
	case b < ' ':
		return fmt.Sprintf(`\u%04x`, b)
	}
	return string([]byte{b})
}

// Whole is the arguments as JSON, also where the model's were none: cut off, or wrong. Then they are the text of one field, so
// that a part is not taken for the whole.
func Whole(arguments string) json.RawMessage {
	if strings.HasPrefix(arguments, "{") && jsontext.Value(arguments).IsValid() {
		return json.RawMessage(arguments)
	}
	data, err := json.Marshal(map[string]string{InvalidJSON: arguments})
	if err != nil { // a map of strings
		return json.RawMessage("{}")
	}
	return data
}

// InvalidJSON is the field that holds arguments that are no JSON, as Anthropic's documentation names it.
const InvalidJSON = "INVALID_JSON"

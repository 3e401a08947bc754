package turn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Treatment is how a field of a request is handled.
type Treatment int

// Treatments.
const (
	Honoured Treatment = iota
	Neutral            // taken at values that change nothing, and refused at others
	Unused             // taken; it has no effect here, and the answer's header and the log name it
	Refused            // at every value: to ignore it would change the answer
)

// Field is a row of an API's table. A path is written as clients know it, with [] for the items of a list; * stands for all
// other fields at that place.
type Field struct {
	Path      string
	Treatment Treatment
	Values    []string // JSON: the neutral values of Neutral; more values at which Unused is not worth naming
	Types     []string // of a list's items: those whose "type" is honoured. Others are left out, and named
	Why       string
}

// Table is all fields of one request. Null is the absence of a field, everywhere.
type Table struct {
	Route  string
	Fields []Field

	rows    map[string]Field
	parents map[string]bool // paths that have rows below them
}

// NewTable joins rows to a table.
func NewTable(route string, groups ...[]Field) *Table {
	t := &Table{Route: route, rows: map[string]Field{}, parents: map[string]bool{}}
	for _, f := range slices.Concat(groups...) {
		if _, twice := t.rows[f.Path]; twice {
			panic(fmt.Sprintf("%s: two rows for %s", route, f.Path))
		}
		t.Fields = append(t.Fields, f)
		t.rows[f.Path] = f
		for path := f.Path; ; {
			cut := strings.LastIndexAny(path, ".[")
			if cut < 0 {
				break
			}
			path = path[:cut]
			t.parents[path] = true
		}
	}
	return t
}

// Honour are fields that do what their API says.
func Honour(paths ...string) (out []Field) {
	for _, path := range paths {
		out = append(out, Field{Path: path})
	}
	return out
}

// NoEffect are fields that may be given and change nothing here.
func NoEffect(why string, paths ...string) (out []Field) {
	for _, path := range paths {
		out = append(out, Field{Path: path, Treatment: Unused, Why: why})
	}
	return out
}

// Default is a field without effect that says nothing at these values (JSON): its vendor's own default.
func Default(path, why string, values ...string) []Field {
	return []Field{{Path: path, Treatment: Unused, Values: values, Why: why}}
}

// OnlyAt is a field that is taken at these values (JSON) only.
func OnlyAt(path, why string, values ...string) []Field {
	return []Field{{Path: path, Treatment: Neutral, Values: values, Why: why}}
}

// Refuse are fields that are refused, because an answer that ignores them would not be what was asked for.
func Refuse(why string, paths ...string) (out []Field) {
	for _, path := range paths {
		out = append(out, Field{Path: path, Treatment: Refused, Why: why})
	}
	return out
}

// OnlyTypes are list items of which those of some types are honoured and others left out.
func OnlyTypes(path, why string, types ...string) []Field {
	return []Field{{Path: path, Types: types, Why: why}}
}

// Notes are the names of what a request asked for without effect, each once. Of a request with a great many the first ones are enough to
// say that.
type Notes struct{ names []string }

// Limits of notes: they go into a header and the log.
const (
	maxNotes     = 32
	maxNoteBytes = 120
)

// Add notes a name.
func (n *Notes) Add(name string) {
	name = Short(name, maxNoteBytes)
	if len(n.names) < maxNotes && !slices.Contains(n.names, name) {
		n.names = append(n.names, name)
	}
}

// Names are the noted names.
func (n *Notes) Names() []string { return n.names }

// Decode reads a request's JSON into value: fields without effect are left out and noted, those that cannot be honoured are
// errors that name them. Strict refuses what would be noted, too.
func (t *Table) Decode(body []byte, value any, strict bool) (*Notes, error) {
	f := filter{table: t, strict: strict, notes: &Notes{}}
	var kept bytes.Buffer
	d := jsontext.NewDecoder(bytes.NewReader(body))
	err := f.value(d, jsontext.NewEncoder(&kept), "", "")
	if err == nil {
		if _, rest := d.ReadToken(); rest != io.EOF {
			err = errors.New("there is more after the first value")
		}
	}
	var api *Error
	if errors.As(err, &api) {
		return nil, api
	}
	if err != nil {
		return nil, &Error{Kind: Invalid, Code: "invalid_json", Message: "the body is not JSON: " + err.Error()}
	}
	if err := json.Unmarshal(kept.Bytes(), value, json.RejectUnknownMembers(true)); err != nil {
		return nil, explainJSON(err)
	}
	return f.notes, nil
}

// filter copies JSON without what the table leaves out.
type filter struct {
	table  *Table
	strict bool
	notes  *Notes
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

// value copies one value. Path is its row in the table, at its place in the request.
func (f *filter) value(d *jsontext.Decoder, e *jsontext.Encoder, path, at string) error {
	kind := d.PeekKind()
	switch {
	case kind == '{' && (path == "" || f.table.parents[path]):
		return f.object(d, e, path, at)
	case kind == '[' && f.list(path):
		if err := f.token(d, e); err != nil {
			return err
		}
		for i := 0; d.PeekKind() != ']'; i++ {
			if err := f.item(d, e, path+"[]", fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return f.token(d, e)
	}
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	return e.WriteValue(v)
}

// list reports whether the table looks into the items of a list.
func (f *filter) list(path string) bool {
	_, row := f.table.rows[path+"[]"]
	return row || f.table.parents[path+"[]"]
}

func (f *filter) token(d *jsontext.Decoder, e *jsontext.Encoder) error {
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	return e.WriteToken(token)
}

// item copies an item of a list. Of one whose type is not honoured only the type is kept, so that the others keep their
// numbers.
func (f *filter) item(d *jsontext.Decoder, e *jsontext.Encoder, path, at string) error {
	row := f.table.rows[path]
	if len(row.Types) == 0 || d.PeekKind() != '{' {
		return f.value(d, e, path, at)
	}
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	v = v.Clone()
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(v, &head); err != nil || head.Type == "" || slices.Contains(row.Types, head.Type) {
		return f.value(jsontext.NewDecoder(bytes.NewReader(v)), e, path, at)
	}
	if err := f.unused(at, at+" ("+head.Type+")", row); err != nil {
		return err
	}
	left, err := json.Marshal(head)
	if err != nil {
		return err
	}
	return e.WriteValue(left)
}

func (f *filter) object(d *jsontext.Decoder, e *jsontext.Encoder, path, at string) error {
	if err := f.token(d, e); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return err
		}
		name := token.String()
		if d.PeekKind() == 'n' { // null is the absence of a field
			if _, err := d.ReadToken(); err != nil {
				return err
			}
			continue
		}
		if err := f.member(d, e, name, join(path, name), join(at, name), path); err != nil {
			return err
		}
	}
	return f.token(d, e)
}

func (f *filter) member(d *jsontext.Decoder, e *jsontext.Encoder, name, path, at, parent string) error {
	row, known := f.table.rows[path]
	if !known && !f.table.parents[path] {
		if row, known = f.table.rows[join(parent, "*")]; !known {
			row.Treatment, row.Why = Refused, "this server does not know the field"
		}
	}
	if row.Treatment == Honoured {
		if err := e.WriteToken(jsontext.String(name)); err != nil {
			return err
		}
		return f.value(d, e, path, at)
	}
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	v = v.Clone()
	if err := v.Canonicalize(); err != nil {
		return err
	}
	text := string(v)
	switch {
	case row.Treatment == Neutral && slices.Contains(row.Values, text):
		return nil
	case row.Treatment == Neutral:
		return &Error{Kind: Invalid, Code: "unsupported_value", Param: at, Message: at + ": " + row.Why + "; it may be " + strings.Join(row.Values, ", ")}
	case row.Treatment == Refused:
		return &Error{Kind: Invalid, Code: "unsupported_parameter", Param: at, Message: at + ": " + row.Why}
	case saysNothing(v), slices.Contains(row.Values, text):
		return nil
	}
	return f.unused(at, path, row)
}

// saysNothing reports whether a value of a field without effect is as good as none: empty, false, or an object of such values.
func saysNothing(v jsontext.Value) bool {
	switch v.Kind() {
	case 'n', 'f':
		return true
	case '"', '[':
		return len(v) == 2
	case '{':
		var members map[string]jsontext.Value
		if json.Unmarshal(v, &members) != nil {
			return false
		}
		for _, member := range members {
			if member.Kind() == '{' && len(member) > 2 || !saysNothing(member) { // one level is what clients leave empty
				return false
			}
		}
		return true
	}
	return false
}

// unused notes a field that has no effect.
func (f *filter) unused(at, name string, row Field) error {
	if f.strict {
		return &Error{Kind: Invalid, Code: "unsupported_parameter", Param: at, Message: at + ": it has no effect here, and the server is strict"}
	}
	f.notes.Add(name)
	return nil
}

// explainJSON names the field that has a value of the wrong kind.
func explainJSON(err error) error {
	var api *Error
	if errors.As(err, &api) {
		return api
	}
	var semantic *json.SemanticError
	if errors.As(err, &semantic) {
		field := fieldName("", semantic.JSONPointer)
		switch {
		case errors.Is(semantic.Err, json.ErrUnknownName):
			return &Error{Kind: Invalid, Code: "unsupported_parameter", Param: field, Message: field + ": this server does not know the field"}
		case semantic.Err != nil:
			return Bad(field, "%v", semantic.Err)
		}
		return Bad(field, "a JSON %s cannot stand here", semantic.JSONKind)
	}
	return &Error{Kind: Invalid, Code: "invalid_json", Message: "the body is not JSON: " + err.Error()}
}

// fieldName writes /messages/0/content as messages[0].content, as clients know it; at is where the pointer begins.
func fieldName(at string, p jsontext.Pointer) string {
	var b strings.Builder
	b.WriteString(at)
	for token := range p.Tokens() {
		if strings.Trim(token, "0123456789") == "" && token != "" && b.Len() > 0 {
			b.WriteString("[" + token + "]")
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(token)
	}
	if b.Len() == 0 {
		return "body"
	}
	return b.String()
}

// Markdown is the table for the docs.
func (t *Table) Markdown() string {
	var b strings.Builder
	groups := []struct {
		head string
		pick func(Field) bool
	}{
		{"honoured", func(f Field) bool { return f.Treatment == Honoured && len(f.Types) == 0 }},
		{"of some types; others are left out and named", func(f Field) bool { return len(f.Types) > 0 }},
		{"taken at these values only", func(f Field) bool { return f.Treatment == Neutral }},
		{"no effect, named (but not at a value in brackets)", func(f Field) bool { return f.Treatment == Unused }},
		{"refused", func(f Field) bool { return f.Treatment == Refused }},
	}
	fmt.Fprintf(&b, "#### `%s`\n\n| | |\n|---|---|\n", t.Route)
	for _, g := range groups {
		var cells []string
		for _, f := range t.Fields {
			if !g.pick(f) {
				continue
			}
			cell := "`" + f.Path + "`"
			if list := slices.Concat(f.Values, f.Types); len(list) > 0 {
				cell += " (" + strings.Join(list, ", ") + ")"
			}
			cells = append(cells, cell)
		}
		if len(cells) > 0 {
			fmt.Fprintf(&b, "| %s | %s |\n", g.head, strings.Join(cells, ", "))
		}
	}
	return b.String()
}

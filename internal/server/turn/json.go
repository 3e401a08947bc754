package turn

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Strings is a JSON string, or a list of them.
type Strings []string

// UnmarshalJSONFrom reads either form.
func (s *Strings) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		var list []*string
		if err := json.UnmarshalDecode(d, &list); err != nil {
			return err
		}
		*s = make(Strings, len(list))
		for i, text := range list {
			if text == nil {
				return errNull
			}
			(*s)[i] = *text
		}
		return nil
	}
	var one string
	if err := json.UnmarshalDecode(d, &one); err != nil {
		return err
	}
	*s = Strings{one}
	return nil
}

// errNull is a list that holds null, which would be read as "" or as token 0.
var errNull = errors.New("the list holds null")

// holdsNull reports whether null is in a list, or in a list in it.
func holdsNull(value jsontext.Value) bool {
	var list []jsontext.Value
	if value.Kind() != '[' || json.Unmarshal(value, &list) != nil {
		return false
	}
	return slices.ContainsFunc(list, func(v jsontext.Value) bool { return v.Kind() == 'n' || holdsNull(v) })
}

// Prompt is a text or token ids.
type Prompt struct {
	Text string
	IDs  []int32
}

// Prompts is a text, token ids, or a list of either.
type Prompts []Prompt

// UnmarshalJSONFrom reads any of the forms.
func (p *Prompts) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	value = value.Clone()
	try := func(into any) bool { return json.Unmarshal(value, into) == nil }
	var (
		text  string
		texts []string
		ids   []int32
		lists [][]int32
	)
	switch {
	case holdsNull(value):
		return errNull
	case try(&text):
		*p = Prompts{{Text: text}}
	case try(&texts):
		for _, text := range texts {
			*p = append(*p, Prompt{Text: text})
		}
	case try(&ids):
		*p = Prompts{{IDs: ids}}
	case try(&lists):
		for _, ids := range lists {
			*p = append(*p, Prompt{IDs: ids})
		}
	default:
		return errors.New("there are a text, a list of texts, token ids, and lists of token ids")
	}
	return nil
}

// Seed is a whole number of 64 bits, with or without a sign.
type Seed uint64

// UnmarshalJSONFrom reads a number.
func (s *Seed) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	text, rest, _ := strings.Cut(string(value), ".")
	if strings.Trim(rest, "0") != "" {
		return errors.New("not a whole number of 64 bits")
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		*s = Seed(n)
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return errors.New("not a whole number of 64 bits")
	}
	*s = Seed(n)
	return nil
}

// Count is a whole number; 20.0 is one, as some languages write it.
type Count int

// UnmarshalJSONFrom reads a number.
func (c *Count) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	whole, rest, _ := strings.Cut(string(value), ".")
	n, err := strconv.Atoi(whole)
	if err != nil || strings.Trim(rest, "0") != "" {
		return errors.New("not a whole number")
	}
	*c = Count(n)
	return nil
}

// Int is the number, or nil.
func (c *Count) Int() *int {
	if c == nil {
		return nil
	}
	n := int(*c)
	return &n
}

// Part reads a part of a request that was left as JSON; at is where the request has it.
func Part(at string, value jsontext.Value, into any) error {
	if len(value) == 0 {
		return Bad(at, "it is missing")
	}
	err := json.Unmarshal(value, into)
	if err == nil {
		return nil
	}
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return Bad(at, "%v", err)
	}
	at = fieldName(at, semantic.JSONPointer)
	if semantic.Err != nil {
		return Bad(at, "%v", semantic.Err)
	}
	return Bad(at, "a JSON %s cannot stand here", semantic.JSONKind)
}

package anthropic

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// systemText is a text, or a list of blocks of text, which are joined.
type systemText string

func (t *systemText) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '[' {
		return json.UnmarshalDecode(d, (*string)(t))
	}
	var c contents
	if err := json.UnmarshalDecode(d, &c); err != nil {
		return err
	}
	text, err := c.text("system")
	*t = systemText(text)
	return err
}

// contents are what is inside a block: a text, or a list of blocks. Blocks of other servers' tools have contents of any kind, so what cannot
// be read is an error only when it is asked for its text.
type contents struct {
	plain string
	parts []part
	other jsontext.Kind // a value that is neither
}

// part is a block inside a block. Clients send back blocks with whatever else is in them.
type part struct {
	Type    string   `json:"type"`
	Text    string   `json:"text"`
	Title   string   `json:"title"`
	Context string   `json:"context"`
	Content contents `json:"content"` // of a search result
	Source  source   `json:"source"`  // of a document
}

func (c *contents) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	switch kind := d.PeekKind(); kind {
	case '"':
		return json.UnmarshalDecode(d, &c.plain)
	case '[':
		return json.UnmarshalDecode(d, &c.parts, json.RejectUnknownMembers(false))
	case 'n':
		return d.SkipValue()
	default:
		c.other = kind
		return d.SkipValue()
	}
}

// text joins the blocks; at is where the request has them.
func (c contents) text(at string) (string, error) {
	if c.other != 0 {
		return "", turn.Bad(at, "a JSON %s cannot stand here", c.other)
	}
	texts := []string{c.plain}
	for i, p := range c.parts {
		at := fmt.Sprintf("%s[%d]", at, i)
		texts = append(texts, p.Title, p.Context, p.Text)
		var text string
		var err error
		switch p.Type {
		case "", "text":
		case "tool_reference": // there is no text in it
			texts = texts[:len(texts)-3]
		case "search_result":
			text, err = p.Content.text(at + ".content")
		case "document":
			text, err = p.Source.text(at + ".source")
		default:
			err = turn.Bad(at+".type", "this server takes blocks of text only, not %s", p.Type)
		}
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return paragraphs(texts...), nil
}

// source is where a document's text is; of a search result it is an address.
type source struct {
	Type    string   `json:"type"`
	Data    string   `json:"data"`
	Content contents `json:"content"`
}

func (s *source) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		return d.SkipValue()
	}
	type plain source
	return json.UnmarshalDecode(d, (*plain)(s), json.RejectUnknownMembers(false))
}

func (s source) text(at string) (string, error) {
	if s.Type != "text" && s.Type != "content" {
		return "", turn.Bad(at+".type", "a document of type %q; this server takes text", s.Type)
	}
	text, err := s.Content.text(at + ".content")
	return s.Data + text, err
}

// paragraphs joins the texts that say something.
func paragraphs(texts ...string) string {
	kept := texts[:0]
	for _, text := range texts {
		if text != "" {
			kept = append(kept, text)
		}
	}
	return strings.Join(kept, "\n")
}

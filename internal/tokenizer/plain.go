package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Marks that are put around a control token in a user's text until the template is rendered: private characters, which no
// template writes. They are those of transformers' sanitize_control_tokens, whose rules are followed here.
const (
	controlStart = "\U000F0000"
	controlEnd   = "\U000F0001"
)

// escapedMarks are the marks as templates print them where they escape what they print: JSON in ASCII, and Python's form of a text.
var escapedMarks = [][2]string{{`\udb80\udc00`, `\udb80\udc01`}, {`\U000f0000`, `\U000f0001`}}

// Guard keeps users' texts from becoming control tokens: text that spells one, such as <end_of_turn>, is encoded as the plain text that
// it is. It is safe for concurrent use.
type Guard struct {
	tokenizer *Tokenizer
	control   *tokenSet // nil if there are no control tokens
}

// added is an added token of a tokenizer.
type added struct {
	Content string `json:"content"`
	Special bool   `json:"special"`
}

func (t *Tokenizer) added() (list []added, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return nil, ErrClosed
	}
	var out, e C.gomlx_bytes
	if C.gomlx_tokenizer_added(t.t, &out, &e) != 0 {
		return nil, takeError(e)
	}
	return list, json.Unmarshal([]byte(takeString(out)), &list)
}

// EncodePlain encodes a text in which no added token counts.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	if !utf8.ValidString(text) {
		return nil, ErrInvalidUTF8
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return nil, ErrClosed
	}
	var ids C.gomlx_ids
	var e C.gomlx_bytes
	if C.gomlx_tokenizer_encode_plain(t.t, stringPtr(text), C.size_t(len(text)), &ids, &e) != 0 {
		return nil, takeError(e)
	}
	return takeIDs(ids), nil
}

// takeIDs copies ids and frees them.
func takeIDs(ids C.gomlx_ids) []int32 {
	defer C.gomlx_ids_free(ids)
	out := make([]int32, int(ids.len))
	for i, id := range unsafe.Slice((*uint32)(ids.data), int(ids.len)) {
		out[i] = int32(id)
	}
	return out
}

// NewGuard knows a tokenizer's control tokens: the special ones, and those added tokens that the model lists as such; where listed is nil,
// those that the chat template names.
func NewGuard(t *Tokenizer, template string, listed []string) (*Guard, error) {
	list, err := t.added()
	if err != nil {
		return nil, err
	}
	var control []string
	for _, token := range list {
		named := strings.TrimSpace(token.Content) != "" && strings.Contains(template, token.Content)
		if listed != nil {
			named = slices.Contains(listed, token.Content)
		}
		if token.Content != "" && (token.Special || named) {
			control = append(control, token.Content)
		}
	}
	g := &Guard{tokenizer: t}
	if len(control) > 0 {
		g.control = newTokenSet(control)
	}
	return g, nil
}

// Mark puts marks around the control tokens in a text; marks that it holds already are dropped.
func (g *Guard) Mark(text string) string {
	text = strings.NewReplacer(controlStart, "", controlEnd, "").Replace(text)
	if g.control == nil {
		return text
	}
	var out strings.Builder
	from := 0
	for i := 0; i < len(text); {
		n := g.control.prefix(text[i:])
		if n == 0 {
			i++
			continue
		}
		out.WriteString(text[from:i] + controlStart + text[i:i+n] + controlEnd)
		i += n
		from = i
	}
	out.WriteString(text[from:])
	return out.String()
}

// MarkJSON marks every text in a JSON value. Keys are marked, too, which transformers does not do: templates print those of functions' parameters, and no
// template asks for a key with a control token in it.
func (g *Guard) MarkJSON(data json.RawMessage) (json.RawMessage, error) {
	if g.control == nil || len(data) == 0 {
		return data, nil
	}
	var out []byte
	err := walkStrings(data, g.Mark, &out)
	return out, err
}

// Encode encodes a rendered text without special tokens around it. What is marked is plain text.
func (g *Guard) Encode(text string) ([]int32, error) {
	if g.control == nil {
		return g.tokenizer.Encode(text, false)
	}
	for _, marks := range escapedMarks {
		text = g.unescape(text, marks[0], marks[1])
	}
	var ids []int32
	behind := false
	add := func(encode func(string) ([]int32, error), piece string) error {
		more, err := g.encodePiece(encode, piece, behind)
		ids, behind = append(ids, more...), true
		return err
	}
	normal := func(s string) ([]int32, error) { return g.tokenizer.Encode(s, false) }
	for {
		at := strings.IndexAny(text, controlStart+controlEnd)
		if at < 0 {
			return ids, add(normal, text)
		}
		if err := add(normal, text[:at]); err != nil {
			return nil, err
		}
		text = text[at:]
		token, rest, ended := strings.Cut(text[len(controlStart):], controlEnd)
		if !strings.HasPrefix(text, controlStart) || !ended || !g.control.has(token) { // a lone mark
			text = text[len(controlStart):]
			continue
		}
		text = rest
		before := len(ids)
		if err := add(g.tokenizer.EncodePlain, token); err != nil {
			return nil, err
		}
		if id, ok := g.tokenizer.TokenID(token); ok && slices.Contains(ids[before:], id) {
			return nil, &engine.ControlTokenError{Token: token}
		}
	}
}

// unescape puts the marks themselves around control tokens that stand between start and end.
func (g *Guard) unescape(text, start, end string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, start)
		if !found {
			break
		}
		out.WriteString(before)
		n := g.control.prefix(rest)
		if n == 0 || !strings.HasPrefix(rest[n:], end) { // letters of the user's
			out.WriteString(start)
			text = rest
			continue
		}
		out.WriteString(controlStart + rest[:n] + controlEnd)
		text = rest[n+len(end):]
	}
	if out.Len() == 0 {
		return text
	}
	return out.String() + text
}

// encodePiece encodes a piece. Tokenizers may put a space before the first word of a text: after other pieces, a newline goes
// in front and is taken off again.
func (g *Guard) encodePiece(encode func(string) ([]int32, error), piece string, behind bool) ([]int32, error) {
	if piece == "" {
		return nil, nil
	}
	if behind {
		newline, err := g.tokenizer.Encode("\n", false)
		if err != nil {
			return nil, err
		}
		ids, err := encode("\n" + piece)
		if err != nil {
			return nil, err
		}
		if len(ids) >= len(newline) && slices.Equal(ids[:len(newline)], newline) {
			return ids[len(newline):], nil
		}
	}
	return encode(piece)
}

// tokenSet finds tokens at the beginning of texts. A regular expression of thousands of tokens takes twenty megabytes.
type tokenSet struct {
	tokens  map[string]bool
	lengths []int     // the different ones, longest first
	first   [256]bool // bytes with which a token begins
}

func newTokenSet(tokens []string) *tokenSet {
	s := &tokenSet{tokens: make(map[string]bool, len(tokens))}
	for _, token := range tokens {
		s.tokens[token], s.first[token[0]] = true, true
		s.lengths = append(s.lengths, len(token))
	}
	slices.SortFunc(s.lengths, func(a, b int) int { return b - a })
	s.lengths = slices.Compact(s.lengths)
	return s
}

func (s *tokenSet) has(token string) bool { return s.tokens[token] }

// prefix is the length of the longest token with which a text begins, 0 for none.
func (s *tokenSet) prefix(text string) int {
	if text == "" || !s.first[text[0]] {
		return 0
	}
	for _, n := range s.lengths {
		if n <= len(text) && s.tokens[text[:n]] {
			return n
		}
	}
	return 0
}

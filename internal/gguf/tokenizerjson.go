package gguf

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Tokenizer is what tokenizer.json would hold, for other programs.
func (h *Header) Tokenizer() ([]byte, error) {
	if whole := h.text(wholeTokenizer); whole != "" {
		return []byte(whole), h.checkTokenizer()
	}
	t, rest, err := h.readBoth()
	if err != nil {
		return nil, err
	}
	model, err := t.model()
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(`{"model":`), model, []byte(","), rest[1:]), nil
}

// model is the model of byte-pair encoding, as JSON. A vocabulary has hundreds of thousands of entries, for which encoding/json takes
// as long as loading a model.
func (t *tokenizer) model() ([]byte, error) {
	fields := object{
		"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": t.fuseUnknown, "byte_fallback": t.byteFallback, "ignore_merges": t.ignoreMerges,
	}
	if t.unknown >= 0 {
		fields["unk_token"] = t.tokens[t.unknown]
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	var out []byte
	quote := func(text string) {
		if err == nil {
			out, err = jsontext.AppendQuote(out, text)
		}
	}
	out = append(out, `{"vocab":{`...)
	comma := ""
	seen := make(map[string]bool, len(t.tokens))
	first := make([]bool, len(t.tokens)) // of the tokens with one text
	for id, token := range t.tokens {
		if token == "" || seen[token] {
			continue
		}
		seen[token], first[id] = true, true
		out = append(out, comma...)
		quote(token)
		out = strconv.AppendInt(append(out, ':'), int64(id), 10)
		comma = ","
	}
	out = append(out, `},"merges":[`...)
	comma = ""
	merge := func(left, right string) {
		out = append(append(out, comma...), '[')
		quote(left)
		out = append(out, ',')
		quote(right)
		out = append(out, ']')
		comma = ","
	}
	for i, line := range t.merges {
		merge(line[:t.spaces[i]], line[t.spaces[i]+1:])
	}
	if t.places != nil {
		t.eachMerge(first, merge)
	}
	out = append(out, `],`...)
	return append(out, rest[1:]...), err
}

// eachMerge derives the merges of a SentencePiece model: every way to make a token of two others, the best token first. The order
// within a score is that of Hugging Face's converter: the letters on the left, the most first; then those on the right, the union's
// id, the left one's, the right one's. The native engine needs no list of them: see Scores in internal/tokenizer/rust/src/bpe.rs.
func (t *tokenizer) eachMerge(first []bool, yield func(left, right string)) {
	type merge struct {
		token, left, right int // ids
		at                 int // the bytes of the left one
		letters            int // of the left one
		rest               int // letters of the right one
	}
	mergeable, order := make(map[string]int, len(first)), []int{}
	for id, first := range first {
		if first && t.places[id] != NotMerged {
			mergeable[t.tokens[id]] = id
			order = append(order, id)
		}
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(t.places[x], t.places[y]) })
	var all []merge
	for _, id := range order {
		token := t.tokens[id]
		letters, before := utf8.RuneCountInString(token), -1
		for at := range token {
			if before++; at == 0 {
				continue
			}
			if left, ok := mergeable[token[:at]]; ok {
				if right, ok := mergeable[token[at:]]; ok {
					all = append(all, merge{id, left, right, at, before, letters - before})
				}
			}
		}
	}
	for len(all) > 0 {
		n := 1
		for n < len(all) && t.places[all[n].token] == t.places[all[0].token] {
			n++
		}
		slices.SortFunc(all[:n], func(x, y merge) int {
			return cmp.Or(y.letters-x.letters, y.rest-x.rest, x.token-y.token, x.left-y.left, x.right-y.right)
		})
		for _, m := range all[:n] {
			yield(t.tokens[m.token][:m.at], t.tokens[m.token][m.at:])
		}
		all = all[n:]
	}
}

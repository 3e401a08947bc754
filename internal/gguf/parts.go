package gguf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Parts are a tokenizer as its file has it: the tokens and what merges them, and the rest as in tokenizer.json. A tokenizer is made
// of them without a detour over JSON, which would be as large as the model's weights are, and slow.
type Parts struct {
	Text string   // the texts of all tokens, one after the other
	Ends []uint32 // where each token's text ends. Ids with an empty text are unused; of ids with the same text all but the first are

	// Places of the tokens by their scores, the best first and equal for equal scores; NotMerged for tokens that are neither merged nor
	// merged to. Nil for tokenizers with Merges.
	Places []uint32

	Merges      string // lines, one after the other: two tokens with a space between them, the first to be merged first
	MergeEnds   []uint32
	MergeSpaces []uint32 // where the space of each line is

	Unknown                                int // the unknown token, or -1
	FuseUnknown, ByteFallback, IgnoreMerge bool

	Rest []byte // of tokenizer.json: all but the model
}

// NotMerged is the place of a token that has none.
const NotMerged = math.MaxUint32

type object = map[string]any

// tokenizer is what the metadata tell of a tokenizer.
type tokenizer struct {
	*Header
	tokens []string
	kinds  []int64

	places  []uint32 // see Parts
	merges  []string
	spaces  []int // in merges
	unknown int   // the first token with the text of the unknown one, or -1

	fuseUnknown, byteFallback, ignoreMerges bool

	normalizer, preTokenizer, decoder any
	addBOS                            bool
}

func (h *Header) readTokenizer() (*tokenizer, error) {
	if err := h.checkTokenizer(); err != nil {
		return nil, err
	}
	tokens, kinds := h.vocabulary()
	if len(tokens) == 0 {
		return nil, fmt.Errorf("%w: the metadata has no tokens (tokenizer.ggml.tokens): put the model's tokenizer.json beside the file", ErrMalformed)
	}
	if types, given := h.Metadata["tokenizer.ggml.token_type"]; given {
		if list, ok := types.([]int64); !ok || len(list) != len(tokens) {
			return nil, fmt.Errorf("%w: tokenizer.ggml.token_type is no list of a number for each of %d tokens", ErrMalformed, len(tokens))
		}
	}
	t := &tokenizer{Header: h, tokens: slices.Clone(tokens), kinds: kinds, unknown: -1}
	bytes := 0
	for id, token := range tokens {
		if !utf8.ValidString(token) {
			return nil, fmt.Errorf("%w: token %d is not valid UTF-8", ErrMalformed, id)
		}
		bytes += len(token)
	}
	if bytes > math.MaxInt32 {
		return nil, fmt.Errorf("%w: %d bytes of tokens", ErrMalformed, bytes)
	}
	switch model := h.text("tokenizer.ggml.model"); model {
	case "llama":
		return t, t.sentencePiece()
	case "gpt2":
		return t, t.byteLevel()
	default:
		return nil, fmt.Errorf("a tokenizer of the kind %q is %w in GGUF files (there are llama and gpt2): put the model's tokenizer.json beside the file", model, ErrUnsupported)
	}
}

// readBoth reads the tokenizer, and makes the JSON of all that tokenizer.json has beside the model.
func (h *Header) readBoth() (*tokenizer, []byte, error) {
	t, err := h.readTokenizer()
	if err != nil {
		return nil, nil, err
	}
	rest, err := t.rest()
	return t, rest, err
}

// Parts are the tokenizer's; nil if the file holds a whole tokenizer.json, which Tokenizer gives.
func (h *Header) Parts() (*Parts, error) {
	if h.text(wholeTokenizer) != "" {
		return nil, h.checkTokenizer()
	}
	t, rest, err := h.readBoth()
	if err != nil {
		return nil, err
	}
	p := &Parts{
		Places: t.places, Unknown: t.unknown, FuseUnknown: t.fuseUnknown, ByteFallback: t.byteFallback, IgnoreMerge: t.ignoreMerges, Rest: rest,
	}
	p.Text, p.Ends = oneBehindTheOther(t.tokens)
	p.Merges, p.MergeEnds = oneBehindTheOther(t.merges)
	if len(t.merges) > 0 {
		p.MergeSpaces = make([]uint32, len(t.merges))
		begin := uint32(0)
		for i, space := range t.spaces {
			p.MergeSpaces[i], begin = begin+uint32(space), p.MergeEnds[i]
		}
	}
	return p, nil
}

func oneBehindTheOther(texts []string) (string, []uint32) {
	size := 0
	for _, text := range texts {
		size += len(text)
	}
	var all strings.Builder
	all.Grow(size)
	ends := make([]uint32, len(texts))
	for i, text := range texts {
		all.WriteString(text)
		ends[i] = uint32(all.Len())
	}
	return all.String(), ends
}

// rest is what tokenizer.json has besides the model.
func (t *tokenizer) rest() ([]byte, error) {
	addBOS := t.addBOS
	if given, ok := t.Metadata["tokenizer.ggml.add_bos_token"].(bool); ok {
		addBOS = given
	}
	addEOS, _ := t.Metadata["tokenizer.ggml.add_eos_token"].(bool)
	return json.Marshal(object{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": t.added(), "normalizer": t.normalizer,
		"pre_tokenizer": t.preTokenizer, "post_processor": t.around(addBOS, addEOS), "decoder": t.decoder,
	})
}

// added are the tokens that are found in a text before it is split.
func (t *tokenizer) added() []object {
	out := []object{}
	for id, token := range t.tokens {
		if kind := t.kinds[id]; token == "" || kind != tokenControl && kind != tokenUserDefined && kind != tokenUnknown {
			continue
		}
		out = append(out, object{
			"id": id, "content": token, "special": t.kinds[id] != tokenUserDefined,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		})
	}
	return out
}

// around is the post-processor that puts <bos> and <eos> around a text.
func (t *tokenizer) around(addBOS, addEOS bool) any {
	special := object{}
	put := func(role string, wanted bool, second int) (out []object) {
		id, ok := t.tokenID(role)
		if !wanted || !ok {
			return nil
		}
		token := t.tokens[id]
		special[token] = object{"id": token, "ids": []int{id}, "tokens": []string{token}}
		return []object{{"SpecialToken": object{"id": token, "type_id": second}}}
	}
	sequence := func(name string, second int) object {
		return object{"Sequence": object{"id": name, "type_id": second}}
	}
	one := slices.Concat(put("bos", addBOS, 0), []object{sequence("A", 0)}, put("eos", addEOS, 0))
	two := slices.Concat(one, put("bos", addBOS, 1), []object{sequence("B", 1)}, put("eos", addEOS, 1))
	if len(special) == 0 {
		return nil
	}
	return object{"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": special}
}

// spaceMark is what SentencePiece writes for a space.
const spaceMark = "▁"

// sentencePiece reads a model that joins the two neighbours whose union has the best score.
func (t *tokenizer) sentencePiece() error {
	scores, _ := t.Metadata["tokenizer.ggml.scores"].([]float64)
	if len(scores) != len(t.tokens) {
		return fmt.Errorf("%w: %d scores for %d tokens", ErrMalformed, len(scores), len(t.tokens))
	}
	t.markSpaces()
	t.rank(scores)
	prefix := true
	if given, ok := t.Metadata["tokenizer.ggml.add_space_prefix"].(bool); ok {
		prefix = given
	}
	mark := object{"type": "Replace", "pattern": object{"String": " "}, "content": spaceMark}
	decoders := []object{
		{"type": "Replace", "pattern": object{"String": spaceMark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
	}
	t.normalizer = mark
	if prefix {
		t.normalizer = object{"type": "Sequence", "normalizers": []object{{"type": "Prepend", "prepend": spaceMark}, mark}}
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	t.decoder = object{"type": "Sequence", "decoders": decoders}
	t.fuseUnknown, t.byteFallback, t.addBOS = true, true, true
	unknown := slices.Index(t.kinds, tokenUnknown)
	if id, ok := t.tokenID("unknown"); ok {
		unknown = id
	}
	if unknown >= 0 && t.tokens[unknown] != "" {
		t.unknown = slices.Index(t.tokens, t.tokens[unknown])
	}
	return nil
}

// markSpaces writes runs of spaces that the model's authors defined with marks, as the tokenizers library keeps them; files have them with
// spaces. A text that another token already has stays with that token.
func (t *tokenizer) markSpaces() {
	taken := map[string]bool{}
	for id, token := range t.tokens {
		if t.kinds[id] == tokenUserDefined && strings.Contains(token, " ") {
			taken[strings.ReplaceAll(token, " ", spaceMark)] = false
		}
	}
	if len(taken) == 0 {
		return
	}
	for _, token := range t.tokens {
		if _, wanted := taken[token]; wanted {
			taken[token] = true
		}
	}
	for id, token := range t.tokens {
		if t.kinds[id] == tokenUserDefined && strings.Contains(token, " ") {
			if marked := strings.ReplaceAll(token, " ", spaceMark); !taken[marked] {
				t.tokens[id], taken[marked] = marked, true
			}
		}
	}
}

// rank fills the places: first those tokens that are joined before all others, then the rest by their scores.
func (t *tokenizer) rank(scores []float64) {
	t.places = make([]uint32, len(t.tokens))
	order := make([]uint32, 0, len(t.tokens)) // the best score first; most files have them in this order already
	sorted := true
	anyFirst := uint32(0)
	for id := range uint32(len(t.tokens)) {
		t.places[id] = NotMerged
		if t.tokens[id] == "" {
			continue
		}
		score := scores[id]
		if math.IsNaN(score) {
			score = math.Inf(-1)
		}
		switch kind := t.kinds[id]; {
		case kind == tokenUserDefined || kind == tokenNormal && math.IsInf(score, 1):
			t.places[id], anyFirst = 0, 1
		case kind == tokenNormal:
			sorted = sorted && (len(order) == 0 || scores[order[len(order)-1]] >= score)
			order = append(order, id)
		}
	}
	scoreOf := func(id uint32) float64 {
		if score := scores[id]; !math.IsNaN(score) {
			return score
		}
		return math.Inf(-1)
	}
	if !sorted {
		slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(scoreOf(b), scoreOf(a)) })
	}
	place := anyFirst
	for i, id := range order {
		if i > 0 && scoreOf(order[i-1]) != scoreOf(id) {
			place++
		}
		t.places[id] = place
	}
}

// byteLevel reads a model whose merges are written down.
func (t *tokenizer) byteLevel() error {
	pre, ok := preTokenizers[t.text("tokenizer.ggml.pre")]
	if !ok {
		return fmt.Errorf("texts split as for %q (tokenizer.ggml.pre) are %w: put the model's tokenizer.json beside the file", t.text("tokenizer.ggml.pre"), ErrUnsupported)
	}
	merges, given := t.Metadata["tokenizer.ggml.merges"].([]string)
	if !given {
		return fmt.Errorf("%w: the metadata has no merges (tokenizer.ggml.merges): put the model's tokenizer.json beside the file", ErrMalformed)
	}
	t.merges = merges
	t.spaces = make([]int, len(t.merges))
	bytes := 0
	for i, line := range t.merges {
		// The parts are not empty, and may hold what looks like a space only as a letter of its own.
		at := strings.IndexByte(line[min(1, len(line)):], ' ') + 1
		if at < 1 || at+1 >= len(line) || !utf8.ValidString(line) {
			return fmt.Errorf("%w: merge %d is %q", ErrMalformed, i, line)
		}
		t.spaces[i] = at
		bytes += len(line)
	}
	if bytes > math.MaxInt32 {
		return fmt.Errorf("%w: %d bytes of merges", ErrMalformed, bytes)
	}
	step := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": pre.gpt2}
	t.preTokenizer = object{"type": "Sequence", "pretokenizers": append(slices.Clone(pre.steps), step)}
	if pre.nfc {
		t.normalizer = object{"type": "NFC"}
	}
	t.decoder = object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
	t.ignoreMerges, t.addBOS = pre.ignoreMerges, pre.bos
	return nil
}

package gguf

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Kinds of tokens in tokenizer.ggml.token_type.
const (
	tokenNormal      = 1
	tokenUnknown     = 2
	tokenControl     = 3
	tokenUserDefined = 4
	tokenUnused      = 5
	tokenByte        = 6
)

// The model's own text is kept under this key by newer converters: then nothing has to be rebuilt.
const wholeTokenizer = "tokenizer.huggingface.json"

// endTexts are what models write at the end of a turn; a file need not name all of them. As in llama.cpp.
var endTexts = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>",
	"<EOT>", "_<EOT>", "<|end_of_turn|>", "<end_of_utterance>",
}

// tokenID is the id of a token with a role: "bos", "eos", "unknown", "padding", "eot", "eom".
func (h *Header) tokenID(role string) (int, bool) {
	id, ok := h.Metadata["tokenizer.ggml."+role+"_token_id"].(int64)
	if tokens, _ := h.Metadata["tokenizer.ggml.tokens"].([]string); !ok || id < 0 || len(tokens) > 0 && id >= int64(len(tokens)) {
		return 0, false
	}
	return int(id), true
}

// endTokens are the ids that end a text.
func (h *Header) endTokens() []int {
	var out []int
	for _, role := range []string{"eos", "eot", "eom"} {
		if id, ok := h.tokenID(role); ok {
			out = append(out, id)
		}
	}
	tokens, kinds := h.vocabulary()
	for id, token := range tokens {
		if kinds[id] == tokenControl && slices.Contains(endTexts, token) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// vocabulary is the tokens with their kinds, which are normal where the file does not say.
func (h *Header) vocabulary() ([]string, []int64) {
	tokens, _ := h.Metadata["tokenizer.ggml.tokens"].([]string)
	kinds, _ := h.Metadata["tokenizer.ggml.token_type"].([]int64)
	if len(kinds) != len(tokens) {
		kinds = slices.Repeat([]int64{tokenNormal}, len(tokens))
	}
	return tokens, kinds
}

// TokenizerConfig is what tokenizer_config.json would hold.
func (h *Header) TokenizerConfig() map[string]any {
	out := map[string]any{}
	tokens, _ := h.vocabulary()
	for name, role := range map[string]string{
		"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator", "mask_token": "mask",
	} {
		if id, ok := h.tokenID(role); ok && id < len(tokens) {
			out[name] = tokens[id]
		}
	}
	if template := h.text("tokenizer.chat_template"); template != "" {
		out["chat_template"] = template
	}
	out["tokenizer_class"] = "PreTrainedTokenizerFast"
	return out
}

type object = map[string]any

// Tokenizer is what tokenizer.json would hold, for the tokenizers library.
func (h *Header) Tokenizer() ([]byte, error) {
	if whole := h.text(wholeTokenizer); whole != "" {
		return []byte(whole), nil
	}
	tokens, kinds := h.vocabulary()
	if len(tokens) == 0 {
		return nil, fmt.Errorf("%w: the metadata has no tokens (tokenizer.ggml.tokens): put the model's tokenizer.json beside the file", ErrMalformed)
	}
	b := &tokenizerBuilder{Header: h, tokens: slices.Clone(tokens), kinds: kinds, ids: make(map[string]int, len(tokens)), first: make([]bool, len(tokens))}
	for id, token := range tokens {
		if !utf8.ValidString(token) {
			return nil, fmt.Errorf("%w: token %d is not valid UTF-8", ErrMalformed, id)
		}
		if _, taken := b.ids[token]; !taken {
			b.ids[token], b.first[id] = id, true
		}
	}
	switch model := h.text("tokenizer.ggml.model"); model {
	case "llama":
		return b.sentencePiece()
	case "gpt2":
		return b.byteLevel()
	default:
		return nil, fmt.Errorf("a tokenizer of the kind %q is %w in GGUF files (there are llama and gpt2): put the model's tokenizer.json beside the file", model, ErrUnsupported)
	}
}

type tokenizerBuilder struct {
	*Header
	tokens []string
	kinds  []int64
	ids    map[string]int
	first  []bool // of the tokens with one text
}

// whole joins what both kinds have. model is JSON: as large as it is, it is not marshalled again.
func (b *tokenizerBuilder) whole(model []byte, normalizer, preTokenizer, decoder any, addBOS bool) ([]byte, error) {
	if given, ok := b.Metadata["tokenizer.ggml.add_bos_token"].(bool); ok {
		addBOS = given
	}
	addEOS, _ := b.Metadata["tokenizer.ggml.add_eos_token"].(bool)
	rest, err := json.Marshal(object{
		"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": b.added(), "normalizer": normalizer,
		"pre_tokenizer": preTokenizer, "post_processor": b.around(addBOS, addEOS), "decoder": decoder,
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(`{"model":`), model, []byte(","), rest[1:]), nil
}

// added are the tokens that are found in a text before it is split.
func (b *tokenizerBuilder) added() []object {
	out := []object{}
	for id, token := range b.tokens {
		if kind := b.kinds[id]; token == "" || kind != tokenControl && kind != tokenUserDefined && kind != tokenUnknown {
			continue
		}
		out = append(out, object{
			"id": id, "content": token, "special": b.kinds[id] != tokenUserDefined,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
		})
	}
	return out
}

// around is the post-processor that puts <bos> and <eos> around a text.
func (b *tokenizerBuilder) around(addBOS, addEOS bool) any {
	special, one, two := object{}, []object{}, []object{}
	put := func(role string, wanted bool, second int) (out []object) {
		id, ok := b.tokenID(role)
		if !wanted || !ok {
			return nil
		}
		token := b.tokens[id]
		special[token] = object{"id": token, "ids": []int{id}, "tokens": []string{token}}
		return []object{{"SpecialToken": object{"id": token, "type_id": second}}}
	}
	sequence := func(name string, second int) object {
		return object{"Sequence": object{"id": name, "type_id": second}}
	}
	one = slices.Concat(put("bos", addBOS, 0), []object{sequence("A", 0)}, put("eos", addEOS, 0))
	two = slices.Concat(one, put("bos", addBOS, 1), []object{sequence("B", 1)}, put("eos", addEOS, 1))
	if len(special) == 0 {
		return nil
	}
	return object{"type": "TemplateProcessing", "single": one, "pair": two, "special_tokens": special}
}

// bpe is the model of byte-pair encoding, as JSON. A vocabulary has hundreds of thousands of entries, and encoding/json takes as
// long for them as everything else that loading does.
func (b *tokenizerBuilder) bpe(merges [][2]string, more object) ([]byte, error) {
	fields := object{
		"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
	}
	for k, v := range more {
		fields[k] = v
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 24*len(b.tokens)+20*len(merges))
	quote := func(text string) {
		if err == nil {
			out, err = jsontext.AppendQuote(out, text)
		}
	}
	out = append(out, `{"vocab":{`...)
	comma := ""
	for id, token := range b.tokens {
		if !b.first[id] {
			continue // the first of two tokens with one text counts
		}
		out = append(out, comma...)
		quote(token)
		out = strconv.AppendInt(append(out, ':'), int64(id), 10)
		comma = ","
	}
	out = append(out, `},"merges":[`...)
	for i, m := range merges {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, '[')
		quote(m[0])
		out = append(out, ',')
		quote(m[1])
		out = append(out, ']')
	}
	out = append(out, `],`...)
	return append(out, rest[1:]...), err
}

// spaceMark is what SentencePiece writes for a space.
const spaceMark = "▁"

func (b *tokenizerBuilder) sentencePiece() ([]byte, error) {
	scores, _ := b.Metadata["tokenizer.ggml.scores"].([]float64)
	if len(scores) != len(b.tokens) {
		return nil, fmt.Errorf("%w: %d scores for %d tokens", ErrMalformed, len(scores), len(b.tokens))
	}
	// Runs of spaces that the model's authors defined are kept with spaces in the file, and with marks by the library.
	for id, token := range b.tokens {
		if b.kinds[id] == tokenUserDefined && strings.Contains(token, " ") {
			if marked := strings.ReplaceAll(token, " ", spaceMark); b.free(marked) {
				delete(b.ids, token)
				b.tokens[id], b.ids[marked] = marked, id
			}
		}
	}
	prefix := true
	if given, ok := b.Metadata["tokenizer.ggml.add_space_prefix"].(bool); ok {
		prefix = given
	}
	mark := object{"type": "Replace", "pattern": object{"String": " "}, "content": spaceMark}
	decoders := []object{
		{"type": "Replace", "pattern": object{"String": spaceMark}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
	}
	normalizer := mark
	if prefix {
		normalizer = object{"type": "Sequence", "normalizers": []object{{"type": "Prepend", "prepend": spaceMark}, mark}}
		decoders = append(decoders, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	more := object{"fuse_unk": true, "byte_fallback": true}
	unknown := slices.Index(b.kinds, tokenUnknown)
	if id, ok := b.tokenID("unknown"); ok {
		unknown = id
	}
	if unknown >= 0 {
		more["unk_token"] = b.tokens[unknown]
	}
	model, err := b.bpe(b.mergesOf(scores), more)
	if err != nil {
		return nil, err
	}
	return b.whole(model, normalizer, nil, object{"type": "Sequence", "decoders": decoders}, true)
}

func (b *tokenizerBuilder) free(token string) bool {
	_, taken := b.ids[token]
	return !taken
}

// mergesOf derives the merges of a SentencePiece model, which joins the two neighbours whose union has the best score: every way
// to make a token of two others, the best token first. The order within a score is that of Hugging Face's converter: the letters on
// the left, the most first; then those on the right, the union's id, the left one's, the right one's.
func (b *tokenizerBuilder) mergesOf(scores []float64) [][2]string {
	type merge struct {
		token, left, right int // ids
		at                 int // the bytes of the left one
		letters            int // of the left one
		rest               int // letters of the right one
	}
	scoreOf := func(id int) float64 {
		if b.kinds[id] == tokenUserDefined {
			return math.Inf(1) // joined before all others
		}
		return scores[id]
	}
	var order []int // tokens, the best score first; most files have them in this order already
	for id, first := range b.first {
		if kind := b.kinds[id]; first && (kind == tokenNormal || kind == tokenUserDefined) {
			order = append(order, id)
		}
	}
	mergeable := newPieces(len(order))
	for _, id := range order {
		if b.tokens[id] != "" {
			mergeable.add(b.tokens[id], id)
		}
	}
	byScore := func(x, y int) int { return cmp.Compare(scoreOf(y), scoreOf(x)) }
	if !slices.IsSortedFunc(order, byScore) {
		slices.SortStableFunc(order, byScore)
	}
	// The ways to make each token are found on all processors; a piece of the order for each.
	pieces := slices.Collect(slices.Chunk(order, max(1, len(order)/runtime.GOMAXPROCS(0)+1)))
	found := make([][]merge, len(pieces))
	var wait sync.WaitGroup
	for i, piece := range pieces {
		wait.Go(func() {
			for _, id := range piece {
				token := b.tokens[id]
				letters, before := utf8.RuneCountInString(token), -1
				for at := range token {
					if before++; at == 0 {
						continue
					}
					left, ok := mergeable.get(token[:at])
					if !ok {
						continue
					}
					if right, ok := mergeable.get(token[at:]); ok {
						found[i] = append(found[i], merge{id, left, right, at, before, letters - before})
					}
				}
			}
		})
	}
	wait.Wait()
	all := slices.Concat(found...)
	out := make([][2]string, 0, len(all))
	for len(all) > 0 {
		score, n := scoreOf(all[0].token), 1
		for n < len(all) && scoreOf(all[n].token) == score {
			n++
		}
		slices.SortFunc(all[:n], func(x, y merge) int {
			return cmp.Or(y.letters-x.letters, y.rest-x.rest, x.token-y.token, x.left-y.left, x.right-y.right)
		})
		for _, m := range all[:n] {
			out = append(out, [2]string{b.tokens[m.token][:m.at], b.tokens[m.token][m.at:]})
		}
		all = all[n:]
	}
	return out
}

func (b *tokenizerBuilder) byteLevel() ([]byte, error) {
	pre, ok := preTokenizers[b.text("tokenizer.ggml.pre")]
	if !ok {
		return nil, fmt.Errorf("texts split as for %q (tokenizer.ggml.pre) are %w: put the model's tokenizer.json beside the file", b.text("tokenizer.ggml.pre"), ErrUnsupported)
	}
	lines, _ := b.Metadata["tokenizer.ggml.merges"].([]string)
	merges := make([][2]string, 0, len(lines))
	for i, line := range lines {
		// The parts are not empty, and may hold what looks like a space only as a letter of its own.
		at := strings.IndexByte(line[min(1, len(line)):], ' ') + 1
		if at < 1 || at+1 >= len(line) {
			return nil, fmt.Errorf("%w: merge %d is %q", ErrMalformed, i, line)
		}
		merges = append(merges, [2]string{line[:at], line[at+1:]})
	}
	bytes := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": pre.gpt2}
	steps := append(slices.Clone(pre.steps), bytes)
	var normalizer any
	if pre.nfc {
		normalizer = object{"type": "NFC"}
	}
	decoder := object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
	model, err := b.bpe(merges, object{"ignore_merges": pre.ignoreMerges})
	if err != nil {
		return nil, err
	}
	return b.whole(model, normalizer,
		object{"type": "Sequence", "pretokenizers": steps}, decoder, pre.bos)
}

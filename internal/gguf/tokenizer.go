package gguf

import "slices"

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
		// Some models have a second one for chats in which functions can be called.
		if tools := h.text("tokenizer.chat_template.tool_use"); tools != "" {
			out["chat_template"] = []map[string]string{{"name": "default", "template": template}, {"name": "tool_use", "template": tools}}
		}
	}
	if value, there := h.Metadata["tokenizer.chat_template"]; there {
		if _, ok := value.(string); !ok {
			out["chat_template"] = false // which is no template either: chats say so
		}
	}
	out["tokenizer_class"] = "PreTrainedTokenizerFast"
	return out
}

package gguf

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// family is an architecture of llama.cpp as it is known to Hugging Face.
type family struct {
	modelType   string
	sandwich    bool // norms what a block puts out, too
	normPlusOne bool // norms are kept with one added
	interleaved bool // rotated pairs lie side by side
	config      func(h *Header, said, assumed map[string]any) error
}

// families are by general.architecture.
var families = map[string]*family{
	"gemma3":  {modelType: "gemma3_text", sandwich: true, normPlusOne: true, config: gemma3Config},
	"llama":   {modelType: "llama", interleaved: true, config: llamaConfig},
	"mistral": {modelType: "llama", interleaved: true, config: llamaConfig},
	"qwen2":   {modelType: "qwen2", config: ropeConfig},
	"qwen3":   {modelType: "qwen3", config: ropeConfig},
}

// familyOf is the architecture that a header names.
func familyOf(h *Header) (*family, error) {
	if kind := h.text("general.type"); kind != "" && kind != "model" {
		return nil, fmt.Errorf("a file of the kind %q (general.type) is %w: it belongs to a model and is none; name the model's own file", kind, ErrUnsupported)
	}
	name := h.Architecture()
	if f, ok := families[name]; ok {
		return f, nil
	}
	if name == "" {
		return nil, fmt.Errorf("%w: no general.architecture", ErrMalformed)
	}
	return nil, fmt.Errorf("architecture %q is %w in GGUF files, which can hold %s: get the model's safetensors for the python engine, which has others",
		name, ErrUnsupported, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
}

// Architecture is general.architecture, "" if there is none.
func (h *Header) Architecture() string { return h.text("general.architecture") }

// ropeFactors is a tensor of Llama 3.1 and later: what each frequency is divided by.
const ropeFactors = "rope_freqs.weight"

// tensorNames are llama.cpp's names of tensors, without block numbers, and Hugging Face's.
var tensorNames = map[string]string{
	"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head",
	"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
	"attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
	"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_norm": "post_attention_layernorm",
}

// sandwichNames are the names that differ in families that norm also what a block puts out.
var sandwichNames = map[string]string{
	"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
}

// name is the usual name of a tensor; unknown names stay, to be reported.
func (f *family) name(name string) string {
	block, rest, inBlock := "", name, false
	if after, ok := strings.CutPrefix(name, "blk."); ok {
		block, rest, inBlock = strings.Cut(after, ".")
	}
	kind, suffix, _ := strings.Cut(rest, ".")
	usual, ok := tensorNames[kind]
	if other, differs := sandwichNames[kind]; differs && f.sandwich {
		usual, ok = other, true
	}
	switch {
	case !ok:
		return name
	case inBlock:
		return "model.layers." + block + "." + usual + "." + suffix
	case kind == "output":
		return usual + "." + suffix
	}
	return "model." + usual + "." + suffix
}

// rotated is the number of heads whose rows a tensor holds in another order, or 0.
func (f *family) rotated(h *Header, name string) int {
	if !f.interleaved || !strings.HasPrefix(name, "blk.") {
		return 0
	}
	_, rest, _ := strings.Cut(strings.TrimPrefix(name, "blk."), ".")
	heads := 0
	switch rest, _, _ = strings.Cut(rest, "."); rest {
	case "attn_q":
		heads, _ = h.arch("attention.head_count")
	case "attn_k":
		var ok bool
		if heads, ok = h.arch("attention.head_count_kv"); !ok {
			heads, _ = h.arch("attention.head_count")
		}
	}
	return max(heads, 0)
}

package gguf

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// kind is what a value of the metadata must be. A value of another kind is an error: if it was ignored, a default would be used in its place,
// and the model would silently compute something else.
type kind int

const (
	countKind  kind = iota // a whole number from 0 on
	wholeKind              // that, or a list with the same one for each layer
	numberKind             // any number
	textKind
	flagKind
	perLayerKind // a whole number, or a list of flags
	idKind       // any whole number: one that is no token's means that there is none
	textsKind
	scoresKind
)

var kindNames = [...]string{
	"a whole number from 0 on", "a whole number from 0 on", "a number", "a text", "true or false", "a whole number or a list of flags",
	"a whole number", "a list of texts", "a list of floating-point numbers",
}

// fileKinds are the keys that are read of any file.
var fileKinds = map[string]kind{
	"general.architecture": textKind, "general.type": textKind, "general.alignment": countKind, "split.count": countKind, "split.no": countKind,
	"split.tensors.count": countKind,
}

// archKinds are the keys that are read of an architecture, without its name.
var archKinds = map[string]kind{
	"embedding_length": wholeKind, "block_count": wholeKind, "feed_forward_length": wholeKind, "context_length": wholeKind, "expert_count": wholeKind,
	"attention.head_count": wholeKind, "attention.head_count_kv": wholeKind, "attention.key_length": wholeKind, "attention.value_length": wholeKind,
	"attention.layer_norm_rms_epsilon": numberKind, "attention.sliding_window": wholeKind, "attention.sliding_window_pattern": perLayerKind,
	"rope.dimension_count": wholeKind, "rope.freq_base": numberKind, "rope.freq_base_swa": numberKind, "rope.scaling.type": textKind, "rope.scaling.factor": numberKind,
	"rope.scale_linear":       numberKind,
	"final_logit_softcapping": numberKind,
}

// idKinds are the keys of tokens that have a role. Ids may be outside the vocabulary: then no token has it.
var idKinds = map[string]kind{
	"tokenizer.ggml.bos_token_id": idKind, "tokenizer.ggml.eos_token_id": idKind, "tokenizer.ggml.eot_token_id": idKind,
	"tokenizer.ggml.eom_token_id": idKind, "tokenizer.ggml.unknown_token_id": idKind, "tokenizer.ggml.padding_token_id": idKind,
	"tokenizer.ggml.seperator_token_id": idKind, "tokenizer.ggml.mask_token_id": idKind,
}

// tokenizerKinds are the keys that are read of a tokenizer, beside those of ids.
var tokenizerKinds = map[string]kind{
	wholeTokenizer: textKind, "tokenizer.ggml.model": textKind, "tokenizer.ggml.pre": textKind, "tokenizer.ggml.tokens": textsKind,
	"tokenizer.ggml.merges": textsKind, "tokenizer.ggml.scores": scoresKind,
	"tokenizer.ggml.add_bos_token": flagKind, "tokenizer.ggml.add_eos_token": flagKind, "tokenizer.ggml.add_space_prefix": flagKind,
}

// checkTokenizer names the first value of the tokenizer that is not of its kind.
func (h *Header) checkTokenizer() error {
	if err := h.checkKinds("", idKinds); err != nil {
		return err
	}
	return h.checkKinds("", tokenizerKinds)
}

// checkArchitecture names the first value of the architecture that is not of its kind, or a list that is not one of all layers.
func (h *Header) checkArchitecture() error {
	prefix := h.Architecture() + "."
	if err := h.checkKinds(prefix, archKinds); err != nil {
		return err
	}
	layers, known := h.arch("block_count")
	for _, key := range slices.Sorted(maps.Keys(archKinds)) {
		value := h.Metadata[prefix+key]
		n := layers
		switch list := value.(type) {
		case []int64:
			n = len(list)
		case []bool:
			n = len(list)
		}
		if known && n != layers {
			return fmt.Errorf("%w: %s has %d values for %d layers", ErrMalformed, prefix+key, n, layers)
		}
		if list, ok := value.([]int64); ok && len(slices.Compact(slices.Clone(list))) > 1 {
			return fmt.Errorf("%s is not the same for all layers (%.60s): %w", prefix+key, fmt.Sprint(value), ErrUnsupported)
		}
	}
	return nil
}

// checkKinds names the first value that is not of its kind, of keys with a prefix.
func (h *Header) checkKinds(prefix string, kinds map[string]kind) error {
	for _, key := range slices.Sorted(maps.Keys(kinds)) {
		if value, there := h.Metadata[prefix+key]; there && !kinds[key].has(value) {
			return fmt.Errorf("%w: %s is %s and should be %s", ErrMalformed, prefix+key, shown(value), kindNames[kinds[key]])
		}
	}
	return nil
}

// shown is a value in an error, with what it is where the digits alone do not tell.
func shown(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the text %.60q", v)
	case float64:
		return fmt.Sprintf("the floating-point number %v", v)
	case []string:
		return fmt.Sprintf("a list of %d texts", len(v))
	case []float64:
		return fmt.Sprintf("a list of %d floating-point numbers", len(v))
	case []int64:
		return fmt.Sprintf("a list of %d whole numbers", len(v))
	case []bool:
		return fmt.Sprintf("a list of %d flags", len(v))
	}
	return fmt.Sprint(value)
}

func (k kind) has(value any) (ok bool) {
	switch k {
	case countKind, wholeKind, perLayerKind:
		isCount := func(v int64) bool { return v >= 0 && v <= math.MaxInt32 }
		switch v := value.(type) {
		case int64:
			return isCount(v)
		case []int64:
			return k == wholeKind && len(v) > 0 && !slices.ContainsFunc(v, func(v int64) bool { return !isCount(v) })
		case []bool:
			return k == perLayerKind && len(v) > 0
		}
	case numberKind:
		switch v := value.(type) {
		case int64:
			return true
		case float64:
			return !math.IsNaN(v) && !math.IsInf(v, 0)
		}
	case textKind:
		_, ok = value.(string)
	case flagKind:
		_, ok = value.(bool)
	case idKind:
		if _, ok = value.(int64); !ok {
			_, ok = value.(uint64)
		}
	case textsKind:
		_, ok = value.([]string)
	case scoresKind:
		_, ok = value.([]float64)
	}
	return ok
}

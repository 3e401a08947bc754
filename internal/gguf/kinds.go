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
)

var kindNames = [...]string{"a whole number from 0 on", "a whole number from 0 on", "a number", "a text", "true or false", "a whole number or a list of flags"}

// fileKinds are the keys that are read of any file.
var fileKinds = map[string]kind{"general.architecture": textKind, "general.alignment": countKind, "split.count": countKind, "split.no": countKind}

// archKinds are the keys that are read of an architecture, without its name.
var archKinds = map[string]kind{
	"embedding_length": wholeKind, "block_count": wholeKind, "feed_forward_length": wholeKind, "context_length": wholeKind, "expert_count": wholeKind,
	"attention.head_count": wholeKind, "attention.head_count_kv": wholeKind, "attention.key_length": wholeKind, "attention.value_length": wholeKind,
	"attention.layer_norm_rms_epsilon": numberKind, "attention.sliding_window": wholeKind, "attention.sliding_window_pattern": perLayerKind,
	"rope.dimension_count": wholeKind, "rope.freq_base": numberKind, "rope.freq_base_swa": numberKind, "rope.scaling.type": textKind, "rope.scaling.factor": numberKind,
	"final_logit_softcapping": numberKind,
}

// tokenizerKinds are the keys that are read of a tokenizer. Token ids may be outside the vocabulary: then no token has the role.
var tokenizerKinds = map[string]kind{
	"tokenizer.ggml.model": textKind, "tokenizer.ggml.pre": textKind,
	"tokenizer.ggml.add_bos_token": flagKind, "tokenizer.ggml.add_eos_token": flagKind, "tokenizer.ggml.add_space_prefix": flagKind,
}

// checkKinds names the first value that is not of its kind, of keys with a prefix.
func (h *Header) checkKinds(prefix string, kinds map[string]kind) error {
	for _, key := range slices.Sorted(maps.Keys(kinds)) {
		value, there := h.Metadata[prefix+key]
		if there && !kinds[key].has(value) {
			return fmt.Errorf("%w: %s is %.60q and should be %s", ErrMalformed, prefix+key, fmt.Sprint(value), kindNames[kinds[key]])
		}
		if list, ok := value.([]int64); ok && len(slices.Compact(slices.Clone(list))) > 1 {
			return fmt.Errorf("%s is not the same for all layers (%.60s): %w", prefix+key, fmt.Sprint(value), ErrUnsupported)
		}
	}
	return nil
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
	}
	return ok
}

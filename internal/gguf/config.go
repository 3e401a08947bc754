package gguf

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
)

func (h *Header) text(key string) string {
	s, _ := h.Metadata[key].(string)
	return s
}

// arch is a whole number of the architecture. Of a list, which has a value for each layer, all must be the same.
func (h *Header) arch(key string) (int, bool) {
	switch v := h.Metadata[h.Architecture()+"."+key].(type) {
	case int64:
		if v >= 0 && v <= math.MaxInt32 {
			return int(v), true
		}
	case []int64:
		if len(v) > 0 && v[0] >= 0 && v[0] <= math.MaxInt32 && !slices.ContainsFunc(v, func(x int64) bool { return x != v[0] }) {
			return int(v[0]), true
		}
	}
	return 0, false
}

func (h *Header) archFloat(key string) (float64, bool) {
	value := h.Metadata[h.Architecture()+"."+key]
	if n, ok := value.(int64); ok {
		return float64(n), true
	}
	v, ok := value.(float64)
	if !ok || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, false
	}
	// The file has it in float32; the shortest decimal that means the same is what the model's config had.
	short, err := json.Marshal(float32(v))
	if err == nil {
		err = json.Unmarshal(short, &v)
	}
	return v, err == nil
}

func (h *Header) tensor(name string) (Tensor, bool) {
	i := slices.IndexFunc(h.Tensors, func(t Tensor) bool { return t.Name == name })
	if i < 0 {
		return Tensor{}, false
	}
	return h.Tensors[i], true
}

// Config is the model's config.json: what the file says, and what is assumed because files do not say it.
func (c *Checkpoint) Config() (said, assumed map[string]any, err error) {
	said, assumed = map[string]any{"model_type": c.arch.modelType}, map[string]any{}
	return said, assumed, c.config(said, assumed)
}

func (c *Checkpoint) config(out, assumed map[string]any) error {
	h := c.Header
	if err := h.checkKinds("", idKinds); err != nil { // the end tokens are of these
		return err
	}
	for name, key := range map[string]string{
		"hidden_size": "embedding_length", "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
		"num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
		"max_position_embeddings": "context_length", "head_dim": "attention.key_length",
	} {
		if v, ok := h.arch(key); ok {
			out[name] = v
		} else if _, there := h.Metadata[h.Architecture()+"."+key]; there {
			return fmt.Errorf("%s.%s is %v: %w", h.Architecture(), key, h.Metadata[h.Architecture()+"."+key], ErrUnsupported)
		} else if name != "num_key_value_heads" && name != "head_dim" {
			return fmt.Errorf("%w: the metadata has no %s.%s", ErrMalformed, h.Architecture(), key)
		}
	}
	if out["num_key_value_heads"] == nil {
		out["num_key_value_heads"] = out["num_attention_heads"]
	}
	if heads, _ := out["num_attention_heads"].(int); out["head_dim"] == nil && heads > 0 {
		out["head_dim"] = out["hidden_size"].(int) / heads
	}
	if v, ok := h.arch("attention.value_length"); ok && v != out["head_dim"] {
		return fmt.Errorf("heads of %v for keys and %d for values: %w", out["head_dim"], v, ErrUnsupported)
	}
	if experts, _ := h.arch("expert_count"); experts > 0 {
		return fmt.Errorf("a mixture of %d experts is %w in GGUF files: get the model's safetensors for the python engine", experts, ErrUnsupported)
	}
	eps, ok := h.archFloat("attention.layer_norm_rms_epsilon")
	if !ok { // models differ in it
		return fmt.Errorf("%w: the metadata has no %s.attention.layer_norm_rms_epsilon", ErrMalformed, h.Architecture())
	}
	out["rms_norm_eps"] = eps
	embedding, ok := h.tensor("token_embd.weight")
	switch {
	case !ok:
		return fmt.Errorf("%w: no tensor token_embd.weight: the file holds a vocabulary, or a part of a model, and no whole one", ErrMalformed)
	case len(embedding.Shape) == 2:
		out["vocab_size"] = embedding.Shape[0]
	}
	_, head := h.tensor("output.weight")
	out["tie_word_embeddings"] = !head
	if eos := h.endTokens(); len(eos) > 0 {
		out["eos_token_id"] = eos
	}
	if bos, ok := h.tokenID("bos"); ok {
		out["bos_token_id"] = bos
	}
	if err := c.arch.config(h, out, assumed); err != nil {
		return err
	}
	if c.arch.interleaved {
		return c.putFactors(out)
	}
	return nil
}

// ropeConfig is what architectures without further settings have.
func ropeConfig(h *Header, said, _ map[string]any) error {
	head, _ := said["head_dim"].(int)
	if base, ok := h.archFloat("rope.freq_base"); ok {
		said["rope_theta"] = base
	}
	if turned, ok := h.arch("rope.dimension_count"); ok && turned != head {
		return fmt.Errorf("position embeddings of %d of %d values of a head: %w", turned, head, ErrUnsupported)
	}
	factor, ok := h.archFloat("rope.scaling.factor")
	if !ok {
		factor, _ = h.archFloat("rope.scale_linear") // its name in old files
	}
	kind, named := h.Metadata[h.Architecture()+".rope.scaling.type"]
	switch {
	case kind == "none":
	case !named || kind == "linear": // what a factor means by itself, as in llama.cpp, to which 0 is none
		if factor != 0 {
			said["rope_scaling"] = map[string]any{"rope_type": "linear", "factor": factor}
		}
	default:
		return fmt.Errorf("scaling of position embeddings by %q: %w", kind, ErrUnsupported)
	}
	return nil
}

func gemma3Config(h *Header, said, assumed map[string]any) error {
	assumed["sliding_window_pattern"], assumed["rope_theta"] = 6, 1e6 // in all models
	switch pattern := h.Metadata[h.Architecture()+".attention.sliding_window_pattern"].(type) {
	case int64:
		said["sliding_window_pattern"] = int(pattern)
	case []bool: // which layers have a window
		global := slices.Index(pattern, false) + 1
		for i, windowed := range pattern {
			if global == 0 || windowed != ((i+1)%global != 0) {
				return fmt.Errorf("sliding windows that do not leave out every n-th layer (%v): %w", pattern, ErrUnsupported)
			}
		}
		said["sliding_window_pattern"] = global
	}
	if window, _ := h.arch("attention.sliding_window"); window > 0 {
		said["sliding_window"] = window
	} else { // as in llama.cpp: then no layer has one, and all have the same base of position embeddings
		assumed["sliding_window_pattern"] = 1
		delete(said, "sliding_window_pattern")
	}
	if base, ok := h.archFloat("rope.freq_base_swa"); ok {
		said["rope_local_base_freq"] = base
	}
	scalar, _ := said["head_dim"].(int)
	layers, _ := h.arch("block_count")
	if heads, _ := h.arch("attention.head_count"); layers == 62 && heads > 0 { // the 27B model alone scales by the width of a head
		width, _ := h.arch("embedding_length")
		scalar = width / heads
	}
	if scalar > 0 {
		assumed["query_pre_attn_scalar"] = scalar
	}
	if limit, ok := h.archFloat("final_logit_softcapping"); ok && limit != 0 {
		return fmt.Errorf("final_logit_softcapping %v: %w", limit, ErrUnsupported)
	}
	return ropeConfig(h, said, assumed)
}

func llamaConfig(h *Header, said, assumed map[string]any) error {
	_, said["attention_bias"] = h.tensor("blk.0.attn_q.bias")
	_, said["mlp_bias"] = h.tensor("blk.0.ffn_gate.bias")
	return ropeConfig(h, said, assumed)
}

// putFactors turns the factors of Llama 3.1's position embeddings back into the setting that they were computed from.
func (c *Checkpoint) putFactors(config map[string]any) error {
	t, ok := c.Header.tensor(ropeFactors)
	if !ok {
		return nil
	}
	dim, _ := config["head_dim"].(int)
	theta, ok := config["rope_theta"].(float64)
	if !ok {
		theta = 10000
	}
	if t.Type != F32 || t.Elements() != int64(dim/2) || t.Elements() == 0 {
		return fmt.Errorf("%w: tensor %q of %v %v for heads of %d", ErrMalformed, t.Name, t.Shape, t.Type, dim)
	}
	data := make([]byte, t.Bytes())
	if _, err := c.files[t.File].ReadAt(data, t.Offset); err != nil && err != io.EOF {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	factors := make([]float64, dim/2)
	for i := range factors {
		factors[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
	}
	const low, high, original = 1, 4, 8192 // in every model of Llama's
	factor := slices.Max(factors)
	for i, got := range factors {
		wave := 2 * math.Pi * math.Pow(theta, 2*float64(i)/float64(dim))
		want := 1.0
		switch {
		case wave > original/low:
			want = factor
		case wave > original/high:
			smooth := (original/wave - low) / (high - low)
			want = 1 / ((1-smooth)/factor + smooth)
		}
		if !(math.Abs(got-want) < 1e-3*want) {
			return fmt.Errorf("tensor %q has factors that are not those of Llama 3.1 (%v at %d, not %v): %w", t.Name, got, i, want, ErrUnsupported)
		}
	}
	config["rope_scaling"] = map[string]any{
		"rope_type": "llama3", "factor": math.Round(factor*1e4) / 1e4, "low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original,
	}
	return nil
}

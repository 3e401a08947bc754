package decoder

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
)

// gemma3Config is the text part of a Gemma 3 config. Defaults are those of the 1B model, which its
// config may leave out.
type gemma3Config struct {
	HiddenSize           int          `json:"hidden_size"`
	Layers               int          `json:"num_hidden_layers"`
	IntermediateSize     int          `json:"intermediate_size"`
	Heads                int          `json:"num_attention_heads"`
	KVHeads              int          `json:"num_key_value_heads"`
	HeadDim              int          `json:"head_dim"`
	RMSNormEps           float64      `json:"rms_norm_eps"`
	VocabSize            int          `json:"vocab_size"`
	RopeTheta            float64      `json:"rope_theta"`
	RopeLocalBaseFreq    float64      `json:"rope_local_base_freq"`
	RopeScaling          *ropeScaling `json:"rope_scaling"`
	QueryPreAttnScalar   float64      `json:"query_pre_attn_scalar"`
	SlidingWindow        int          `json:"sliding_window"`
	SlidingWindowPattern *int         `json:"sliding_window_pattern"`
	LayerTypes           []string     `json:"layer_types"`
	RopeParameters       *struct {
		Global  *ropeParameters `json:"full_attention"`
		Sliding *ropeParameters `json:"sliding_attention"`
	} `json:"rope_parameters"`
	Activation    string `json:"hidden_activation"`
	Bidirectional bool   `json:"use_bidirectional_attention"`
}

// newGemma3 reads the Gemma 3 text model (Gemma Team 2025, arXiv:2503.19786): grouped-query attention with
// normed queries and keys, sliding-window layers with every SlidingWindowPattern-th one global, two
// RoPE bases, norms before and after each block, GELU-gated MLP, tied embeddings.
func newGemma3(c *checkpoint.Config, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error) {
	cfg := gemma3Config{
		HiddenSize: 1152, Layers: 26, IntermediateSize: 6912, Heads: 4, KVHeads: 1, HeadDim: 256,
		RMSNormEps: 1e-6, VocabSize: 262144, RopeTheta: 1e6, RopeLocalBaseFreq: 1e4,
		QueryPreAttnScalar: 256, SlidingWindow: 512,
		Activation: "gelu_pytorch_tanh",
	}
	if w.Prefix != "" { // the text part of a multimodal checkpoint has other defaults
		cfg.Heads, cfg.KVHeads = 8, 4
	}
	if err := modelfiles.UnmarshalConfig(c.Raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if err := cfg.readNewer(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	// Multimodal configs give the vocabulary beside the text part, or nowhere; the table knows it.
	if shape := w.Headers[w.Key(checkpoint.EmbeddingName)].Shape; len(shape) == 2 && w.Prefix != "" {
		cfg.VocabSize = shape[0]
	}
	if err := cmp.Or(cfg.validate(), w.CheckLayers(cfg.Layers)); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	scale, err := cfg.RopeScaling.linearScale()
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	h, q, kv := cfg.HiddenSize, cfg.Heads*cfg.HeadDim, cfg.KVHeads*cfg.HeadDim
	norm := func(name string, size int) *mlxc.Array { return w.Norm(name, size, 1) }
	spec := decoderSpec{
		hiddenSize: h, vocabSize: cfg.VocabSize, heads: cfg.Heads, kvHeads: cfg.KVHeads, headDim: cfg.HeadDim, intermediate: cfg.IntermediateSize,
		eps: float32(cfg.RMSNormEps), attentionScale: rsqrt(cfg.QueryPreAttnScalar), gate: mlxc.GELUGate,
		embedScale: math.Sqrt(float64(h)), bidirectional: cfg.Bidirectional,
		embed: w.Embedding("model.embed_tokens", cfg.VocabSize, h), norm: norm("model.norm", h),
	}
	if w.Has("lm_head.weight") {
		spec.head = w.Linear("lm_head", h, cfg.VocabSize)
	}
	for i := range cfg.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		layer := decoderLayer{
			inputNorm:         norm(p+"input_layernorm", h),
			postAttentionNorm: norm(p+"post_attention_layernorm", h),
			preMLPNorm:        norm(p+"pre_feedforward_layernorm", h),
			postMLPNorm:       norm(p+"post_feedforward_layernorm", h),
			q:                 w.Linear(p+"self_attn.q_proj", h, q),
			k:                 w.Linear(p+"self_attn.k_proj", h, kv),
			v:                 w.Linear(p+"self_attn.v_proj", h, kv),
			o:                 w.Linear(p+"self_attn.o_proj", q, h),
			qNorm:             norm(p+"self_attn.q_norm", cfg.HeadDim),
			kNorm:             norm(p+"self_attn.k_norm", cfg.HeadDim),
			gate:              w.Linear(p+"mlp.gate_proj", h, cfg.IntermediateSize),
			up:                w.Linear(p+"mlp.up_proj", h, cfg.IntermediateSize),
			down:              w.Linear(p+"mlp.down_proj", cfg.IntermediateSize, h),
			rope:              mlxc.RoPE{Dims: cfg.HeadDim, Base: float32(cfg.RopeLocalBaseFreq), Scale: 1},
			window:            cfg.window(i),
		}
		if layer.window == 0 {
			layer.rope.Base, layer.rope.Scale = float32(cfg.RopeTheta), scale
		}
		spec.layers = append(spec.layers, layer)
	}
	return newDecoder(spec, w, lease)
}

// readNewer takes over what transformers 5 writes in other places: the pattern of windows, layer by layer, and the position embeddings by kind of layer.
func (c *gemma3Config) readNewer() error {
	if c.SlidingWindowPattern == nil {
		pattern := 6 // of all models
		if len(c.LayerTypes) > 0 {
			if pattern = slices.Index(c.LayerTypes, "full_attention") + 1; pattern == 0 {
				pattern = len(c.LayerTypes) + 1
			}
		}
		for i, kind := range c.LayerTypes {
			if len(c.LayerTypes) != c.Layers || (kind == "full_attention") != ((i+1)%pattern == 0) || kind != "full_attention" && kind != "sliding_attention" {
				return fmt.Errorf("layer_types that are not of every layer, or do not have full_attention in every n-th one: %w", engine.ErrUnsupported)
			}
		}
		c.SlidingWindowPattern = &pattern
	}
	if c.RopeParameters == nil {
		return nil
	}
	if p := c.RopeParameters.Global; p != nil {
		if p.Theta != 0 {
			c.RopeTheta = p.Theta
		}
		if c.RopeScaling == nil {
			c.RopeScaling = &p.ropeScaling
		}
	}
	if p := c.RopeParameters.Sliding; p != nil {
		if p.Theta != 0 {
			c.RopeLocalBaseFreq = p.Theta
		}
		if kind := p.kind(); kind != "" && kind != "default" {
			return fmt.Errorf("rope_parameters: type %q of sliding_attention: %w", kind, engine.ErrUnsupported)
		}
	}
	return nil
}

func (c gemma3Config) validate() error {
	positive := map[string]int{
		"hidden_size": c.HiddenSize, "num_hidden_layers": c.Layers, "intermediate_size": c.IntermediateSize,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim,
		"vocab_size": c.VocabSize, "sliding_window": c.SlidingWindow, "sliding_window_pattern": *c.SlidingWindowPattern,
	}
	floats := map[string]float64{
		"rope_theta": c.RopeTheta, "rope_local_base_freq": c.RopeLocalBaseFreq, "query_pre_attn_scalar": c.QueryPreAttnScalar,
	}
	if err := cmp.Or(checkPositive(positive), checkFloats(c.RMSNormEps, floats)); err != nil {
		return err
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.Activation != "gelu_pytorch_tanh":
		return fmt.Errorf("hidden_activation %q: %w", c.Activation, engine.ErrUnsupported)
	}
	return nil
}

// window is the sliding window of a layer, 0 for a global one.
func (c gemma3Config) window(layer int) int {
	if (layer+1)%*c.SlidingWindowPattern == 0 {
		return 0
	}
	return c.SlidingWindow
}

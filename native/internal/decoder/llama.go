package decoder

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
)

// llamaConfig is the config of a model of the Llama family.
type llamaConfig struct {
	HiddenSize       int             `json:"hidden_size"`
	Layers           int             `json:"num_hidden_layers"`
	IntermediateSize int             `json:"intermediate_size"`
	Heads            int             `json:"num_attention_heads"`
	KVHeads          int             `json:"num_key_value_heads"`
	HeadDim          int             `json:"head_dim"`
	RMSNormEps       float64         `json:"rms_norm_eps"`
	VocabSize        int             `json:"vocab_size"`
	RopeTheta        float64         `json:"rope_theta"`
	RopeTraditional  bool            `json:"rope_traditional"`
	RopeScaling      *ropeScaling    `json:"rope_scaling"`
	RopeParameters   *ropeParameters `json:"rope_parameters"`
	Tied             bool            `json:"tie_word_embeddings"`
	AttentionBias    bool            `json:"attention_bias"`
	MLPBias          bool            `json:"mlp_bias"`
	UseSlidingWindow bool            `json:"use_sliding_window"`
	LayerTypes       []string        `json:"layer_types"`

	qkNorm           bool // queries and keys are normed
	qkvBias, outBias bool
}

// ropeParameters is where newer configs keep both RoPE settings.
type ropeParameters struct {
	Theta float64 `json:"rope_theta"`
	ropeScaling
}

func newLlama(c *checkpoint.Config, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error) {
	cfg := llamaConfig{RMSNormEps: math.NaN(), RopeTheta: 10000, Tied: true}
	if err := modelfiles.UnmarshalConfig(c.Raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	cfg.qkvBias, cfg.outBias = cfg.AttentionBias, cfg.AttentionBias
	for _, kind := range cfg.LayerTypes {
		if kind != "full_attention" {
			return nil, fmt.Errorf("config.json: layer type %q: %w", kind, engine.ErrUnsupported)
		}
	}
	return newLlamaFamily(cfg, w, lease)
}

func newQwen2(c *checkpoint.Config, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error) {
	cfg := llamaConfig{RMSNormEps: math.NaN(), RopeTheta: 1e6, Tied: true}
	if err := modelfiles.UnmarshalConfig(c.Raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	cfg.qkvBias, cfg.MLPBias = true, false
	return newLlamaFamily(cfg, w, lease)
}

func newQwen3(c *checkpoint.Config, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error) {
	cfg := llamaConfig{RMSNormEps: math.NaN()}
	if err := modelfiles.UnmarshalConfig(c.Raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	cfg.qkNorm, cfg.MLPBias = true, false
	return newLlamaFamily(cfg, w, lease)
}

// newLlamaFamily reads the dense decoder that Llama 3 (Llama Team 2024, arXiv:2407.21783), Qwen 2 (arXiv:2407.10671)
// and Qwen 3 (arXiv:2505.09388) have in common: grouped-query attention, SiLU-gated MLP, full attention
// in every layer. Qwen 2 has biases on queries, keys and values, Qwen 3 norms on queries and keys.
func newLlamaFamily(cfg llamaConfig, w *checkpoint.Weights, lease *mlxc.Lease) (Architecture, error) {
	if p := cfg.RopeParameters; p != nil {
		if p.Theta != 0 {
			cfg.RopeTheta = p.Theta
		}
		if cfg.RopeScaling == nil {
			cfg.RopeScaling = &p.ropeScaling
		}
	}
	if cfg.KVHeads == 0 {
		cfg.KVHeads = cfg.Heads
	}
	if cfg.HeadDim == 0 && cfg.Heads > 0 {
		cfg.HeadDim = cfg.HiddenSize / cfg.Heads
	}
	if err := cmp.Or(cfg.validate(), w.CheckLayers(cfg.Layers)); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	rope, err := cfg.RopeScaling.rope(w.Scope, cfg.HeadDim, cfg.RopeTheta)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	rope.Traditional = cfg.RopeTraditional
	h, q, kv := cfg.HiddenSize, cfg.Heads*cfg.HeadDim, cfg.KVHeads*cfg.HeadDim
	spec := decoderSpec{
		hiddenSize: h, vocabSize: cfg.VocabSize, heads: cfg.Heads, kvHeads: cfg.KVHeads, headDim: cfg.HeadDim, intermediate: cfg.IntermediateSize,
		eps: float32(cfg.RMSNormEps), attentionScale: rsqrt(float64(cfg.HeadDim)), gate: mlxc.SiLUGate,
		embed: w.Embedding("model.embed_tokens", cfg.VocabSize, h), norm: w.Norm("model.norm", h, 0),
	}
	if cfg.Tied {
		w.Ignore("lm_head.weight")
	} else {
		spec.head = w.Linear("lm_head", h, cfg.VocabSize)
	}
	for i := range cfg.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		layer := decoderLayer{
			inputNorm:  w.Norm(p+"input_layernorm", h, 0),
			preMLPNorm: w.Norm(p+"post_attention_layernorm", h, 0),
			q:          w.LinearBias(p+"self_attn.q_proj", h, q, cfg.qkvBias),
			k:          w.LinearBias(p+"self_attn.k_proj", h, kv, cfg.qkvBias),
			v:          w.LinearBias(p+"self_attn.v_proj", h, kv, cfg.qkvBias),
			o:          w.LinearBias(p+"self_attn.o_proj", q, h, cfg.outBias),
			gate:       w.LinearBias(p+"mlp.gate_proj", h, cfg.IntermediateSize, cfg.MLPBias),
			up:         w.LinearBias(p+"mlp.up_proj", h, cfg.IntermediateSize, cfg.MLPBias),
			down:       w.LinearBias(p+"mlp.down_proj", cfg.IntermediateSize, h, cfg.MLPBias),
			rope:       rope,
		}
		if cfg.qkNorm {
			layer.qNorm = w.Norm(p+"self_attn.q_norm", cfg.HeadDim, 0)
			layer.kNorm = w.Norm(p+"self_attn.k_norm", cfg.HeadDim, 0)
		}
		spec.layers = append(spec.layers, layer)
	}
	return newDecoder(spec, w, lease)
}

func (c llamaConfig) validate() error {
	if math.IsNaN(c.RMSNormEps) { // models differ in it
		return errors.New("no rms_norm_eps")
	}
	positive := map[string]int{
		"hidden_size": c.HiddenSize, "num_hidden_layers": c.Layers, "intermediate_size": c.IntermediateSize,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim, "vocab_size": c.VocabSize,
	}
	if err := cmp.Or(checkPositive(positive), checkFloats(c.RMSNormEps, map[string]float64{"rope_theta": c.RopeTheta})); err != nil {
		return err
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.UseSlidingWindow:
		return fmt.Errorf("use_sliding_window: %w", engine.ErrUnsupported)
	}
	return nil
}

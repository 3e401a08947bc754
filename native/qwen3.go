package native

import (
	"encoding/json"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// qwen3Config is the config of a dense Qwen 3 model.
type qwen3Config struct {
	HiddenSize       int             `json:"hidden_size"`
	Layers           int             `json:"num_hidden_layers"`
	IntermediateSize int             `json:"intermediate_size"`
	Heads            int             `json:"num_attention_heads"`
	KVHeads          int             `json:"num_key_value_heads"`
	HeadDim          int             `json:"head_dim"`
	RMSNormEps       float64         `json:"rms_norm_eps"`
	VocabSize        int             `json:"vocab_size"`
	RopeTheta        float64         `json:"rope_theta"`
	RopeScaling      *ropeScaling    `json:"rope_scaling"`
	RopeParameters   *ropeParameters `json:"rope_parameters"`
	Tied             bool            `json:"tie_word_embeddings"`
	SlidingWindow    bool            `json:"use_sliding_window"`
}

// ropeParameters is where newer configs keep both RoPE settings.
type ropeParameters struct {
	Theta float64 `json:"rope_theta"`
	ropeScaling
}

// qwen3 is the dense Qwen 3 model (Qwen Team 2025, arXiv:2505.09388): grouped-query attention with normed
// queries and keys, SiLU-gated MLP, full attention in every layer.
type qwen3 struct {
	cfg    qwen3Config
	embed  *nn.Embedding
	layers []qwen3Layer
	norm   *metal.Array
	head   *nn.Linear // nil: the embedding is the output layer
	rope   metal.RoPE
	swiglu *metal.Function
}

type qwen3Layer struct {
	inputNorm, postAttentionNorm *metal.Array
	qProj, kProj, vProj, oProj   *nn.Linear
	qNorm, kNorm                 *metal.Array
	gate, up, down               *nn.Linear
}

func newQwen3(c *config, w *weights, lease *metal.Lease) (architecture, error) {
	var cfg qwen3Config
	if err := json.Unmarshal(c.raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if p := cfg.RopeParameters; p != nil {
		if cfg.RopeTheta == 0 {
			cfg.RopeTheta = p.Theta
		}
		if cfg.RopeScaling == nil {
			cfg.RopeScaling = &p.ropeScaling
		}
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	scale, err := cfg.RopeScaling.linearScale()
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	m := &qwen3{cfg: cfg, rope: metal.RoPE{Dims: cfg.HeadDim, Base: float32(cfg.RopeTheta), Scale: scale}}
	m.embed = w.embedding("model.embed_tokens", cfg.VocabSize, cfg.HiddenSize)
	m.norm = w.norm("model.norm", cfg.HiddenSize, 0)
	if cfg.Tied {
		w.ignore("lm_head.weight")
	} else {
		m.head = w.linear("lm_head", cfg.HiddenSize, cfg.VocabSize)
	}
	for i := range cfg.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		h, q, kv := cfg.HiddenSize, cfg.Heads*cfg.HeadDim, cfg.KVHeads*cfg.HeadDim
		m.layers = append(m.layers, qwen3Layer{
			inputNorm:         w.norm(p+"input_layernorm", h, 0),
			postAttentionNorm: w.norm(p+"post_attention_layernorm", h, 0),
			qProj:             w.linear(p+"self_attn.q_proj", h, q),
			kProj:             w.linear(p+"self_attn.k_proj", h, kv),
			vProj:             w.linear(p+"self_attn.v_proj", h, kv),
			oProj:             w.linear(p+"self_attn.o_proj", q, h),
			qNorm:             w.norm(p+"self_attn.q_norm", cfg.HeadDim, 0),
			kNorm:             w.norm(p+"self_attn.k_norm", cfg.HeadDim, 0),
			gate:              w.linear(p+"mlp.gate_proj", h, cfg.IntermediateSize),
			up:                w.linear(p+"mlp.up_proj", h, cfg.IntermediateSize),
			down:              w.linear(p+"mlp.down_proj", cfg.IntermediateSize, h),
		})
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	if m.swiglu, err = lease.Compile(true, func(s *metal.Scope, in []*metal.Array) []*metal.Array {
		return []*metal.Array{s.Multiply(nn.SiLU(s, in[0]), in[1])}
	}); err != nil {
		return nil, err
	}
	return m, warm(w.scope, m.swiglu, 2, m.norm.DType(), cfg.IntermediateSize)
}

func (c qwen3Config) validate() error {
	if err := checkPositive(map[string]int{
		"hidden_size": c.HiddenSize, "num_hidden_layers": c.Layers, "intermediate_size": c.IntermediateSize,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim, "vocab_size": c.VocabSize,
	}); err != nil {
		return err
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.RopeTheta <= 0:
		return fmt.Errorf("rope_theta %v is not positive", c.RopeTheta)
	case c.SlidingWindow:
		return fmt.Errorf("use_sliding_window: %w", engine.ErrUnsupported)
	}
	return nil
}

func (m *qwen3) shape() modelShape {
	return modelShape{hiddenSize: m.cfg.HiddenSize, vocabSize: m.cfg.VocabSize, windows: make([]int, m.cfg.Layers)}
}

func (m *qwen3) hidden(s *metal.Scope, ids *metal.Array, st state) *metal.Array {
	eps := float32(m.cfg.RMSNormEps)
	h := m.embed.Lookup(s, ids)
	st.observe(s, 0, h)
	for i := range m.layers {
		l := &m.layers[i]
		h = s.Add(h, m.attention(s, l, i, s.RMSNorm(h, l.inputNorm, eps), st))
		x := s.RMSNorm(h, l.postAttentionNorm, eps)
		x = callOne(s, m.swiglu, l.gate.Apply(s, x), l.up.Apply(s, x))
		h = s.Add(h, l.down.Apply(s, x))
		st.observe(s, i+1, h)
	}
	return s.RMSNorm(h, m.norm, eps)
}

func (m *qwen3) attention(s *metal.Scope, l *qwen3Layer, layer int, x *metal.Array, st state) *metal.Array {
	scale := float32(math.Pow(float64(m.cfg.HeadDim), -0.5))
	eps := float32(m.cfg.RMSNormEps)
	q := s.RMSNorm(splitHeads(s, l.qProj.Apply(s, x), m.cfg.Heads), l.qNorm, eps)
	k := s.RMSNorm(splitHeads(s, l.kProj.Apply(s, x), m.cfg.KVHeads), l.kNorm, eps)
	v := splitHeads(s, l.vProj.Apply(s, x), m.cfg.KVHeads)
	q, k = st.rope(s, q, m.rope), st.rope(s, k, m.rope)
	return l.oProj.Apply(s, mergeHeads(s, st.attend(s, layer, q, k, v, scale)))
}

func (m *qwen3) logits(s *metal.Scope, h *metal.Array) *metal.Array {
	if m.head != nil {
		return m.head.Apply(s, h)
	}
	return m.embed.AsLinear(s, h)
}

func (m *qwen3) close() error { return m.swiglu.Close() }

package native

import (
	"encoding/json"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/nn"
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

// llama is the dense decoder that Llama 3 (Llama Team 2024, arXiv:2407.21783), Qwen 2 (arXiv:2407.10671)
// and Qwen 3 (arXiv:2505.09388) have in common: grouped-query attention, SiLU-gated MLP, full attention
// in every layer. Qwen 2 has biases on queries, keys and values, Qwen 3 norms on queries and keys.
type llama struct {
	cfg    llamaConfig
	embed  *nn.Embedding
	layers []llamaLayer
	norm   *metal.Array
	head   *nn.Linear // nil: the embedding is the output layer
	rope   metal.RoPE
	swiglu *metal.Function
	fused  *fusedDecoder // instead of layers' parts, on devices with the kernels
}

type llamaLayer struct {
	inputNorm, postAttentionNorm *metal.Array
	qProj, kProj, vProj, oProj   *nn.Linear
	qNorm, kNorm                 *metal.Array // nil without
	gate, up, down               *nn.Linear
}

func newLlama(c *config, w *weights, lease *metal.Lease) (architecture, error) {
	cfg := llamaConfig{RopeTheta: 10000, Tied: true}
	if err := json.Unmarshal(c.raw, &cfg); err != nil {
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

func newQwen2(c *config, w *weights, lease *metal.Lease) (architecture, error) {
	cfg := llamaConfig{RopeTheta: 1e6, Tied: true}
	if err := json.Unmarshal(c.raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	cfg.qkvBias, cfg.MLPBias = true, false
	return newLlamaFamily(cfg, w, lease)
}

func newQwen3(c *config, w *weights, lease *metal.Lease) (architecture, error) {
	var cfg llamaConfig
	if err := json.Unmarshal(c.raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	cfg.qkNorm, cfg.MLPBias = true, false
	return newLlamaFamily(cfg, w, lease)
}

func newLlamaFamily(cfg llamaConfig, w *weights, lease *metal.Lease) (architecture, error) {
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
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	rope, err := cfg.RopeScaling.rope(w.scope, cfg.HeadDim, cfg.RopeTheta)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	rope.Traditional = cfg.RopeTraditional
	m := &llama{cfg: cfg, rope: rope}
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
		layer := llamaLayer{
			inputNorm:         w.norm(p+"input_layernorm", h, 0),
			postAttentionNorm: w.norm(p+"post_attention_layernorm", h, 0),
			qProj:             w.linearBias(p+"self_attn.q_proj", h, q, cfg.qkvBias),
			kProj:             w.linearBias(p+"self_attn.k_proj", h, kv, cfg.qkvBias),
			vProj:             w.linearBias(p+"self_attn.v_proj", h, kv, cfg.qkvBias),
			oProj:             w.linearBias(p+"self_attn.o_proj", q, h, cfg.outBias),
			gate:              w.linearBias(p+"mlp.gate_proj", h, cfg.IntermediateSize, cfg.MLPBias),
			up:                w.linearBias(p+"mlp.up_proj", h, cfg.IntermediateSize, cfg.MLPBias),
			down:              w.linearBias(p+"mlp.down_proj", cfg.IntermediateSize, h, cfg.MLPBias),
		}
		if cfg.qkNorm {
			layer.qNorm = w.norm(p+"self_attn.q_norm", cfg.HeadDim, 0)
			layer.kNorm = w.norm(p+"self_attn.k_norm", cfg.HeadDim, 0)
		}
		m.layers = append(m.layers, layer)
	}
	if err := m.fuse(w); err != nil {
		return m, err
	}
	if err := w.finish(); err != nil {
		return m, err
	}
	if m.swiglu, err = lease.Compile(true, func(s *metal.Scope, in []*metal.Array) []*metal.Array {
		return []*metal.Array{s.Multiply(nn.SiLU(s, in[0]), in[1])}
	}); err != nil {
		return nil, err
	}
	return m, warm(w.scope, m.swiglu, 2, m.norm.DType(), cfg.IntermediateSize)
}

// fuse goes over to the fused kernels where these can run.
func (m *llama) fuse(w *weights) (err error) {
	if m.cfg.RopeTraditional {
		return nil
	}
	layers := make([]fusedLayer, len(m.layers))
	for i, l := range m.layers {
		layers[i] = fusedLayer{
			inputNorm: l.inputNorm, preMLPNorm: l.postAttentionNorm,
			qkvParts: []*nn.Linear{l.qProj, l.kProj, l.vProj}, qNorm: l.qNorm, kNorm: l.kNorm, o: l.oProj,
			gateUpParts: []*nn.Linear{l.gate, l.up}, down: l.down, rope: m.rope,
		}
	}
	m.fused, err = w.fuseLayers(fused.Shape{
		Heads: m.cfg.Heads, KVHeads: m.cfg.KVHeads, HeadDim: m.cfg.HeadDim, HiddenSize: m.cfg.HiddenSize, Intermediate: m.cfg.IntermediateSize,
		QKNorm: m.cfg.qkNorm, RMSNormEps: float32(m.cfg.RMSNormEps), AttentionScale: m.attentionScale(),
	}, layers, m.norm)
	return err
}

func (c llamaConfig) validate() error {
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
	case c.UseSlidingWindow:
		return fmt.Errorf("use_sliding_window: %w", engine.ErrUnsupported)
	}
	return nil
}

func (m *llama) shape() modelShape {
	return modelShape{hiddenSize: m.cfg.HiddenSize, vocabSize: m.cfg.VocabSize, heads: m.cfg.Heads, kvHeads: m.cfg.KVHeads,
		headDim: m.cfg.HeadDim, intermediate: m.cfg.IntermediateSize, windows: make([]int, m.cfg.Layers), fused: m.fused}
}

func (m *llama) hidden(s *metal.Scope, ids *metal.Array, st state) *metal.Array {
	eps := float32(m.cfg.RMSNormEps)
	h := m.embed.Lookup(s, ids)
	if m.fused != nil {
		return m.fused.run(s, h, st)
	}
	st.observe(s, 0, opInput, h)
	for i := range m.layers {
		h = runBlock(s, st, i, h, func(s *metal.Scope, h *metal.Array) *metal.Array { return m.block(s, i, h, st) })
	}
	return s.RMSNorm(h, m.norm, eps)
}

func (m *llama) block(s *metal.Scope, layer int, h *metal.Array, st state) *metal.Array {
	eps, l := float32(m.cfg.RMSNormEps), &m.layers[layer]
	seen := func(op string, x *metal.Array) *metal.Array { st.observe(s, layer, op, x); return x }
	x := seen("input_layernorm", s.RMSNorm(h, l.inputNorm, eps))
	h = s.Add(h, seen("self_attn.o_proj", m.attention(s, l, layer, x, st)))
	x = seen("post_attention_layernorm", s.RMSNorm(h, l.postAttentionNorm, eps))
	gate, up := seen("mlp.gate_proj", l.gate.Apply(s, x)), seen("mlp.up_proj", l.up.Apply(s, x))
	return seen(opOutput, s.Add(h, seen("mlp.down_proj", l.down.Apply(s, callOne(s, m.swiglu, gate, up)))))
}

func (m *llama) attentionScale() float32 { return float32(math.Pow(float64(m.cfg.HeadDim), -0.5)) }

func (m *llama) attention(s *metal.Scope, l *llamaLayer, layer int, x *metal.Array, st state) *metal.Array {
	scale := m.attentionScale()
	eps := float32(m.cfg.RMSNormEps)
	seen := func(op string, x *metal.Array) *metal.Array { st.observe(s, layer, op, x); return x }
	q := splitHeads(s, seen("self_attn.q_proj", l.qProj.Apply(s, x)), m.cfg.Heads)
	k := splitHeads(s, seen("self_attn.k_proj", l.kProj.Apply(s, x)), m.cfg.KVHeads)
	if m.cfg.qkNorm {
		q, k = seen("self_attn.q_norm", s.RMSNorm(q, l.qNorm, eps)), seen("self_attn.k_norm", s.RMSNorm(k, l.kNorm, eps))
	}
	v := splitHeads(s, seen("self_attn.v_proj", l.vProj.Apply(s, x)), m.cfg.KVHeads)
	q, k = seen(opRopeQ, st.rope(s, q, m.rope)), seen(opRopeK, st.rope(s, k, m.rope))
	return l.oProj.Apply(s, st.attend(s, layer, q, k, v, scale))
}

func (m *llama) logits(s *metal.Scope, h *metal.Array) *metal.Array {
	if m.head != nil {
		return m.head.Apply(s, h)
	}
	return m.embed.AsLinear(s, h)
}

func (m *llama) close() error {
	m.fused.close()
	return m.swiglu.Close()
}

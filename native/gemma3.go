package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/nn"
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
	SlidingWindowPattern int          `json:"sliding_window_pattern"`
	Activation           string       `json:"hidden_activation"`
	Bidirectional        bool         `json:"use_bidirectional_attention"`
}

// gemma3 is the Gemma 3 text model (Gemma Team 2025, arXiv:2503.19786): grouped-query attention with
// normed queries and keys, sliding-window layers with every SlidingWindowPattern-th one global, two
// RoPE bases, norms before and after each block, GELU-gated MLP, tied embeddings.
type gemma3 struct {
	cfg    gemma3Config
	embed  *nn.Embedding
	scale  *metal.Array // sqrt(hidden_size), rounded to bfloat16 as in training
	layers []gemma3Layer
	norm   *metal.Array
	head   *nn.Linear // nil: the embedding is the output layer
	gelu   *metal.Function
	fused  *fusedDecoder // instead of layers, on devices with the kernels
}

type gemma3Layer struct {
	inputNorm, postAttentionNorm, preMLPNorm, postMLPNorm *metal.Array
	qProj, kProj, vProj, oProj                            *nn.Linear
	qNorm, kNorm                                          *metal.Array
	gate, up, down                                        *nn.Linear
	rope                                                  metal.RoPE
}

func newGemma3(c *config, w *weights, lease *metal.Lease) (architecture, error) {
	cfg := gemma3Config{
		HiddenSize: 1152, Layers: 26, IntermediateSize: 6912, Heads: 4, KVHeads: 1, HeadDim: 256,
		RMSNormEps: 1e-6, VocabSize: 262144, RopeTheta: 1e6, RopeLocalBaseFreq: 1e4,
		QueryPreAttnScalar: 256, SlidingWindow: 512, SlidingWindowPattern: 6,
		Activation: "gelu_pytorch_tanh",
	}
	if w.prefix != "" { // the text part of a multimodal checkpoint has other defaults
		cfg.Heads, cfg.KVHeads = 8, 4
	}
	if err := json.Unmarshal(c.raw, &cfg); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	// Multimodal configs give the vocabulary beside the text part, or nowhere; the table knows it.
	if shape := w.headers[w.key(embeddingName)].Shape; len(shape) == 2 && w.prefix != "" {
		cfg.VocabSize = shape[0]
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	scale, err := cfg.RopeScaling.linearScale()
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	m := &gemma3{cfg: cfg}
	m.embed = w.embedding("model.embed_tokens", cfg.VocabSize, cfg.HiddenSize)
	norm := func(name string, size int) *metal.Array { return w.norm(name, size, 1) }
	m.norm = norm("model.norm", cfg.HiddenSize)
	if w.has("lm_head.weight") {
		m.head = w.linear("lm_head", cfg.HiddenSize, cfg.VocabSize)
	}
	for i := range cfg.Layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		h, q, kv := cfg.HiddenSize, cfg.Heads*cfg.HeadDim, cfg.KVHeads*cfg.HeadDim
		layer := gemma3Layer{
			inputNorm:         norm(p+"input_layernorm", h),
			postAttentionNorm: norm(p+"post_attention_layernorm", h),
			preMLPNorm:        norm(p+"pre_feedforward_layernorm", h),
			postMLPNorm:       norm(p+"post_feedforward_layernorm", h),
			qProj:             w.linear(p+"self_attn.q_proj", h, q),
			kProj:             w.linear(p+"self_attn.k_proj", h, kv),
			vProj:             w.linear(p+"self_attn.v_proj", h, kv),
			oProj:             w.linear(p+"self_attn.o_proj", q, h),
			qNorm:             norm(p+"self_attn.q_norm", cfg.HeadDim),
			kNorm:             norm(p+"self_attn.k_norm", cfg.HeadDim),
			gate:              w.linear(p+"mlp.gate_proj", h, cfg.IntermediateSize),
			up:                w.linear(p+"mlp.up_proj", h, cfg.IntermediateSize),
			down:              w.linear(p+"mlp.down_proj", cfg.IntermediateSize, h),
			rope:              metal.RoPE{Dims: cfg.HeadDim, Base: float32(cfg.RopeLocalBaseFreq), Scale: 1},
		}
		if cfg.window(i) == 0 {
			layer.rope.Base, layer.rope.Scale = float32(cfg.RopeTheta), scale
		}
		m.layers = append(m.layers, layer)
	}
	if err := m.fuse(w); err != nil {
		return m, err
	}
	if err := w.finish(); err != nil {
		return m, err
	}
	if m.gelu, err = lease.Compile(true, func(s *metal.Scope, in []*metal.Array) []*metal.Array {
		return []*metal.Array{nn.GELUApprox(s, in[0])}
	}); err != nil {
		return nil, err
	}
	m.scale = w.scope.AsType(w.scope.Scalar(math.Sqrt(float64(cfg.HiddenSize)), metal.BFloat16), m.norm.DType())
	return m, errors.Join(w.scope.Eval(m.scale), warm(w.scope, m.gelu, 1, m.norm.DType(), cfg.IntermediateSize))
}

// fuse goes over to the fused kernels where these can run.
func (m *gemma3) fuse(w *weights) (err error) {
	layers := make([]fusedLayer, len(m.layers))
	for i, l := range m.layers {
		layers[i] = fusedLayer{
			inputNorm: l.inputNorm, postAttentionNorm: l.postAttentionNorm, preMLPNorm: l.preMLPNorm, postMLPNorm: l.postMLPNorm,
			qkvParts: []*nn.Linear{l.qProj, l.kProj, l.vProj}, qNorm: l.qNorm, kNorm: l.kNorm, o: l.oProj,
			gateUpParts: []*nn.Linear{l.gate, l.up}, down: l.down, rope: l.rope,
		}
	}
	m.fused, err = w.fuseLayers(fused.Shape{
		Heads: m.cfg.Heads, KVHeads: m.cfg.KVHeads, HeadDim: m.cfg.HeadDim, HiddenSize: m.cfg.HiddenSize, Intermediate: m.cfg.IntermediateSize,
		QKNorm: true, PostNorm: true, GELU: true, RMSNormEps: float32(m.cfg.RMSNormEps), AttentionScale: m.attentionScale(),
	}, layers, m.norm)
	return err
}

func (c gemma3Config) validate() error {
	positive := map[string]int{
		"hidden_size": c.HiddenSize, "num_hidden_layers": c.Layers, "intermediate_size": c.IntermediateSize,
		"num_attention_heads": c.Heads, "num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim,
		"vocab_size": c.VocabSize, "sliding_window": c.SlidingWindow, "sliding_window_pattern": c.SlidingWindowPattern,
	}
	if err := checkPositive(positive); err != nil {
		return err
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_attention_heads %d is no multiple of num_key_value_heads %d", c.Heads, c.KVHeads)
	case c.QueryPreAttnScalar <= 0:
		return fmt.Errorf("query_pre_attn_scalar %v is not positive", c.QueryPreAttnScalar)
	case c.Activation != "gelu_pytorch_tanh":
		return fmt.Errorf("hidden_activation %q: %w", c.Activation, engine.ErrUnsupported)
	}
	return nil
}

// window is the sliding window of a layer, 0 for a global one.
func (c gemma3Config) window(layer int) int {
	if (layer+1)%c.SlidingWindowPattern == 0 {
		return 0
	}
	return c.SlidingWindow
}

func (m *gemma3) shape() modelShape {
	windows := make([]int, m.cfg.Layers)
	for i := range windows {
		windows[i] = m.cfg.window(i)
	}
	return modelShape{hiddenSize: m.cfg.HiddenSize, vocabSize: m.cfg.VocabSize, heads: m.cfg.Heads, kvHeads: m.cfg.KVHeads,
		headDim: m.cfg.HeadDim, intermediate: m.cfg.IntermediateSize, windows: windows, fused: m.fused, bidirectional: m.cfg.Bidirectional}
}

func (m *gemma3) hidden(s *metal.Scope, ids *metal.Array, st state) *metal.Array {
	eps := float32(m.cfg.RMSNormEps)
	h := m.embed.Lookup(s, ids)
	h = s.Multiply(h, m.scale)
	if m.fused != nil {
		return m.fused.run(s, h, st)
	}
	st.observe(s, 0, opInput, h)
	for i := range m.layers {
		h = runBlock(s, st, i, h, func(s *metal.Scope, h *metal.Array) *metal.Array { return m.block(s, i, h, st) })
	}
	return s.RMSNorm(h, m.norm, eps)
}

func (m *gemma3) block(s *metal.Scope, layer int, h *metal.Array, st state) *metal.Array {
	eps, l := float32(m.cfg.RMSNormEps), &m.layers[layer]
	seen := func(op string, x *metal.Array) *metal.Array { st.observe(s, layer, op, x); return x }
	x := seen("input_layernorm", s.RMSNorm(h, l.inputNorm, eps))
	x = seen("self_attn.o_proj", m.attention(s, l, layer, x, st))
	h = m.residual(s, h, seen("post_attention_layernorm", s.RMSNorm(x, l.postAttentionNorm, eps)))
	x = seen("pre_feedforward_layernorm", s.RMSNorm(h, l.preMLPNorm, eps))
	gate, up := seen("mlp.gate_proj", l.gate.Apply(s, x)), seen("mlp.up_proj", l.up.Apply(s, x))
	x = seen("mlp.down_proj", l.down.Apply(s, s.Multiply(callOne(s, m.gelu, gate), up)))
	return seen(opOutput, m.residual(s, h, seen("post_feedforward_layernorm", s.RMSNorm(x, l.postMLPNorm, eps))))
}

func (m *gemma3) attentionScale() float32 { return float32(math.Pow(m.cfg.QueryPreAttnScalar, -0.5)) }

func (m *gemma3) attention(s *metal.Scope, l *gemma3Layer, layer int, x *metal.Array, st state) *metal.Array {
	scale := m.attentionScale()
	eps := float32(m.cfg.RMSNormEps)
	seen := func(op string, x *metal.Array) *metal.Array { st.observe(s, layer, op, x); return x }
	q := splitHeads(s, seen("self_attn.q_proj", l.qProj.Apply(s, x)), m.cfg.Heads)
	k := splitHeads(s, seen("self_attn.k_proj", l.kProj.Apply(s, x)), m.cfg.KVHeads)
	v := splitHeads(s, seen("self_attn.v_proj", l.vProj.Apply(s, x)), m.cfg.KVHeads)
	q = seen("self_attn.q_norm", s.RMSNorm(q, l.qNorm, eps))
	k = seen("self_attn.k_norm", s.RMSNorm(k, l.kNorm, eps))
	q, k = seen(opRopeQ, st.rope(s, q, l.rope)), seen(opRopeK, st.rope(s, k, l.rope))
	return l.oProj.Apply(s, st.attend(s, layer, q, k, v, scale))
}

// residual adds, and in float16 clips instead of overflowing: Gemma's activations exceed its range.
func (m *gemma3) residual(s *metal.Scope, x, y *metal.Array) *metal.Array {
	if x.DType() != metal.Float16 {
		return s.Add(x, y)
	}
	const bound = 65504
	sum := s.Add(s.AsType(x, metal.Float32), s.AsType(y, metal.Float32))
	sum = s.Minimum(s.Maximum(sum, s.Scalar(-bound, metal.Float32)), s.Scalar(bound, metal.Float32))
	return s.AsType(sum, metal.Float16)
}

func (m *gemma3) logits(s *metal.Scope, h *metal.Array) *metal.Array {
	if m.head != nil {
		return m.head.Apply(s, h)
	}
	return m.embed.AsLinear(s, h)
}

func (m *gemma3) close() error {
	m.fused.close()
	return m.gelu.Close()
}

//go:build linux

package fused_test

import (
	"math"
	"math/rand/v2"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// matrix is weights [rows, columns] as numbers.
type matrix struct {
	rows, columns int
	values        []float32
}

func (m matrix) times(x []float64) []float64 {
	out := make([]float64, m.rows)
	for r := range out {
		for c, v := range x {
			out[r] += float64(m.values[r*m.columns+c]) * v
		}
	}
	return out
}

// plainLayer is a layer of a plainModel.
type plainLayer struct {
	qkv, o, gateUp, down           matrix
	inputNorm, mlpNorm             []float32
	postAttentionNorm, postMLPNorm []float32
	qNorm, kNorm                   []float32
	rope                           mlxc.RoPE
	window                         int
	keys, values                   [][][]float64 // of each head and position
}

// plainModel computes what a fused.TokenModel does, in double precision and one number after the other.
type plainModel struct {
	fused.TokenModel
	embed, head matrix
	norm        []float32
	freqs       []float32
	layers      []plainLayer
}

func (m *plainModel) normed(x []float64, weights []float32) []float64 {
	squares := 0.0
	for _, v := range x {
		squares += v * v
	}
	scale := 1 / math.Sqrt(squares/float64(len(x))+float64(m.RMSNormEps))
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v * scale * float64(weights[i])
	}
	return out
}

func (m *plainModel) rotated(x []float64, l *plainLayer, position int) []float64 {
	half := m.HeadDim / 2
	out := make([]float64, m.HeadDim)
	for i := range half {
		frequency := math.Pow(float64(l.rope.Base), -float64(i)/float64(half))
		if m.freqs != nil {
			frequency = 1 / float64(m.freqs[i])
		}
		sin, cos := math.Sincos(float64(l.rope.Scale) * float64(position) * frequency)
		out[i], out[i+half] = x[i]*cos-x[i+half]*sin, x[i]*sin+x[i+half]*cos
	}
	return out
}

// next takes a token at the next position and returns the logits.
func (m *plainModel) next(token int) []float64 {
	h := make([]float64, m.HiddenSize)
	for i := range h {
		h[i] = float64(m.embed.values[token*m.HiddenSize+i])
		if m.EmbedScale != 0 {
			h[i] *= float64(m.EmbedScale)
		}
	}
	add := func(y []float64, post []float32) {
		if m.PostNorm {
			y = m.normed(y, post)
		}
		for i := range h {
			h[i] += y[i]
		}
	}
	for i := range m.layers {
		l := &m.layers[i]
		add(l.o.times(m.attend(l, l.qkv.times(m.normed(h, l.inputNorm)))), l.postAttentionNorm)
		both := l.gateUp.times(m.normed(h, l.mlpNorm))
		gated := make([]float64, m.Intermediate)
		for j := range gated {
			x := both[j]
			if m.GELU {
				x = 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
			} else {
				x /= 1 + math.Exp(-x)
			}
			gated[j] = x * both[m.Intermediate+j]
		}
		add(l.down.times(gated), l.postMLPNorm)
	}
	return m.head.times(m.normed(h, m.norm))
}

func (m *plainModel) attend(l *plainLayer, qkv []float64) []float64 {
	d := m.HeadDim
	head := func(i int) []float64 { return qkv[i*d : (i+1)*d] }
	position := 0
	if l.keys == nil {
		l.keys, l.values = make([][][]float64, m.KVHeads), make([][][]float64, m.KVHeads)
	}
	position = len(l.keys[0])
	placed := func(x []float64, weights []float32) []float64 {
		if m.QKNorm {
			x = m.normed(x, weights)
		}
		return m.rotated(x, l, position)
	}
	for g := range m.KVHeads {
		l.keys[g] = append(l.keys[g], placed(head(m.Heads+g), l.kNorm))
		l.values[g] = append(l.values[g], head(m.Heads+m.KVHeads+g))
	}
	var out []float64
	for i := range m.Heads {
		q, g := placed(head(i), l.qNorm), i/(m.Heads/m.KVHeads)
		first := 0
		if l.window > 0 {
			first = max(0, position+1-l.window)
		}
		sum, total := make([]float64, d), 0.0
		for k := first; k <= position; k++ {
			score := 0.0
			for j := range q {
				score += q[j] * l.keys[g][k][j]
			}
			weight := math.Exp(score * float64(m.AttentionScale))
			total += weight
			for j := range sum {
				sum[j] += weight * l.values[g][k][j]
			}
		}
		for j := range sum {
			out = append(out, sum[j]/total)
		}
	}
	return out
}

// shape is what a random model is made in.
type shape struct {
	fused.Shape
	vocab     int
	windows   []int // of each layer
	group     int   // of weights in 4 bits; 0 for plain ones
	embedding float32
	freqs     bool
	untied    bool
}

// newModel makes random weights in a shape, for the kernel and as numbers. owner owns the arrays.
func newModel(owner *mlxc.Scope, c shape) (*plainModel, error) {
	rng := rand.New(rand.NewPCG(1, uint64(c.vocab)))
	m := &plainModel{TokenModel: fused.TokenModel{Shape: c.Shape, VocabSize: c.vocab, EmbedScale: c.embedding}}
	var err error
	numbers := func(a *mlxc.Array) []float32 {
		v, readErr := owner.AsType(a, mlxc.Float32).Floats()
		if err == nil {
			err = readErr
		}
		return v
	}
	random := func(around, spread float64, dims ...int) *mlxc.Array {
		n := 1
		for _, d := range dims {
			n *= d
		}
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(around + spread*rng.NormFloat64())
		}
		return owner.AsType(owner.FromFloats(v, dims...), c.DType)
	}
	linear := func(rows, columns int) (*nn.Linear, matrix) {
		w := random(0, 1/math.Sqrt(float64(columns)), rows, columns)
		if c.group == 0 {
			err := owner.Eval(w)
			if err != nil {
				owner.Fail(err)
			}
			return nn.NewLinear(owner, w), matrix{rows, columns, numbers(w)}
		}
		format := mlxc.Quantization{GroupSize: c.group, Bits: 4}
		packed, scales, biases := owner.Quantize(w, format)
		wide := owner.Dequantize(packed, owner.AsType(scales, mlxc.Float32), owner.AsType(biases, mlxc.Float32), format)
		return nn.NewQuantizedLinear(packed, scales, biases, format), matrix{rows, columns, numbers(wide)}
	}
	norm := func(n int) (*mlxc.Array, []float32) {
		w := random(1, 0.2, n)
		return w, numbers(w)
	}
	if c.freqs {
		for i := range c.HeadDim / 2 {
			m.freqs = append(m.freqs, float32(math.Pow(10000, float64(2*i)/float64(c.HeadDim))*(1+float64(i%3))))
		}
	}
	var freqs *mlxc.Array
	if m.freqs != nil {
		freqs = owner.FromFloats(m.freqs, len(m.freqs))
	}
	m.Embed, m.embed = linear(c.vocab, c.HiddenSize)
	m.Head, m.head = m.Embed, m.embed
	if c.untied {
		m.Head, m.head = linear(c.vocab, c.HiddenSize)
	}
	m.Norm, m.norm = norm(c.HiddenSize)
	kinds := map[int]int{}
	for _, window := range c.windows {
		kind, seen := kinds[window]
		if !seen {
			kind = len(kinds)
			kinds[window] = kind
		}
		l := fused.TokenLayer{Kind: kind, RoPE: mlxc.RoPE{Dims: c.HeadDim, Base: 10000, Scale: 1, Freqs: freqs}}
		if window > 0 {
			l.RoPE.Base, l.RoPE.Scale = 500, 0.5
		}
		p := plainLayer{window: window, rope: l.RoPE}
		l.QKV, p.qkv = linear((c.Heads+2*c.KVHeads)*c.HeadDim, c.HiddenSize)
		l.O, p.o = linear(c.HiddenSize, c.Heads*c.HeadDim)
		l.GateUp, p.gateUp = linear(2*c.Intermediate, c.HiddenSize)
		l.Down, p.down = linear(c.HiddenSize, c.Intermediate)
		l.InputNorm, p.inputNorm = norm(c.HiddenSize)
		l.MLPNorm, p.mlpNorm = norm(c.HiddenSize)
		if c.PostNorm {
			l.PostAttentionNorm, p.postAttentionNorm = norm(c.HiddenSize)
			l.PostMLPNorm, p.postMLPNorm = norm(c.HiddenSize)
		}
		if c.QKNorm {
			l.QNorm, p.qNorm = norm(c.HeadDim)
			l.KNorm, p.kNorm = norm(c.HeadDim)
		}
		m.Layers, m.layers = append(m.Layers, l), append(m.layers, p)
	}
	m.Kinds = len(kinds)
	if err == nil {
		err = owner.Err()
	}
	return m, err
}

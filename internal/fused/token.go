package fused

import (
	_ "embed" // the kernel's source
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// The parts of the kernel's source, in the order in which they are compiled.
var (
	//go:embed token_machine.cuh
	machine string
	//go:embed token_types.cuh
	tokenTypes string
	//go:embed token_exchange.cuh
	tokenExchange string
	//go:embed token_shared.cuh
	tokenShared string
	//go:embed token_gate.cuh
	tokenGate string
	//go:embed token_product.cuh
	tokenProduct string
	//go:embed token_attention.cuh
	tokenAttention string
	//go:embed token_norm.cuh
	tokenNorm string
	//go:embed token_choice.cuh
	tokenChoice string
	//go:embed token.cu
	tokenBody string
)

// tokenMachine is what the kernel has of the GPU's own instructions.
var tokenMachine = machine + multiplyTile

// OneLaunchVariable is the environment variable that, set to "off", keeps tokens from being computed in one launch.
const OneLaunchVariable = "GO_MLX_ONE_LAUNCH"

const (
	tokenThreads  = 512
	tokenBlocks   = 1024 // at most: the kernel has room for what so many blocks say
	maxPlaceKinds = 4
	packedBits    = 4
	maxAhead      = 6       // units of a product on the way to a warp
	sharedReserve = 2 << 10 // shared memory that is left alone
	largeLaunch   = 12010   // the driver from which on a launch may have more than oldParameters bytes of parameters
	oldParameters = 4096
	newParameters = 32000
)

// TokenModel is a decoder as Token takes it.
type TokenModel struct {
	Shape
	VocabSize   int
	EmbedScale  float32 // rounded to the model's type; 0 for none
	Embed, Head *nn.Linear
	Norm        *mlxc.Array // after the last layer
	Layers      []TokenLayer
	Kinds       int // layers of one kind have the same places in their caches
}

// TokenLayer is one layer of a TokenModel.
type TokenLayer struct {
	QKV, O, GateUp, Down           *nn.Linear
	InputNorm, MLPNorm             *mlxc.Array
	PostAttentionNorm, PostMLPNorm *mlxc.Array // nil without
	QNorm, KNorm                   *mlxc.Array // nil without
	RoPE                           mlxc.RoPE
	Kind                           int
}

// Token computes a token of one sequence in a single launch, whose blocks wait for each other. All of them must run at once: with blocks of
// two such kernels on the GPU at a time, both could wait for ever. So only one model of a process has one; GPUs do not run
// kernels of several processes side by side unless CUDA's MPS is asked for.
type Token struct {
	code           func() ([]byte, error) // compiles the kernel once; any goroutine may call it
	program        *mlxc.Program          // nil before the first run
	fixed          []*mlxc.Array          // the program's; the owner's
	blocks, shared int
	vocab          int
	dtype          mlxc.DType
}

var tokenTaken atomic.Bool

// NewToken makes the kernel, which is compiled or taken from the cache when it first runs. It returns nil for a model or a machine that it does not serve, and where
// another model of the process has one. owner owns the constants.
func NewToken(owner *mlxc.Scope, lease *mlxc.Lease, m TokenModel) (_ *Token, err error) {
	if os.Getenv(OneLaunchVariable) == "off" || os.Getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE") != "" || !m.fits() {
		return nil, nil
	}
	device, err := lease.CUDADevice()
	if err != nil {
		return nil, err
	}
	matrices, bits, group, ok := m.matrices()
	if !ok || device.Multiprocessors > tokenBlocks {
		return nil, nil
	}
	parameters := 8 * (len(matrices) + 2*len(m.Layers) + 32)
	if parameters > oldParameters && device.Driver < largeLaunch || parameters > newParameters {
		return nil, nil
	}
	source, shared := m.source(device, bits, group, len(matrices)-6, tokenMachine)
	if shared > device.SharedBytes {
		return nil, nil
	}
	if !tokenTaken.CompareAndSwap(false, true) {
		return nil, nil
	}
	defer func() {
		if err != nil {
			tokenTaken.Store(false)
		}
	}()
	t := &Token{blocks: m.blocks(device), shared: shared, vocab: m.VocabSize, dtype: m.DType, code: sync.OnceValues(func() ([]byte, error) { return compile(source, device) })}
	if t.fixed, err = m.fixed(owner, matrices, t.blocks); err != nil {
		return nil, err
	}
	return t, nil
}

// fixed are the arrays that every launch gets, those of the layers' weights last. owner owns what is made for it.
func (m *TokenModel) fixed(owner *mlxc.Scope, matrices []*mlxc.Array, blocks int) ([]*mlxc.Array, error) {
	var norms, headNorms []*mlxc.Array
	for _, l := range m.Layers {
		norms = append(norms, l.InputNorm, l.MLPNorm)
		if m.PostNorm {
			norms = append(norms, l.PostAttentionNorm, l.PostMLPNorm)
		}
		if m.QKNorm {
			headNorms = append(headNorms, l.QNorm, l.KNorm)
		}
	}
	all := owner.Concatenate(0, append(norms, m.Norm)...)
	ofHeads := all // not read
	if m.QKNorm {
		ofHeads = owner.Concatenate(0, headNorms...)
	}
	freqs := m.Layers[0].RoPE.Freqs
	if freqs == nil {
		freqs = all // not read
	}
	workspace := owner.FromUints(m.workspace(blocks), m.workspaceWords(blocks))
	if err := owner.Eval(all, ofHeads, freqs, workspace); err != nil {
		return nil, err
	}
	fixed := append(matrices[:6:6], all, ofHeads, freqs, workspace)
	for i, a := range fixed { // places without an array
		if a == nil {
			fixed[i] = all
		}
	}
	return append(fixed, matrices[6:]...), nil
}

// Prepare begins to compile the kernel, which otherwise is done when it first runs, beside what the caller does meanwhile.
func (t *Token) Prepare() {
	if t != nil && t.program == nil {
		go func() { _, _ = t.code() }() // whoever runs it gets the error
	}
}

// Close gives the kernel back; the next model may have one.
func (t *Token) Close() {
	if t == nil {
		return
	}
	t.program.Close()
	tokenTaken.Store(false)
}

// TokenPlace is where the token goes in the caches of one kind of layers: index At, with which the first Filled of Room
// positions hold something.
type TokenPlace struct{ At, Filled, Room int }

// Run takes a token, uint32 [1], at a position into the row of the buffers kv: every layer's keys and values [rows, kv_heads, room,
// head_dim], which are written in place and must not be shared with other arrays. It returns the logits [1, vocab] and the most likely
// token, uint32 [1].
func (t *Token) Run(s *mlxc.Scope, token *mlxc.Array, kv []*mlxc.Array, row, position int, places []TokenPlace) (logits, best *mlxc.Array) {
	if t.program == nil {
		code, err := t.code()
		if err == nil {
			t.program, err = mlxc.NewProgram("go_mlx_token", code, t.fixed)
		}
		if err != nil {
			s.Fail(fmt.Errorf("kernel of a token: %w", err))
			return token, token // the error is latched
		}
	}
	numbers := []int32{int32(position), int32(row)}
	for _, p := range places {
		numbers = append(numbers, int32(p.At), int32(p.Filled), int32(p.Room))
	}
	out := s.RunProgram(t.program, mlxc.ProgramLaunch{
		Grid: [3]int{t.blocks * tokenThreads, 1, 1}, Group: [3]int{tokenThreads, 1, 1}, SharedBytes: t.shared, Numbers: numbers,
		Outputs: []mlxc.Output{{Shape: []int{1, t.vocab}, DType: t.dtype}, {Shape: []int{1}, DType: mlxc.Uint32}},
	}, []*mlxc.Array{token}, kv)
	return out[0], out[1]
}

// fits reports whether the kernel can have this shape.
func (m *TokenModel) fits() bool {
	first := m.Layers[0]
	for _, l := range m.Layers {
		if l.RoPE.Traditional || l.RoPE.Dims != m.HeadDim || l.RoPE.Freqs != first.RoPE.Freqs {
			return false
		}
	}
	half := m.DType == mlxc.BFloat16 || m.DType == mlxc.Float16
	head := m.HeadDim == 32 || m.HeadDim == 64 || m.HeadDim == 128 || m.HeadDim == 256
	return half && head && m.Heads%m.KVHeads == 0 && m.Heads/m.KVHeads < tokenThreads/warp && m.Kinds <= maxPlaceKinds &&
		m.HiddenSize%warp == 0 && m.Intermediate%warp == 0
}

// matrices are the weights: of the embedding and the output layer, three places each, then of every layer. All must be plain, or all
// packed in one format.
func (m *TokenModel) matrices() (out []*mlxc.Array, bits, group int, ok bool) {
	_, _, _, format := m.Embed.Quantized()
	bits, group = format.Bits, max(1, format.GroupSize)
	add := func(l *nn.Linear, places int) bool {
		if plain := l.Plain(); plain != nil {
			out = append(out, plain)
			for range places - 1 {
				out = append(out, nil)
			}
			return bits == 0
		}
		packed, scales, biases, f := l.Quantized()
		out = append(out, packed, scales, biases)
		in, _ := l.Dims()
		return packed != nil && f == format && bits == packedBits && (group == 32 || group == 64 || group == 128) && in%group == 0
	}
	if !add(m.Embed, 3) || !add(m.Head, 3) {
		return nil, 0, 0, false
	}
	for _, l := range m.Layers {
		for _, matrix := range []*nn.Linear{l.QKV, l.O, l.GateUp, l.Down} {
			if !add(matrix, 1) {
				return nil, 0, 0, false
			}
		}
	}
	return out, bits, group, true
}

func float(x float32) string { return fmt.Sprintf("%#xu", math.Float32bits(x)) }

// source is the kernel's text for this shape and a machine, and how much shared memory a block needs. layerArrays is how many arrays the layers'
// weights are.
func (m *TokenModel) source(device mlxc.CUDADevice, bits, group, layerArrays int, machine string) (text string, shared int) {
	var b strings.Builder
	define := func(name string, value any) { fmt.Fprintf(&b, "#define %s %v\n", name, value) }
	list := func(values []string) string { return "{" + strings.Join(values, ",") + "}" }
	var kinds, ropeOf, bases, scales []string
	ropes := map[[2]float32]int{}
	for _, l := range m.Layers {
		kinds = append(kinds, fmt.Sprint(l.Kind))
		rope := [2]float32{float32(math.Log2(float64(max(l.RoPE.Base, 1)))), l.RoPE.Scale}
		at, seen := ropes[rope]
		if !seen {
			at = len(ropes)
			ropes[rope] = at
			bases, scales = append(bases, float(rope[0])), append(scales, float(rope[1]))
		}
		ropeOf = append(ropeOf, fmt.Sprint(at))
	}
	blocks := m.blocks(device)
	chunk, unit := 64, 2048 // columns of a unit of work, and its bytes
	if bits != 0 {
		chunk, unit = 128, 1024+128+16
		if group == 32 {
			unit = 1024 + 2*128
		}
	}
	queries := m.Heads * m.HeadDim
	qkv := queries + 2*m.KVHeads*m.HeadDim
	parts := max(2*tokenThreads/warp, productParts(qkv, m.HiddenSize, 16, chunk, blocks), productParts(m.HiddenSize, queries, 16, chunk, blocks),
		productParts(m.Intermediate, m.HiddenSize, 8, chunk, blocks), productParts(m.HiddenSize, m.Intermediate, 16, chunk, blocks))
	share := m.Heads / m.KVHeads
	valueParts := tokenThreads / (m.HeadDim / 2)
	union := max(parts, share*(m.HeadDim+64+1+valueParts*m.HeadDim)+m.HeadDim+16, m.Heads*(tokenBlocks/m.KVHeads))
	longest := max(m.HiddenSize, queries, m.Intermediate)
	shared = 2*(longest+128) + 128 + 4*(longest/32+4) + 4*64 + 8*(layerArrays+2*len(m.Layers)) + 4*len(ropes)*m.HeadDim + 4*union + 512
	shared = (shared + 127) &^ 127
	unitsAt := shared
	ahead := min(maxAhead, (device.SharedBytes-sharedReserve-shared)/(unit*tokenThreads/warp))
	shared += max(ahead, 1) * unit * tokenThreads / warp
	// In one order, as the text is what the compiled kernel is kept under.
	for _, d := range []struct {
		name  string
		value any
	}{
		{"LAYERS", len(m.Layers)}, {"HIDDEN", m.HiddenSize}, {"HEADS", m.Heads}, {"KV_HEADS", m.KVHeads}, {"HEAD_DIM", m.HeadDim},
		{"INTER", m.Intermediate}, {"VOCAB", m.VocabSize}, {"HALF", flag(m.DType == mlxc.Float16)}, {"BITS", bits}, {"GROUP", group},
		{"QK_NORM", flag(m.QKNorm)}, {"POST_NORM", flag(m.PostNorm)}, {"GELU", flag(m.GELU)},
		{"FREQS", flag(m.Layers[0].RoPE.Freqs != nil)}, {"KINDS", m.Kinds}, {"ROPES", len(ropes)}, {"UNITS_AT", unitsAt}, {"AHEAD", max(ahead, 1)},
		{"PARTS", parts}, {"THREADS", tokenThreads}, {"SHARED_BYTES", shared},
		{"BLOCKS", blocks}, {"WORKSPACE_WORDS", m.workspaceWords(blocks)},
		{"KIND_OF", list(kinds)}, {"ROPE_OF", list(ropeOf)}, {"ROPE_BASE", list(bases)}, {"ROPE_SCALE", list(scales)},
		{"EPS", float(m.RMSNormEps)}, {"ATTENTION_SCALE", float(m.AttentionScale)}, {"EMBED_SCALE", float(m.EmbedScale)},
	} {
		define(d.name, d.value)
	}
	parameters := []string{"const void* token"}
	for _, name := range []string{"embed", "embed_scales", "embed_biases", "head", "head_scales", "head_biases", "norms", "head_norms"} {
		parameters = append(parameters, "const void* "+name)
	}
	parameters = append(parameters, "const float* freqs", "void* workspace")
	pointers := make([]string, tokenThreads/warp) // what each warp puts into the table
	for i := range layerArrays + 2*len(m.Layers) {
		parameters = append(parameters, fmt.Sprintf("const void* p%d", i))
		pointers[i%len(pointers)] += fmt.Sprintf(" shared().pointer[%d] = reinterpret_cast<unsigned long long>(p%d);", i, i)
	}
	parameters = append(parameters, "void* logits", "void* best", "int position", "int row")
	var at, filled, room []string
	for i := range m.Kinds {
		at, filled, room = append(at, fmt.Sprint("at", i)), append(filled, fmt.Sprint("filled", i)), append(room, fmt.Sprint("room", i))
		parameters = append(parameters, "int "+at[i], "int "+filled[i], "int "+room[i])
	}
	var cases strings.Builder
	for i, p := range pointers {
		fmt.Fprintf(&cases, " case %d:%s break;", i, p)
	}
	define("PARAMETERS", strings.Join(parameters, ", "))
	define("POINTERS", cases.String())
	define("AT", list(at))
	define("FILLED", list(filled))
	define("ROOM", list(room))
	b.WriteString(strings.Join([]string{
		machine, tokenTypes, tokenShared, tokenExchange, tokenGate, tokenProduct, tokenAttention, tokenNorm, tokenChoice, tokenBody,
	}, "\n"))
	return b.String(), shared
}

// productParts is the room for the parts of a product's rows as token_product.cuh cuts it, into tiles of so many rows.
func productParts(rows, columns, tile, chunk, blocks int) int {
	up := func(a, b int) int { return (a + b - 1) / b }
	tiles, chunks := up(up(rows, blocks), tile), up(columns, chunk)
	ofWarp := up(tiles*chunks, tokenThreads/warp)
	return tiles * (up(chunks, ofWarp) + 1) * 16
}

// blocks is how many there are: at most one on each multiprocessor, and each has rows of every product.
func (m *TokenModel) blocks(device mlxc.CUDADevice) int {
	return min(device.Multiprocessors, m.HiddenSize, m.Intermediate, m.VocabSize, (m.Heads+2*m.KVHeads)*m.HeadDim)
}

// workspaceWords is the size of the kernel's Workspace and of what follows it, in words of four bytes.
func (m *TokenModel) workspaceWords(blocks int) int {
	fixed := 4 + 4*blocks + (m.Heads+2*m.KVHeads)*m.HeadDim + m.HiddenSize + m.Intermediate + 16
	parts := max(blocks*m.Heads/m.KVHeads, m.Heads)
	return fixed + 4*blocks*m.Heads + 2*parts*m.HeadDim
}

// workspace is its first contents: counters of zero, and no token found.
func (m *TokenModel) workspace(blocks int) []uint32 {
	words := make([]uint32, m.workspaceWords(blocks))
	words[2] = math.MaxUint32
	return words
}

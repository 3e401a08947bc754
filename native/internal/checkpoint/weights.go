// Package checkpoint reads what a model is made of on disk: config.json, weights as safetensors or GGUF, and adapters. Headers are checked
// before MLX sees a file, and tensors are handed out by name and shape.
package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// Weights hands out the tensors of a checkpoint by name and shape. Problems are collected, so that one
// error lists them all.
type Weights struct {
	dir     string
	Scope   *mlxc.Scope // owns every array of the model
	Headers map[string]safetensors.Tensor
	arrays  map[string]*mlxc.Array
	Prefix  string            // in front of every name, e.g. "language_model."
	bare    bool              // names lack "model.", as in folders of embedding models
	centred bool              // packed weights may lack biases and lie around zero: those of a GGUF file for the CPU kernels
	gguf    *mlxc.VirtualFile // the weights are in a GGUF file; nil for safetensors
	used    map[string]bool
	ignored map[string]bool
	Problems
	packedAs     map[string]mlxc.Quantization // of packed weights, by name
	toInterleave []mlxc.Layer                 // when they are read
	Linears      Linears
	derived      []*mlxc.Array // computed from tensors when these are read
	spent        []*mlxc.Array // not needed once derived is computed
	joins        []join
	Close        func() error // of the file that tensors are read from; nil for MLX's own
	Fuse         bool         // join what layers compute together, for the CUDA kernels
	Kernels      bool         // compute with the CPU kernels
	vectors      string       // see kernelType; "" until it is looked for
	files        []*weightFile
	// BeforeLast, unless nil, is called before the last part of the weights is read for the CPU kernels. It may be called again.
	BeforeLast func()
}

// Problems are what is wrong with a checkpoint, one sentence each.
type Problems []string

// Add notes a problem.
func (p *Problems) Add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// EmbeddingName is the tensor that every text model has; what precedes it is the checkpoint's prefix.
const EmbeddingName = "model.embed_tokens.weight"

// weightFiles are the files of a checkpoint: one or several shards of safetensors, or else a GGUF file.
func weightFiles(from *modelfiles.Source) ([]string, error) {
	if from.GGUF != "" {
		return []string{from.GGUF}, nil
	}
	return modelfiles.Tensors(from.Dir)
}

// OpenWeights checks the files of a checkpoint and opens them; nothing is read yet. packing is how GGUF's types are held. kernels is
// whether the CPU kernels will compute; then tensors are read, or converted of GGUF's, to where they stay.
func OpenWeights(from *modelfiles.Source, scope *mlxc.Scope, packing gguf.Packing, kernels bool) (*Weights, error) {
	files, err := weightFiles(from)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, &engine.CheckpointError{Path: from.Dir, Problems: []string{"no model*.safetensors and no .gguf file"}}
	}
	w := &Weights{
		dir: from.Dir, Scope: scope, Kernels: kernels,
		Headers: map[string]safetensors.Tensor{}, arrays: map[string]*mlxc.Array{},
		used: map[string]bool{}, ignored: map[string]bool{}, packedAs: map[string]mlxc.Quantization{}, Linears: Linears{},
	}
	if from.GGUF != "" {
		return w, w.openGGUF(from, packing)
	}
	headers := make([]map[string]safetensors.Tensor, len(files))
	for i, file := range files {
		if headers[i], err = safetensors.ReadFile(file); err != nil {
			return nil, err
		}
		maps.Copy(w.Headers, headers[i])
	}
	_, w.bare = w.Headers[w.bareName(EmbeddingName)]
	for name := range w.Headers {
		if rest, ok := strings.CutSuffix(name, EmbeddingName); ok {
			w.Prefix = rest
		}
	}
	for i, file := range files {
		if !w.Kernels || !w.openFile(file, headers[i]) {
			maps.Copy(w.arrays, scope.LoadSafetensors(file))
		}
	}
	return w, scope.Err()
}

// openGGUF takes the tensors of a GGUF file, which are converted while MLX reads them. The caller closes it.
func (w *Weights) openGGUF(from *modelfiles.Source, packing gguf.Packing) error {
	c, err := from.OpenGGUF(packing)
	if err != nil {
		return err
	}
	w.Close = c.Close
	w.Headers = c.Virtual
	w.centred = w.Kernels
	if w.Kernels && w.openRoom(c) {
		return w.Scope.Err()
	}
	w.gguf = mlxc.NewVirtualFile(from.GGUF, c, c.Size())
	w.arrays = w.Scope.LoadVirtual(w.gguf)
	return w.Scope.Err()
}

// Bytes is the size of all tensors.
func (w *Weights) Bytes() int64 {
	var n int64
	for _, t := range w.Headers {
		n += t.Bytes()
	}
	return n
}

// Key is a tensor's name in the checkpoint.
func (w *Weights) Key(name string) string {
	if w.bare {
		return w.bareName(name)
	}
	return w.Prefix + name
}

func (w *Weights) bareName(name string) string { return strings.TrimPrefix(name, "model.") }

// Has reports whether the checkpoint has a tensor.
func (w *Weights) Has(name string) bool {
	_, ok := w.Headers[w.Key(name)]
	return ok
}

// tensor returns a tensor of the given shape, or notes why it cannot.
func (w *Weights) tensor(name string, shape ...int) *mlxc.Array {
	name = w.Key(name)
	w.used[name] = true
	header, ok := w.Headers[name]
	switch {
	case !ok:
		w.Add("missing tensor %s %v", name, shape)
		return nil
	case !slices.Equal(header.Shape, shape):
		w.Add("tensor %s has shape %v, want %v", name, header.Shape, shape)
		return nil
	}
	return w.arrays[name]
}

// floating are the types in which models compute.
var floating = []string{"BF16", "F16", "F32"}

// floats is tensor for what may only be of a floating type.
func (w *Weights) floats(name string, shape ...int) *mlxc.Array {
	a := w.tensor(name, shape...)
	if dtype := w.Headers[w.Key(name)].DType; a != nil && !slices.Contains(floating, dtype) {
		w.Add("tensor %s is of type %s, and the native engine computes with BF16, F16 and F32", w.Key(name), dtype)
		return nil
	}
	return a
}

// CheckLayers refuses more layers than there are tensors: the list of missing tensors would be endless.
func (w *Weights) CheckLayers(n int) error {
	if n > len(w.Headers) {
		return fmt.Errorf("num_hidden_layers is %d, and the weights are only %d tensors", n, len(w.Headers))
	}
	return nil
}

// Ignore marks a tensor that a checkpoint may hold although the model does not need it.
func (w *Weights) Ignore(name string) { w.ignored[w.Key(name)] = true }

// Norm returns the weight of an RMSNorm, to which offset is added as mlx-lm does before each use.
func (w *Weights) Norm(name string, size int, offset float64) *mlxc.Array {
	a := w.floats(name+".weight", size)
	if a == nil || offset == 0 {
		return w.fitting(a)
	}
	scalar := w.Scope.Scalar(offset, a.DType())
	sum := w.Scope.Add(scalar, a)
	w.spent = append(w.spent, scalar, a)
	if fits := w.fitting(sum); fits != sum {
		return fits
	}
	w.derived = append(w.derived, sum)
	return sum
}

// fitting is a vector in the type in which the CPU kernels compute. MLX's ops take vectors of any type.
func (w *Weights) fitting(a *mlxc.Array) *mlxc.Array {
	if a == nil || !w.Kernels || a.DType().String() == w.DType() {
		return a
	}
	fits := w.Scope.AsType(a, fileTypes[w.kernelType()])
	w.derived, w.spent = append(w.derived, fits), append(w.spent, a)
	return fits
}

// Linear returns a layer [out, in], quantised if the checkpoint has scales for it.
func (w *Weights) Linear(name string, in, out int) *nn.Linear {
	if w.Has(name + ".scales") {
		packed, scales, biases, q := w.packed(name, in, out)
		return w.Linears.add(name, nn.NewQuantizedLinear(packed, scales, biases, q))
	}
	weight := w.floats(name+".weight", out, in)
	if weight == nil {
		return nil
	}
	return w.Linears.add(name, nn.NewLinear(w.Scope, weight))
}

// Linears are layers by name.
type Linears map[string]*nn.Linear

func (l Linears) add(name string, layer *nn.Linear) *nn.Linear {
	l[name] = layer
	return layer
}

// LinearBias is linear for a layer that may have a bias.
func (w *Weights) LinearBias(name string, in, out int, biased bool) *nn.Linear {
	l := w.Linear(name, in, out)
	if !biased {
		return l
	}
	bias := w.fitting(w.floats(name+".bias", out))
	if l == nil || bias == nil {
		return nil
	}
	return w.Linears.add(name, l.WithBias(bias))
}

// Embedding returns a table [vocab, hidden], quantised if the checkpoint has scales for it.
func (w *Weights) Embedding(name string, vocab, hidden int) *nn.Embedding {
	if w.Has(name + ".scales") {
		packed, scales, biases, q := w.packed(name, hidden, vocab)
		return nn.NewQuantizedEmbedding(packed, scales, biases, q)
	}
	weight := w.floats(name+".weight", vocab, hidden)
	if weight == nil {
		return nil
	}
	return nn.NewEmbedding(w.Scope, weight)
}

// packed returns a quantised matrix. Bits and group size follow from the shapes, layer by layer, so
// that mixed checkpoints need nothing else. For the CPU kernels biases may be missing: see mlxc.Layer.
func (w *Weights) packed(name string, in, out int) (packed, scales, biases *mlxc.Array, q mlxc.Quantization) {
	weight, scale := w.Headers[w.Key(name+".weight")], w.Headers[w.Key(name+".scales")]
	if len(weight.Shape) != 2 || len(scale.Shape) != 2 || scale.Shape[1] == 0 ||
		in%scale.Shape[1] != 0 || weight.Shape[1]*32%in != 0 || weight.DType != "U32" {
		w.Add("tensor %s: weight %v %s and scales %v do not make a quantised [%d %d]", name, weight.Shape, weight.DType, scale.Shape, out, in)
		return nil, nil, nil, q
	}
	q = mlxc.Quantization{GroupSize: in / scale.Shape[1], Bits: weight.Shape[1] * 32 / in}
	_, again := w.packedAs[w.Key(name+".weight")]
	groups := in / q.GroupSize
	if !w.centred || w.Has(name+".biases") {
		biases = w.tensor(name+".biases", out, groups)
	}
	if offset := w.Headers[w.Key(name+".biases")]; !slices.Contains(floating, scale.DType) || biases != nil && !slices.Contains(floating, offset.DType) {
		w.Add("tensor %s: scales %s and biases %s are not those of affine quantisation, the only one that this engine reads; the python engine may read it", name, scale.DType, offset.DType)
	} else if w.Kernels && !kernelsTake(q, scale.DType, offset.DType) {
		w.Add("tensor %s: the CPU kernels do not take %d bits in groups of %d with scales %s; Exact may", name, q.Bits, q.GroupSize, scale.DType)
	}
	packed, scales = w.tensor(name+".weight", out, weight.Shape[1]), w.tensor(name+".scales", out, groups)
	if w.Kernels && w.DType() != "float32" && q.LikesInterleaved() { // float32 is multiplied as it is
		if !again {
			w.toInterleave = append(w.toInterleave, mlxc.Layer{Weights: packed, Scales: scales, Biases: biases, Format: q})
		}
		q.Interleaved = true
	}
	w.packedAs[w.Key(name+".weight")] = q
	return packed, scales, biases, q
}

// kernelsTake reports whether the CPU kernels compute with packed weights of a format whose scales and biases have these types.
func kernelsTake(q mlxc.Quantization, scales, biases string) bool {
	return (q.Bits >= 2 && q.Bits <= 6 || q.Bits == 8) && (slices.Contains([]int{32, 64, 128}, q.GroupSize) || q.GroupSize == 16 && q.Bits != 4) &&
		(biases == "" || biases == scales)
}

// ignorable are tensors of other parts of a checkpoint and of older formats.
var ignorable = []string{"vision_tower.", "multi_modal_projector.", "rotary_emb.inv_freq", "rope_freqs.weight"}

// relevant reports whether a tensor is one that text models know.
func (w *Weights) relevant(name string) bool {
	return !slices.ContainsFunc(ignorable, func(part string) bool { return strings.Contains(name, part) })
}

// Finish reports what was missing, mis-shaped or left over, and reads everything that was used.
func (w *Weights) Finish() error {
	for _, name := range slices.Sorted(maps.Keys(w.Headers)) {
		if !w.used[name] && !w.ignored[name] && w.relevant(name) {
			w.Add("unknown tensor %s %v", name, w.Headers[name].Shape)
		}
	}
	if len(w.Problems) > 0 {
		slices.Sort(w.Problems)
		return &engine.CheckpointError{Path: w.dir, Problems: w.Problems}
	}
	if err := errors.Join(w.readFiles(), w.readJoins()); err != nil {
		return err
	}
	arrays := w.derived
	// The weights of a matrix come before their scales, which a GGUF file makes along with them.
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(w.used))) {
		if w.arrays[name].Valid() { // the parts of what is joined are gone
			arrays = append(arrays, w.arrays[name])
		}
	}
	if err := w.Scope.Eval(arrays...); err != nil {
		return err
	}
	for _, l := range w.toInterleave {
		w.Scope.Interleave(l)
	}
	errs := []error{w.Scope.Err()}
	if w.gguf != nil {
		errs = append(errs, w.gguf.Err())
	}
	for _, a := range w.spent {
		errs = append(errs, w.Scope.Keep(a).Free())
	}
	for name := range w.Headers {
		if !w.used[name] {
			errs = append(errs, w.Scope.Keep(w.arrays[name]).Free())
		}
	}
	return errors.Join(errs...)
}

// DType is MLX's name of the type in which the model computes: that of its last norm, and with the CPU kernels that of all its vectors.
func (w *Weights) DType() string {
	if w.Kernels {
		return safetensors.TypeName(w.kernelType())
	}
	return safetensors.TypeName(w.Headers[w.Key("model.norm.weight")].DType)
}

// kernelType is the type of all norms and biases. Where they are of several it is float32, which holds them all exactly, and to which MLX's
// ops promote, too.
func (w *Weights) kernelType() string {
	if w.vectors != "" {
		return w.vectors
	}
	types := map[string]bool{}
	for name, t := range w.Headers {
		if slices.Contains(floating, t.DType) && w.relevant(name) && (strings.HasSuffix(name, "norm.weight") || strings.HasSuffix(name, ".bias")) {
			types[t.DType] = true
		}
	}
	if w.vectors = "F32"; len(types) == 1 {
		w.vectors = slices.Collect(maps.Keys(types))[0]
	}
	return w.vectors
}

// Summary adds what the headers tell to the model's description.
func (w *Weights) Summary(info *engine.Info) {
	for name := range w.used {
		t := w.Headers[name]
		info.WeightBytes += t.Bytes()
		if q, ok := w.packedAs[name]; ok {
			info.Parameters += t.Elements() * 32 / int64(q.Bits)
		} else if !strings.HasSuffix(name, ".scales") && !strings.HasSuffix(name, ".biases") {
			info.Parameters += t.Elements()
		}
	}
	formats := map[string]bool{}
	for _, q := range w.packedAs {
		formats[fmt.Sprintf("%d-bit, groups of %d", q.Bits, q.GroupSize)] = true
	}
	info.Quantization = strings.Join(slices.Sorted(maps.Keys(formats)), " and ")
}

package native

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

// weights hands out the tensors of a checkpoint by name and shape. Problems are collected, so that one
// error lists them all.
type weights struct {
	dir     string
	scope   *mlxc.Scope // owns every array of the model
	headers map[string]safetensors.Tensor
	arrays  map[string]*mlxc.Array
	prefix  string            // in front of every name, e.g. "language_model."
	bare    bool              // names lack "model.", as in folders of embedding models
	gguf    *mlxc.VirtualFile // the weights are in a GGUF file; nil for safetensors
	used    map[string]bool
	ignored map[string]bool
	problems
	packedAs map[string]mlxc.Quantization // of packed weights, by name
	linears  linears
	derived  []*mlxc.Array // computed from tensors when these are read
	spent    []*mlxc.Array // not needed once derived is computed
	joins    []join
	close    func() error // of the file that tensors are read from; nil for MLX's own
	fuse     bool         // join what layers compute together, for the CUDA kernels
	kernels  bool         // compute with the CPU kernels
	files    []*weightFile
}

type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// embedding is the tensor that every text model has; what stands before it is the checkpoint's prefix.
const embeddingName = "model.embed_tokens.weight"

// weightFiles are the files of a checkpoint: one or several shards of safetensors, or else a GGUF file.
func weightFiles(from *modelfiles.Source) ([]string, error) {
	if from.GGUF != "" {
		return []string{from.GGUF}, nil
	}
	return modelfiles.Files(from.Dir, "model*.safetensors")
}

// openWeights checks the files of a checkpoint and opens them; nothing is read yet. packing is how GGUF's types are held. kernels is
// whether the CPU kernels will compute; then safetensors are read to where they stay.
func openWeights(from *modelfiles.Source, scope *mlxc.Scope, packing gguf.Packing, kernels bool) (*weights, error) {
	files, err := weightFiles(from)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, &engine.CheckpointError{Path: from.Dir, Problems: []string{"no model*.safetensors and no .gguf file"}}
	}
	w := &weights{
		dir: from.Dir, scope: scope, kernels: kernels,
		headers: map[string]safetensors.Tensor{}, arrays: map[string]*mlxc.Array{},
		used: map[string]bool{}, ignored: map[string]bool{}, packedAs: map[string]mlxc.Quantization{}, linears: linears{},
	}
	if from.GGUF != "" {
		return w, w.openGGUF(from, packing)
	}
	headers := make([]map[string]safetensors.Tensor, len(files))
	for i, file := range files {
		if headers[i], err = safetensors.ReadFile(file); err != nil {
			return nil, err
		}
		maps.Copy(w.headers, headers[i])
	}
	_, w.bare = w.headers[w.bareName(embeddingName)]
	for name := range w.headers {
		if rest, ok := strings.CutSuffix(name, embeddingName); ok {
			w.prefix = rest
		}
	}
	for i, file := range files {
		if !w.kernels || !w.openFile(file, headers[i]) {
			maps.Copy(w.arrays, scope.LoadSafetensors(file))
		}
	}
	return w, scope.Err()
}

// openGGUF takes the tensors of a GGUF file, which are converted while MLX reads them. The caller closes it.
func (w *weights) openGGUF(from *modelfiles.Source, packing gguf.Packing) error {
	c, err := from.OpenGGUF(packing)
	if err != nil {
		return err
	}
	w.close = c.Close
	w.headers = c.Virtual
	w.gguf = mlxc.NewVirtualFile(from.GGUF, c, c.Size())
	w.arrays = w.scope.LoadVirtual(w.gguf)
	return w.scope.Err()
}

// bytes is the size of all tensors.
func (w *weights) bytes() int64 {
	var n int64
	for _, t := range w.headers {
		n += t.Bytes()
	}
	return n
}

// key is a tensor's name in the checkpoint.
func (w *weights) key(name string) string {
	if w.bare {
		return w.bareName(name)
	}
	return w.prefix + name
}

func (w *weights) bareName(name string) string { return strings.TrimPrefix(name, "model.") }

func (w *weights) has(name string) bool {
	_, ok := w.headers[w.key(name)]
	return ok
}

// tensor returns a tensor of the given shape, or notes why it cannot.
func (w *weights) tensor(name string, shape ...int) *mlxc.Array {
	name = w.key(name)
	w.used[name] = true
	header, ok := w.headers[name]
	switch {
	case !ok:
		w.add("missing tensor %s %v", name, shape)
		return nil
	case !slices.Equal(header.Shape, shape):
		w.add("tensor %s has shape %v, want %v", name, header.Shape, shape)
		return nil
	}
	return w.arrays[name]
}

// ignore leaves a tensor out that a checkpoint may hold without need.
func (w *weights) ignore(name string) { w.ignored[w.key(name)] = true }

// norm returns the weight of an RMSNorm, to which offset is added as mlx-lm does before each use.
func (w *weights) norm(name string, size int, offset float64) *mlxc.Array {
	a := w.tensor(name+".weight", size)
	if a == nil || offset == 0 {
		return a
	}
	scalar := w.scope.Scalar(offset, a.DType())
	sum := w.scope.Add(scalar, a)
	w.derived, w.spent = append(w.derived, sum), append(w.spent, scalar, a)
	return sum
}

// linear returns a layer [out, in], quantised if the checkpoint has scales for it.
func (w *weights) linear(name string, in, out int) *nn.Linear {
	if w.has(name + ".scales") {
		packed, scales, biases, q := w.packed(name, in, out)
		return w.linears.add(name, nn.NewQuantizedLinear(packed, scales, biases, q))
	}
	weight := w.tensor(name+".weight", out, in)
	if weight == nil {
		return nil
	}
	return w.linears.add(name, nn.NewLinear(w.scope, weight))
}

// linears are layers by name.
type linears map[string]*nn.Linear

func (l linears) add(name string, layer *nn.Linear) *nn.Linear {
	l[name] = layer
	return layer
}

// linearBias is linear for a layer that may have a bias.
func (w *weights) linearBias(name string, in, out int, biased bool) *nn.Linear {
	l := w.linear(name, in, out)
	if !biased {
		return l
	}
	bias := w.tensor(name+".bias", out)
	if l == nil || bias == nil {
		return nil
	}
	return w.linears.add(name, l.WithBias(bias))
}

// embedding returns a table [vocab, hidden], quantised if the checkpoint has scales for it.
func (w *weights) embedding(name string, vocab, hidden int) *nn.Embedding {
	if w.has(name + ".scales") {
		packed, scales, biases, q := w.packed(name, hidden, vocab)
		return nn.NewQuantizedEmbedding(packed, scales, biases, q)
	}
	weight := w.tensor(name+".weight", vocab, hidden)
	if weight == nil {
		return nil
	}
	return nn.NewEmbedding(w.scope, weight)
}

// packed returns a quantised matrix. Bits and group size follow from the shapes, layer by layer, so
// that mixed checkpoints need nothing else. For the CPU kernels biases may be missing: see mlxc.Layer.
func (w *weights) packed(name string, in, out int) (packed, scales, biases *mlxc.Array, q mlxc.Quantization) {
	weight, scale := w.headers[w.key(name+".weight")], w.headers[w.key(name+".scales")]
	if len(weight.Shape) != 2 || len(scale.Shape) != 2 || scale.Shape[1] == 0 ||
		in%scale.Shape[1] != 0 || weight.Shape[1]*32%in != 0 || weight.DType != "U32" {
		w.add("tensor %s: weight %v %s and scales %v do not make a quantised [%d %d]", name, weight.Shape, weight.DType, scale.Shape, out, in)
		return nil, nil, nil, q
	}
	q = mlxc.Quantization{GroupSize: in / scale.Shape[1], Bits: weight.Shape[1] * 32 / in}
	w.packedAs[w.key(name+".weight")] = q
	groups := in / q.GroupSize
	if !w.kernels || w.has(name+".biases") {
		biases = w.tensor(name+".biases", out, groups)
	}
	return w.tensor(name+".weight", out, weight.Shape[1]), w.tensor(name+".scales", out, groups), biases, q
}

// ignorable are tensors of other parts of a checkpoint and of older formats.
var ignorable = []string{"vision_tower.", "multi_modal_projector.", "rotary_emb.inv_freq", "rope_freqs.weight"}

// relevant reports whether a tensor is one that text models know.
func (w *weights) relevant(name string) bool {
	return !slices.ContainsFunc(ignorable, func(part string) bool { return strings.Contains(name, part) })
}

// finish reports what was missing, mis-shaped or left over, and reads everything that was used.
func (w *weights) finish() error {
	for _, name := range slices.Sorted(maps.Keys(w.headers)) {
		if !w.used[name] && !w.ignored[name] && w.relevant(name) {
			w.add("unknown tensor %s %v", name, w.headers[name].Shape)
		}
	}
	if len(w.problems) > 0 {
		slices.Sort(w.problems)
		return &engine.CheckpointError{Path: w.dir, Problems: w.problems}
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
	if err := w.scope.Eval(arrays...); err != nil {
		return err
	}
	var errs []error
	if w.gguf != nil {
		errs = append(errs, w.gguf.Err())
	}
	for _, a := range w.spent {
		errs = append(errs, w.scope.Keep(a).Free())
	}
	for name := range w.headers {
		if !w.used[name] {
			errs = append(errs, w.scope.Keep(w.arrays[name]).Free())
		}
	}
	return errors.Join(errs...)
}

// dtype is MLX's name of the type in which the model computes: that of its norms.
func (w *weights) dtype() string {
	return dtypeName(w.headers[w.key("model.norm.weight")].DType)
}

// dtypeName is MLX's name of a safetensors type.
func dtypeName(code string) string {
	names := map[string]string{"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
	if name, ok := names[code]; ok {
		return name
	}
	return code
}

// summary adds what the headers tell to the model's description.
func (w *weights) summary(info *engine.Info) {
	for name := range w.used {
		t := w.headers[name]
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

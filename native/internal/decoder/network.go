package decoder

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// Network is weights with their forward pass. It belongs to the owner thread.
type Network struct {
	*owner.Owner
	Weights *mlxc.Scope
	Arch    Architecture
	cpu     *cpuDecoder   // of arch; nil without the CPU kernels
	CUDA    *FusedDecoder // of arch; nil without the CUDA kernels
	Shape   Shape
	Kinds   layerKinds
	Kernels string             // what computes: for people
	Linears checkpoint.Linears // for adapters
	Prefix  string             // of the checkpoint's names
	steps   *mlxc.Function     // TokenPass, compiled; nil without CUDA kernels
	Token   TokenKernel        // nil where tokens are not one launch
	Drawer  Drawer             // nil where MLX's ops draw tokens
	// BeforeLastWeights, unless nil, is called before the last weights are read. It waits for other reading that needs memory only while it
	// lasts, so that this memory is free before all weights are there.
	BeforeLastWeights func()

	Training bool // its passes are differentiated, which the CUDA kernels cannot be; set before Load
}

// PrefillChunk is how many prompt tokens one pass takes. A cancelled request stops after the chunk
// under way; the python engine uses the same size, so that both engines compute the same passes.
const PrefillChunk = 512

// ThreadsVariable is the environment variable that sets the number of threads where no option does.
const ThreadsVariable = "GO_MLX_THREADS"

// useThreads sets how many threads the CPU kernels use, which all models of the process share. A model without these kernels refuses a number
// given by the option; the environment variable is for every model of the process, so it only has to be a number.
func useThreads(n int, kernels bool) error {
	if text := os.Getenv(ThreadsVariable); n == 0 && text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			return fmt.Errorf("%s is %q and not a number of threads", ThreadsVariable, text)
		}
	} else if n > 0 && !kernels {
		return &engine.OptionError{Option: "Threads", Reason: "only the engine's own CPU kernels have threads, and the model is not computed by these: leave it out"}
	}
	if n == 0 {
		n = runtime.GOMAXPROCS(0) // which knows the limits of a container
	}
	if kernels {
		mlxc.SetCPUThreads(n)
	}
	return nil
}

// Load reads a checkpoint, and an adapter if one is named. What was opened before a failure is freed by close.
func (n *Network) Load(from *modelfiles.Source, cfg *checkpoint.Config, adapter string, options engine.NativeOptions) (_ *checkpoint.Weights, err error) {
	n.Weights = n.Lease.NewScope()
	kernels := !options.Exact && n.Lease.Device().Name == "cpu"
	if err := useThreads(options.Threads, kernels); err != nil {
		return nil, err
	}
	if kernels {
		level, err := mlxc.CPULevel()
		if err != nil {
			return nil, err
		}
		n.Kernels = fmt.Sprintf("cpu (%s, %d threads)", level, mlxc.CPUThreads())
	}
	packing := gguf.Plain // MLX has no quick kernel for packed weights on CPUs, so plain ones are many times as fast with its ops
	switch {
	case kernels:
		packing = gguf.ForKernels
	case options.QuantizedGGUF || n.Lease.Device().Name == "gpu":
		packing = gguf.Affine
	}
	w, err := checkpoint.OpenWeights(from, n.Weights, packing, kernels)
	if w != nil {
		w.BeforeLast = n.BeforeLastWeights
		defer w.CloseFiles()
	}
	if w != nil && w.Close != nil {
		defer func() { err = errors.Join(err, w.Close()) }()
	}
	if err != nil {
		return nil, err
	}
	if err := n.Reserve("the model's weights", w.Bytes); err != nil {
		return nil, err
	}
	capability, err := n.Lease.CUDACapability()
	if err != nil {
		return nil, err
	}
	w.Fuse = capability >= fused.MinCapability && !options.Exact && !n.Training && adapter == ""
	// A constructor may return something that has to be freed beside its error.
	if n.Arch, err = architectures[cfg.ModelType](cfg, w, n.Lease); err != nil {
		return nil, err
	}
	if err := n.Weights.Err(); err != nil {
		return nil, err
	}
	n.Shape = n.Arch.shape()
	if d, ok := n.Arch.(*decoder); ok {
		n.cpu, n.CUDA = d.cpu, d.cuda
	}
	switch {
	case n.CUDA != nil:
		n.Kernels = "cuda"
		if os.Getenv(fused.OneLaunchVariable) != "off" {
			n.Drawer = n.CUDA.Kernels
		}
	case n.cpu == nil:
		n.Kernels = "mlx"
	}
	n.Kinds = kindsOf(n.Shape.Windows)
	n.Linears, n.Prefix = w.Linears, w.Prefix
	if adapter != "" {
		if err := checkpoint.LoadAdapter(n.Weights, n.Linears, adapter, n.cpu != nil); err != nil {
			return nil, &engine.OptionError{Option: "Adapter", Reason: adapter + ": " + err.Error(), Err: err}
		}
	}
	if n.CUDA != nil {
		if n.steps, err = n.Lease.Compile(false, n.traceTokens); err != nil {
			return nil, err
		}
	}
	return w, n.prepareToken()
}

// Close frees the weights and what was made of them; also of a network that was loaded in part, or not at all.
func (n *Network) Close() error {
	if n == nil {
		return nil
	}
	errs := []error{n.steps.Close()}
	if n.Token != nil {
		n.Token.Close()
	}
	if n.Arch != nil {
		errs = append(errs, n.Arch.Close())
	}
	if n.Weights != nil {
		errs = append(errs, n.Weights.Close())
	}
	return errors.Join(errs...)
}

// NextLogits takes one token, uint32 [1], into a state and returns the logits [1, vocab] after it.
func (n *Network) NextLogits(s *mlxc.Scope, st *kv.Sequence, token *mlxc.Array) *mlxc.Array {
	ids := s.Reshape(token, 1, 1)
	if logits, ok := n.compiledStep(s, st, ids); ok {
		return logits
	}
	return s.Squeeze(n.Arch.Logits(s, n.Run(s, st, ids)), 1)
}

// OnKernels reports whether the CPU kernels compute.
func (n *Network) OnKernels() bool { return n.cpu != nil }

// OutputLayer is the output layer for the CPU kernels.
func (n *Network) OutputLayer() mlxc.Layer { return n.cpu.head }

// NewSequence is an empty one for the network's kernels.
func (n *Network) NewSequence() *kv.Sequence { return kv.NewSequence(&n.Shape.Layout) }

// Run takes tokens [1, T] into a sequence and returns their hidden states [1, T, hidden].
func (n *Network) Run(s *mlxc.Scope, st *kv.Sequence, ids *mlxc.Array) *mlxc.Array {
	return n.Arch.Hidden(s, ids, kv.NewPass(s, []*kv.Sequence{st}, ids.Dim(1)))
}

// Prefill runs tokens through the model, chunk by chunk, for their KV.
func (n *Network) Prefill(parent *mlxc.Scope, st *kv.Sequence, ids []int32) error {
	for chunk := range slices.Chunk(ids, PrefillChunk) {
		s := parent.Child()
		n.Run(s, st, s.FromInts(chunk, 1, len(chunk)))
		if err := errors.Join(s.Eval(st.Arrays()...), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// CheckCausal refuses what a model that attends in both directions cannot do.
func (n *Network) CheckCausal(what string) error {
	if n.Shape.Bidirectional {
		return fmt.Errorf("%s: the model attends in both directions and is for embeddings: %w", what, engine.ErrUnsupported)
	}
	return nil
}

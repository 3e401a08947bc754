package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// network is weights with their forward pass. It belongs to the owner thread.
type network struct {
	*owner
	weights *mlxc.Scope
	arch    architecture
	cpu     *cpuDecoder   // of arch; nil without the CPU kernels
	cuda    *fusedDecoder // of arch; nil without the CUDA kernels
	shape   modelShape
	kinds   layerKinds
	kernels string         // what computes: for people
	linears linears        // for adapters
	prefix  string         // of the checkpoint's names
	steps   *mlxc.Function // tokenPass, compiled; nil without CUDA kernels
	token   *fused.Token   // nil where tokens are not one launch
}

// prefillChunk is how many prompt tokens one pass takes. A cancelled request stops after the chunk
// under way; the python engine uses the same size, so that both engines compute the same passes.
const prefillChunk = 512

// threadsVariable is the environment variable that sets the number of threads where no option does.
const threadsVariable = "GO_MLX_THREADS"

// useThreads sets how many threads the CPU kernels use, which all models of the process share.
func useThreads(n int) error {
	if text := os.Getenv(threadsVariable); n == 0 && text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			return fmt.Errorf("%s is %q and not a number of threads", threadsVariable, text)
		}
	}
	if n == 0 {
		n = runtime.GOMAXPROCS(0) // which knows the limits of a container
	}
	mlxc.SetCPUThreads(n)
	return nil
}

// load reads a checkpoint, and an adapter if one is named. What was opened before a failure is freed by close.
func (n *network) load(from *modelfiles.Source, cfg *config, adapter string, options engine.NativeOptions) (_ *weights, err error) {
	n.weights = n.lease.NewScope()
	// Where MLX has no quick kernel for packed weights, plain ones are many times as fast.
	kernels := !options.Exact && n.lease.Device().Name == "cpu"
	if kernels {
		if err := useThreads(options.Threads); err != nil {
			return nil, err
		}
		level, err := mlxc.CPULevel()
		if err != nil {
			return nil, err
		}
		n.kernels = fmt.Sprintf("cpu (%s, %d threads)", level, mlxc.CPUThreads())
	}
	packed := options.Packed || n.lease.Device().Name == "gpu" || kernels
	w, err := openWeights(from, n.weights, packed, kernels)
	if w != nil {
		defer w.closeFiles()
	}
	if w != nil && w.close != nil {
		defer func() { err = errors.Join(err, w.close()) }()
	}
	if err != nil {
		return nil, err
	}
	if err := n.reserve("the model's weights", w.bytes); err != nil {
		return nil, err
	}
	capability, err := n.lease.CUDACapability()
	if err != nil {
		return nil, err
	}
	w.fuse = capability >= fused.MinCapability && !options.Exact && adapter == ""
	// What a constructor returns beside an error still holds something.
	if n.arch, err = architectures[cfg.modelType](cfg, w, n.lease); err != nil {
		return nil, err
	}
	if err := n.weights.Err(); err != nil {
		return nil, err
	}
	n.shape = n.arch.shape()
	if d, ok := n.arch.(*decoder); ok {
		n.cpu, n.cuda = d.cpu, d.cuda
	}
	switch {
	case n.cuda != nil:
		n.kernels = "cuda"
	case n.cpu == nil:
		n.kernels = "mlx"
	}
	n.kinds = kindsOf(n.shape.windows)
	n.linears, n.prefix = w.linears, w.prefix
	if adapter != "" {
		if err := loadAdapter(n.weights, n.linears, adapter); err != nil {
			return nil, err
		}
	}
	if n.cuda != nil {
		if n.steps, err = n.lease.Compile(false, n.traceTokens); err != nil {
			return nil, err
		}
	}
	return w, n.prepareToken()
}

func (n *network) close() error {
	if n == nil {
		return nil
	}
	errs := []error{n.steps.Close()}
	n.token.Close()
	if n.arch != nil {
		errs = append(errs, n.arch.close())
	}
	if n.weights != nil {
		errs = append(errs, n.weights.Close())
	}
	return errors.Join(errs...)
}

// nextLogits takes one token, uint32 [1], into a state and returns the logits [1, vocab] behind it.
func (n *network) nextLogits(s *mlxc.Scope, st *Sequence, token *mlxc.Array) *mlxc.Array {
	ids := s.Reshape(token, 1, 1)
	if logits, ok := n.compiledStep(s, st, ids); ok {
		return logits
	}
	return s.Squeeze(n.arch.logits(s, n.run(s, st, ids)), 1)
}

// outputLayer is the output layer for the CPU kernels.
func (n *network) outputLayer() mlxc.Layer { return n.cpu.head }

// newSequence is an empty one for the network's kernels.
func (n *network) newSequence() *Sequence { return newSequence(&n.shape.Layout) }

// run takes tokens [1, T] into a sequence and returns their hidden states [1, T, hidden].
func (n *network) run(s *mlxc.Scope, st *Sequence, ids *mlxc.Array) *mlxc.Array {
	return n.arch.hidden(s, ids, newPass(s, []*Sequence{st}, ids.Dim(1)))
}

// prefill runs tokens through the model, chunk by chunk, for their KV.
func (n *network) prefill(parent *mlxc.Scope, st *Sequence, ids []int32) error {
	for chunk := range slices.Chunk(ids, prefillChunk) {
		s := parent.Child()
		n.run(s, st, s.FromInts(chunk, 1, len(chunk)))
		if err := errors.Join(s.Eval(st.arrays()...), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

// checkCausal refuses what a model that attends in both directions cannot do.
func (n *network) checkCausal(what string) error {
	if n.shape.bidirectional {
		return fmt.Errorf("%s: the model attends in both directions and is for embeddings: %w", what, engine.ErrUnsupported)
	}
	return nil
}

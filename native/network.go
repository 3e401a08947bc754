package native

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// network is weights with their forward pass. It belongs to the owner thread of its lease.
type network struct {
	lease   *mlxc.Lease
	weights *mlxc.Scope
	arch    architecture
	cpu     *cpuDecoder // of arch; nil without the CPU kernels
	shape   modelShape
	kinds   layerKinds
	linears linears         // for adapters
	prefix  string          // of the checkpoint's names
	passes  *compiledPasses // nil without fused kernels
	token   *fused.Token    // nil where tokens are not one launch
	element int64           // bytes of one number of states and KV
}

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
func (n *network) load(m *Model, from *modelfiles.Source, cfg *config, adapter string) (_ *weights, err error) {
	n.weights = n.lease.NewScope()
	// Where MLX has no quick kernel for packed weights, plain ones are many times as fast.
	kernels := !m.options.Exact && n.lease.Device().Name == "cpu"
	if kernels {
		if err := useThreads(m.options.Threads); err != nil {
			return nil, err
		}
		level, err := mlxc.CPULevel()
		if err != nil {
			return nil, err
		}
		m.kernels = fmt.Sprintf("cpu (%s, %d threads)", level, mlxc.CPUThreads())
	}
	packed := m.options.Packed || n.lease.Device().Name == "gpu" || kernels
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
	if err := m.reserve("the model's weights", w.bytes); err != nil {
		return nil, err
	}
	capability, err := n.lease.CUDACapability()
	if err != nil {
		return nil, err
	}
	w.fuse = capability >= fused.MinCapability && !m.options.Exact && adapter == ""
	// What a constructor returns beside an error still holds something.
	if n.arch, err = architectures[cfg.modelType](cfg, w, n.lease); err != nil {
		return nil, err
	}
	if err := n.weights.Err(); err != nil {
		return nil, err
	}
	n.shape = n.arch.shape()
	if d, ok := n.arch.(*decoder); ok {
		n.cpu = d.cpu
	}
	n.kinds = kindsOf(n.shape.windows)
	n.linears, n.prefix = w.linears, w.prefix
	if adapter != "" {
		if err := n.loadAdapter(adapter); err != nil {
			return nil, err
		}
	}
	if n.element = 2; w.dtype() == mlxc.Float32.String() {
		n.element = 4
	}
	if n.passes, err = n.compilePasses(); err != nil {
		return nil, err
	}
	return w, n.prepareToken()
}

func (n *network) close() error {
	if n == nil {
		return nil
	}
	errs := []error{n.passes.close()}
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
func (n *network) nextLogits(s *mlxc.Scope, st *decodeState, token *mlxc.Array) *mlxc.Array {
	ids := s.Reshape(token, 1, 1)
	if logits, ok := n.compiledStep(s, st, ids); ok {
		return logits
	}
	return s.Squeeze(n.arch.logits(s, n.pass(s, st, ids)), 1)
}

// outputLayer is the output layer for the CPU kernels.
func (n *network) outputLayer() mlxc.Layer { return n.cpu.head }

// pass takes tokens [1, T] into a state and returns their hidden states [1, T, hidden].
func (n *network) pass(s *mlxc.Scope, st *decodeState, ids *mlxc.Array) *mlxc.Array {
	st.begin(s, ids.Dim(1), n.shape.windows)
	return n.arch.hidden(s, ids, st)
}

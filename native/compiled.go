package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// Passes that are traced once and then repeated: building a graph of some three hundred ops costs the host
// more than the GPU needs for a token. They need fixed shapes, so the KV caches give them whole buffers, with
// the place to write and the number of positions held as arrays; the fused kernels read these on the GPU. MLX
// keeps one trace for each set of shapes: caches grow by blocks, texts are padded to blocks.

// compiledPasses are the compiled functions of a model with fused kernels. The owner closes them.
type compiledPasses struct {
	token  *mlxc.Function // one token of each sequence
	packed *mlxc.Function // several texts behind a shared prefix
}

// fusedState is what states of passes with fused kernels have in common.
type fusedState struct{ decoder *fusedDecoder }

func (fusedState) rope(s *mlxc.Scope, x *mlxc.Array, _ mlxc.RoPE) *mlxc.Array {
	s.Fail(errors.New("rope: positions are the fused kernels' affair"))
	return x
}

func (fusedState) observe(*mlxc.Scope, int, string, *mlxc.Array) {}

// compilePasses returns nil for a model without fused kernels.
func (n *network) compilePasses() (_ *compiledPasses, err error) {
	if n.shape.fused == nil {
		return nil, nil
	}
	c := &compiledPasses{}
	if c.token, err = n.lease.Compile(false, n.traceTokens); err != nil {
		return nil, err
	}
	if c.packed, err = n.lease.Compile(false, n.tracePacked); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *compiledPasses) close() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.token.Close(), c.packed.Close())
}

// compiledStep takes one token into a state by the compiled pass, if there is one for the state; otherwise ok is false.
func (n *network) compiledStep(s *mlxc.Scope, st *decodeState, ids *mlxc.Array) (logits *mlxc.Array, ok bool) {
	if n.passes == nil || st.position() == 0 {
		return nil, false
	}
	caches := make([]nn.Slotted, len(st.caches))
	for i, c := range st.caches {
		if caches[i], ok = c.(nn.Slotted); !ok {
			return nil, false
		}
	}
	where := []int32{int32(st.position())}
	var kv []*mlxc.Array
	for i, c := range caches {
		keys, values, at := c.Slot(s)
		kv = append(kv, keys, values)
		if n.kinds.first[n.kinds.of[i]] == i {
			where = append(where, int32(at.At), int32(at.Filled))
		}
	}
	logits, kv = n.tokenPass(s, ids, s.FromInts(where, len(where), 1), kv)
	for i, c := range caches {
		c.Fill(s, kv[2*i], kv[2*i+1])
	}
	return logits, true
}

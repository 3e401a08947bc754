package native

import (
	"context"
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// traceState copies what passes through a state.
type traceState struct {
	state
	opsOf  int // the layer whose ops are wanted
	layers []*mlxc.Array
	names  []string // of ops
	ops    []*mlxc.Array
}

func (st *traceState) kernelPass(rows, tokens int) *kernelPass {
	return stepwisePassOf(st.state, rows, tokens)
}

func (st *traceState) observe(_ *mlxc.Scope, layer int, op string, h *mlxc.Array) {
	if op == opInput || op == opOutput {
		st.layers = append(st.layers, h)
	}
	if layer == st.opsOf && op != opInput {
		st.names, st.ops = append(st.names, op), append(st.ops, h)
	}
}

// Trace runs token ids through the model and returns what its layers compute; see engine.TraceOptions. It keeps no
// state.
func (m *Model) Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error) {
	if err := m.checkIDs(ids); err != nil {
		return nil, err
	}
	if err := options.Validate(len(ids)); err != nil {
		return nil, err
	}
	out := &engine.Trace{}
	err := m.do(ctx, func() (err error) {
		s := m.lease.NewScope()
		// MLX's ops keep the rows' KV in one state, the CPU kernels in one for each.
		states := []*decodeState{newDecodeState(m.shape)}
		for m.shape.kernels && len(states) < options.Rows {
			states = append(states, newDecodeState(m.shape))
		}
		defer func() {
			for _, state := range states {
				err = errors.Join(err, state.free())
			}
			err = errors.Join(err, s.Close(), mlxc.ClearCache())
		}()
		for _, part := range options.Parts(ids) {
			st := &traceState{state: states[0], opsOf: options.OpsOf}
			if states[0].begin(s, len(part), m.shape.windows); m.shape.kernels {
				st.state = &batchState{rows: states}
			}
			rows := s.BroadcastTo(s.FromInts(part, 1, len(part)), options.Rows, len(part))
			logits := m.arch.logits(s, m.arch.hidden(s, rows, st))
			var traced engine.Trace
			if traced.Layers, err = firstRows(s, st.layers); err != nil {
				return err
			}
			values, err := firstRows(s, append(st.ops, logits))
			if err != nil {
				return err
			}
			last := len(values) - 1
			traced.Logits = values[last]
			for i, name := range st.names {
				traced.Ops = append(traced.Ops, engine.TracedOp{Name: name, Values: values[i]})
			}
			out.Append(traced)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	return out, nil
}

// firstRows reads the first row of each array.
func firstRows(s *mlxc.Scope, arrays []*mlxc.Array) (out [][]float32, err error) {
	for _, a := range arrays {
		values, err := s.Slice(a, 0, 0, 1).Floats()
		if err != nil {
			return nil, err
		}
		out = append(out, values)
	}
	return out, nil
}

package decoder

import (
	"context"
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// Trace runs token ids through the model and returns what its layers compute; see engine.TraceOptions. It keeps no
// state.
func (n *Network) Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error) {
	if err := options.Validate(len(ids)); err != nil {
		return nil, err
	}
	out := &engine.Trace{}
	err := n.Do(ctx, func() (err error) {
		s := n.Lease.NewScope()
		// MLX's ops keep the rows' KV in one sequence, the CPU kernels in one for each.
		rows := []*kv.Sequence{n.NewSequence()}
		for n.Shape.Rings && len(rows) < options.Rows {
			rows = append(rows, n.NewSequence())
		}
		defer func() {
			for _, row := range rows {
				err = errors.Join(err, row.Free())
			}
			err = errors.Join(err, s.Close(), mlxc.ClearCache())
		}()
		for _, part := range options.Parts(ids) {
			var layers, ops []*mlxc.Array
			var names []string // of ops
			pass := kv.NewPass(s, rows, len(part))
			pass.Observe = func(layer int, op string, h *mlxc.Array) {
				if op == kv.OpInput || op == kv.OpOutput {
					layers = append(layers, h)
				}
				if layer == options.OpsOf && op != kv.OpInput {
					names, ops = append(names, op), append(ops, h)
				}
			}
			tokens := s.BroadcastTo(s.FromInts(part, 1, len(part)), options.Rows, len(part))
			logits := n.Arch.Logits(s, n.Arch.Hidden(s, tokens, pass))
			var traced engine.Trace
			if traced.Layers, err = firstRows(s, layers); err != nil {
				return err
			}
			values, err := firstRows(s, append(ops, logits))
			if err != nil {
				return err
			}
			last := len(values) - 1
			traced.Logits = values[last]
			for i, name := range names {
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

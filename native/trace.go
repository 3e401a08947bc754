package native

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/metal"
)

// Trace is what one pass over a prompt computes, layer by layer, for comparison with another engine.
type Trace struct {
	// Layers are the states [T, hidden]: what enters the first layer, then what each layer puts out.
	Layers [][]float32
	// Logits are [T, vocab].
	Logits []float32
}

// traceState copies the states that pass through a decodeState.
type traceState struct {
	*decodeState
	layers []*metal.Array
}

func (st *traceState) observe(_ *metal.Scope, _ int, h *metal.Array) {
	st.layers = append(st.layers, h)
}

// Trace runs token ids through the model in one pass and returns every layer's states.
func (m *Model) Trace(ctx context.Context, ids []int32) (*Trace, error) {
	if err := m.checkIDs(ids); err != nil {
		return nil, err
	}
	trace := &Trace{}
	err := m.do(ctx, func() (err error) {
		s := m.lease.NewScope()
		st := &traceState{decodeState: newDecodeState(m.shape)}
		defer func() { err = errors.Join(err, st.free(), s.Close(), metal.ClearCache()) }()
		st.begin(s, len(ids), m.shape.windows)
		h := m.arch.hidden(s, s.FromInts(ids, 1, len(ids)), st)
		for _, layer := range append(st.layers, m.arch.logits(s, h)) {
			values, err := layer.Floats()
			if err != nil {
				return err
			}
			trace.Layers = append(trace.Layers, values)
		}
		last := len(trace.Layers) - 1
		trace.Logits, trace.Layers = trace.Layers[last], trace.Layers[:last]
		return nil
	})
	if err != nil {
		return nil, err
	}
	return trace, nil
}

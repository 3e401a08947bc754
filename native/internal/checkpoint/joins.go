package checkpoint

import (
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// Uniform reports whether all that is not packed is of one floating type.
func (w *Weights) Uniform() bool {
	types := map[string]bool{}
	for name, t := range w.Headers {
		if w.relevant(name) && t.DType != "U32" {
			types[t.DType] = true
		}
	}
	return len(types) == 1
}

// join is a set of tensors that become one, one after the other, when the weights are read.
type join struct{ whole, parts []*mlxc.Array }

// Join notes that layers are to be read as one.
func (w *Weights) Join(layers ...*nn.Linear) *nn.Linear {
	whole, parts := nn.Join(w.Scope, layers...)
	w.joins = append(w.joins, join{whole.Arrays(), parts})
	return whole
}

// readJoins makes the joined layers one by one and drops their parts, so that no more than one of them is
// held twice.
func (w *Weights) readJoins() error {
	for _, j := range w.joins {
		if err := w.Scope.Eval(j.whole...); err != nil {
			return fmt.Errorf("join weights: %w", err)
		}
		var errs []error
		for _, a := range j.parts {
			errs = append(errs, w.Scope.Keep(a).Free())
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

package engine

import "fmt"

// TraceOptions say how a prompt is run through a model to record what its layers compute.
type TraceOptions struct {
	Rows  int // so many times the same prompt in one batch; 0 is 1. The first row is returned
	Split int // positions of a first pass whose KV the second one finds in the cache; 0 for one pass
	OpsOf int // the layer whose ops are returned too; negative for none
}

// Trace is what a model computes for one prompt, in float32, row-major.
type Trace struct {
	Layers [][]float32 // states [T, hidden]: what enters the first layer, then what each layer puts out
	Logits []float32   // [T, vocab]
	Ops    []TracedOp  // in the order they were computed
}

// TracedOp is the output of a module of a layer, named as in a checkpoint; the second use of a module in a pass has ".2" after its
// name.
type TracedOp struct {
	Name   string
	Values []float32
}

// Validate returns an error about the first invalid option.
func (o *TraceOptions) Validate(tokens int) error {
	if o.Rows == 0 {
		o.Rows = 1
	}
	switch {
	case o.Rows < 0:
		return &OptionError{Option: "Rows", Reason: fmt.Sprintf("%d is negative", o.Rows)}
	case o.Split < 0 || o.Split >= tokens:
		return &OptionError{Option: "Split", Reason: fmt.Sprintf("%d is not within a prompt of %d tokens", o.Split, tokens)}
	case o.Split > 0 && o.OpsOf >= 0:
		return &OptionError{Option: "OpsOf", Reason: "goes with a prompt in one pass only"}
	}
	return nil
}

// Parts are the tokens of each pass.
func (o TraceOptions) Parts(ids []int32) [][]int32 {
	if o.Split == 0 {
		return [][]int32{ids}
	}
	return [][]int32{ids[:o.Split], ids[o.Split:]}
}

// Append adds the positions of a later pass.
func (t *Trace) Append(later Trace) {
	if t.Layers == nil {
		*t = later
		return
	}
	for i := range t.Layers {
		t.Layers[i] = append(t.Layers[i], later.Layers[i]...)
	}
	t.Logits = append(t.Logits, later.Logits...)
}

// Package train trains LoRA adapters.
package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// trainer trains the LoRAs of a model. What it holds belongs to the owner thread.
type trainer struct {
	*decoder.Network
	*prompt.Encoder
	options engine.TrainOptions
	adapter *checkpoint.AdapterConfig
	loras   []namedLoRA
	all     []*nn.LoRA   // the same without names
	blocks  [][]*nn.LoRA // the same by block
	m, v    []*mlxc.Array
	sums    []*mlxc.Array // of gradients, between updates
	held    []*mlxc.Array // what blocks of the pass under way share, with checkpoints
	updates int

	batch          *trainBatch // of the pass under way
	differentiates bool        // whether gradients of the pass under way are asked for

	gradients *mlxc.GradFunction
	pass      *mlxc.Function // loss and gradients; nil where it is not compiled
	valued    *mlxc.Function // the loss alone; nil where it is not compiled
	update    *mlxc.Function // nil where it is not compiled
}

// call runs a function, compiled if it was.
func call(f *mlxc.Function, plain func(*mlxc.Scope, []*mlxc.Array) []*mlxc.Array, s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	if f == nil {
		return plain(s, in)
	}
	return f.Call(s, in...)
}

// Run trains a LoRA adapter for a model that was loaded from a path, and writes it to options.Out in mlx-lm's form. It stops between
// iterations when ctx ends; what was saved until then can be resumed.
func Run(ctx context.Context, n *decoder.Network, e *prompt.Encoder, path string, options engine.TrainOptions) (_ *engine.TrainResult, err error) {
	batches, validation, err := ReadData(ctx, e, options)
	if err != nil {
		return nil, err
	}
	t := newTrainer(n, e, path, options)
	defer func() { err = errors.Join(err, n.Do(context.WithoutCancel(ctx), t.close)) }()
	done := 0
	if err := n.Do(ctx, func() (err error) {
		done, err = t.open()
		return err
	}); err != nil {
		return nil, err
	}
	return t.run(ctx, &batchOrder{batches: batches, seed: options.Seed}, validation, done)
}

// newTrainer makes a trainer; open prepares it.
func newTrainer(n *decoder.Network, e *prompt.Encoder, path string, o engine.TrainOptions) *trainer {
	blocks := o.NumLayers
	if blocks <= 0 {
		blocks = -1 // all
	}
	return &trainer{Network: n, Encoder: e, options: o, adapter: &checkpoint.AdapterConfig{
		Model: path, FineTuneType: "lora", NumLayers: blocks,
		Parameters: checkpoint.LoRAParameters{Rank: o.Rank, Scale: o.Scale, Keys: o.Keys},
	}}
}

// ReadData reads and batches what is trained on.
func ReadData(ctx context.Context, e *prompt.Encoder, o engine.TrainOptions) (train, validation []trainBatch, err error) {
	for _, file := range []struct {
		name    string
		batches *[]trainBatch
	}{{"train.jsonl", &train}, {"valid.jsonl", &validation}} {
		examples, err := readExamples(ctx, e, filepath.Join(o.Data, file.name), o.MaskPrompt, o.MaxSeqLength)
		if errors.Is(err, fs.ErrNotExist) && file.name == "valid.jsonl" { // training needs none
			err = nil
		}
		if err != nil {
			return nil, nil, err
		}
		if o.Packed {
			*file.batches = packBatches(examples, o.BatchSize, o.MaxSeqLength)
		} else {
			*file.batches = makeBatches(examples, o.BatchSize, o.MaxSeqLength)
		}
		if len(*file.batches) == 0 && (len(examples) > 0 || file.name == "train.jsonl") {
			return nil, nil, fmt.Errorf("train: %s has %d examples, fewer than a batch of %d", filepath.Join(o.Data, file.name), len(examples), o.BatchSize)
		}
	}
	return train, validation, nil
}

// open makes the adapter, or reads the one to go on with, and prepares the passes. It returns how many iterations are
// done.
func (t *trainer) open() (done int, err error) {
	s := t.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close()) }()
	if t.loras, err = newAdapter(s, t.Linears, len(t.Shape.Windows), t.adapter, t.options.Seed); err != nil {
		return 0, err
	}
	if len(t.loras) == 0 {
		return 0, errors.New("train: the model has no linear layers to adapt")
	}
	t.blocks = make([][]*nn.LoRA, len(t.Shape.Windows))
	for _, l := range t.loras {
		block, _, _ := blockOf(l.layer)
		t.blocks[block], t.all = append(t.blocks[block], l.LoRA), append(t.all, l.LoRA)
		t.Linears[l.layer].Adapt(l.LoRA)
	}
	for _, a := range t.trained() {
		t.m = append(t.m, s.Keep(s.Zeros(mlxc.Float32, a.Shape()...)))
		t.v = append(t.v, s.Keep(s.Zeros(mlxc.Float32, a.Shape()...)))
	}
	if err := s.Eval(append(t.m, t.v...)...); err != nil {
		return 0, err
	}
	if t.options.Resume {
		if done, err = t.resume(s); err != nil {
			return 0, err
		}
	}
	return done, errors.Join(t.compile(), s.Err())
}

// trained are the arrays under training, A and B of each LoRA.
func (t *trainer) trained() []*mlxc.Array {
	var out []*mlxc.Array
	for _, l := range t.all {
		out = append(out, l.A, l.B)
	}
	return out
}

func (t *trainer) compile() (err error) {
	lease, n := t.Lease, 2*len(t.all)
	inputs := make([]int, n)
	for i := range inputs {
		inputs[i] = batchInputs + i
	}
	if t.gradients, err = lease.ValueAndGrad(t.loss, inputs...); err != nil {
		return err
	}
	if lease.Device().Name != "cpu" || t.options.Checkpoint {
		// MLX never frees the trace of a compiled function in which an op has several outputs, nor the weights in it (see
		// fused.Kernels). A checkpoint is such an op, and so are some gradients on a GPU.
		return nil
	}
	if t.update, err = lease.Compile(false, t.adamW); err != nil || t.OnKernels() { // some kernels are such ops too
		return err
	}
	if t.pass, err = lease.Compile(false, t.lossAndGradients); err != nil {
		return err
	}
	t.valued, err = lease.Compile(false, t.loss)
	return err
}

// lossAndGradients takes what loss takes, and returns the gradients of the trained arrays after what it returns.
func (t *trainer) lossAndGradients(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	t.differentiates = true
	defer func() { t.differentiates = false }()
	values, gradients := t.gradients.Call(s, in...)
	return append(values, gradients...)
}

// adamW takes the rate, then the trained arrays, both moments and the gradients, and returns the first three anew.
func (t *trainer) adamW(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	n := 2 * len(t.all)
	out := make([]*mlxc.Array, 3*n)
	for i := range n {
		out[i], out[n+i], out[2*n+i] = adamW(s, in[1+i], in[1+n+i], in[1+2*n+i], in[1+3*n+i], in[0], t.options.WeightDecay)
	}
	return out
}

// inputs are what the passes take of a batch, which is under way from now on, and the trained arrays.
func (t *trainer) inputs(s *mlxc.Scope, b *trainBatch) []*mlxc.Array {
	t.batch = b
	n := padded(len(b.picks))
	picks, targets, counts := make([]int32, n), make([]int32, n), make([]bool, n)
	copy(picks, b.picks)
	copy(targets, b.targets)
	for i := range b.picks {
		counts[i] = true
	}
	in := []*mlxc.Array{s.FromInts(b.ids, b.rows, b.length), s.FromInts(picks, n), s.FromInts(targets, n), s.FromBools(counts, n)}
	in = append(in, t.trained()...)
	if b.segments != nil {
		in = append(in, s.FromInts(b.segments, b.rows, b.length))
	}
	return in
}

// step is an iteration: a pass, and an update if enough gradients are together.
func (t *trainer) step(b *trainBatch, rate float64, update bool) (loss float64, tokens int64, err error) {
	s := t.Lease.NewScope()
	defer func() { err = errors.Join(err, t.freeHeld(), s.Close()) }()
	out := call(t.pass, t.lossAndGradients, s, t.inputs(s, b))
	if err := s.Err(); err != nil {
		return 0, 0, err
	}
	gradients := out[2:]
	for i, sum := range t.sums {
		gradients[i] = s.Add(gradients[i], sum)
	}
	if update {
		err = t.apply(s, gradients, rate)
	} else {
		err = t.hold(s, gradients)
	}
	if err != nil {
		return 0, 0, err
	}
	value, err := out[0].Float()
	if err != nil {
		return 0, 0, err
	}
	count, err := out[1].Int()
	return float64(value), int64(count), err
}

// hold keeps gradients for later.
func (t *trainer) hold(s *mlxc.Scope, gradients []*mlxc.Array) error {
	err := freeAll(t.sums)
	t.sums = slices.Clone(gradients)
	for _, g := range t.sums {
		s.Keep(g)
	}
	return errors.Join(err, s.Eval(t.sums...))
}

// apply updates the trained arrays.
func (t *trainer) apply(s *mlxc.Scope, gradients []*mlxc.Array, rate float64) error {
	if k := t.options.Accumulate; k > 1 {
		for i, g := range gradients {
			gradients[i] = s.Divide(g, s.Scalar(float64(k), g.DType()))
		}
	}
	n := len(gradients)
	in := slices.Concat([]*mlxc.Array{s.Scalar(rate, mlxc.Float32)}, t.trained(), t.m, t.v, gradients)
	out := call(t.update, t.adamW, s, in)
	if err := s.Err(); err != nil {
		return err
	}
	errs := []error{freeAll(t.trained()), freeAll(t.m), freeAll(t.v), freeAll(t.sums)}
	t.sums = nil
	for _, a := range out {
		s.Keep(a)
	}
	for i, l := range t.all {
		l.A, l.B = out[2*i], out[2*i+1]
	}
	t.m, t.v = out[n:2*n:2*n], out[2*n:]
	t.updates++
	return errors.Join(append(errs, s.Eval(out...))...)
}

func freeAll(arrays []*mlxc.Array) error {
	var errs []error
	for _, a := range arrays {
		errs = append(errs, a.Free())
	}
	return errors.Join(errs...)
}

// validate is the mean loss over batches.
func (t *trainer) validate(ctx context.Context, batches []trainBatch) (float64, error) {
	var sum float64
	var total int64
	for i := range batches {
		if err := t.Do(ctx, func() (err error) {
			s := t.Lease.NewScope()
			defer func() { err = errors.Join(err, t.freeHeld(), s.Close()) }()
			out := call(t.valued, t.loss, s, t.inputs(s, &batches[i]))
			if err := s.Err(); err != nil {
				return err
			}
			loss, err := out[0].Float()
			if err != nil {
				return err
			}
			n, err := out[1].Int()
			sum, total = sum+float64(loss)*float64(n), total+int64(n)
			return err
		}); err != nil {
			return 0, err
		}
	}
	return sum / float64(total), nil
}

// run trains from an iteration on.
func (t *trainer) run(ctx context.Context, order *batchOrder, validation []trainBatch, done int) (*engine.TrainResult, error) {
	o, result := t.options, &engine.TrainResult{}
	if o.EvalBatches > 0 {
		validation = validation[:min(len(validation), o.EvalBatches)]
	}
	for _, a := range t.trained() {
		result.Parameters += int64(a.Size())
	}
	progress := engine.TrainProgress{Iteration: done}
	start := time.Now()
	tell := func() error {
		memory, err := mlxc.ReadMemory()
		progress.Seconds, progress.ActiveBytes, progress.PeakBytes = time.Since(start).Seconds(), int64(memory.Active), int64(memory.Peak)
		if o.Progress != nil {
			o.Progress(progress)
		}
		return err
	}
	for i := done; i < o.Iterations; i++ {
		last := i+1 == o.Iterations
		progress.LearningRate = learningRate(o, t.updates, o.Iterations/o.Accumulate)
		var tokens int64
		if err := t.Do(ctx, func() (err error) {
			progress.Loss, tokens, err = t.step(order.at(i), progress.LearningRate, (i+1)%o.Accumulate == 0)
			return errors.Join(err, mlxc.TrimCache(owner.CacheLimit))
		}); err != nil {
			return nil, err
		}
		if progress.Loss != progress.Loss {
			return nil, fmt.Errorf("train: the loss of iteration %d is no number: lower the learning rate", i+1)
		}
		result.Losses = append(result.Losses, progress.Loss)
		progress.Iteration, progress.Tokens, progress.Validation = i+1, progress.Tokens+tokens, 0
		if len(validation) > 0 && o.EvalEvery > 0 && ((i+1)%o.EvalEvery == 0 || last) {
			loss, err := t.validate(ctx, validation)
			if err != nil {
				return nil, err
			}
			progress.Validation = loss
			result.Validation = append(result.Validation, loss)
		}
		if err := tell(); err != nil {
			return nil, err
		}
		if last || o.SaveEvery > 0 && (i+1)%o.SaveEvery == 0 {
			if err := t.Do(ctx, func() error { return t.save(i + 1) }); err != nil {
				return nil, err
			}
		}
	}
	result.Iterations = max(done, o.Iterations)
	return result, nil
}

func (t *trainer) freeHeld() error {
	err := freeAll(t.held)
	t.held = nil
	return err
}

// close gives everything back that the model does not own.
func (t *trainer) close() error {
	errs := []error{t.freeHeld(), t.update.Close(), t.valued.Close(), t.pass.Close(), t.gradients.Close()}
	for _, l := range t.loras {
		t.Linears[l.layer].Adapt(nil)
	}
	return errors.Join(append(errs, freeAll(t.trained()), freeAll(t.m), freeAll(t.v), freeAll(t.sums))...)
}

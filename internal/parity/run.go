// Package parity compares two engines on one model: token ids, the chat template, every layer's states, logits, chosen
// tokens and labels; and each engine with itself, in batches and with a KV cache.
package parity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Engine is an engine whose layers can be looked at.
type Engine interface {
	engine.Engine
	Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error)
}

// Options of a comparison.
type Options struct {
	Prompts   []string
	Labels    []string // none: no classification
	Tokens    int      // generated for each prompt
	Rows      int      // of the batches that are compared with one row
	Tolerance float64  // of relative differences; 0 for that of the model's dtype
	Progress  func(done, total int)
}

// Tolerances are the relative differences, by dtype, that rounding alone may add up to in the layers of a
// trained model.
var Tolerances = map[string]float64{"bfloat16": 0.02, "float16": 0.005, "float32": 1e-4}

// columns: the second engine is the measure of the first, and each is its own in other circumstances.
const (
	columnEngines = iota
	columnBatchFirst
	columnBatchSecond
	columnCachedFirst
	columnCachedSecond
	columnCount
)

// run is a comparison under way.
type run struct {
	first, second Engine
	options       Options
	report        *Report
	steps, total  int
}

// Run compares the first engine with the second.
func Run(ctx context.Context, first, second Engine, options Options) (*Report, error) {
	a, b := first.Info(), second.Info()
	if a.VocabSize != b.VocabSize || a.Layers != b.Layers {
		return nil, fmt.Errorf("parity: %d layers and %d tokens on one side, %d and %d on the other: these are different models", a.Layers, a.VocabSize, b.Layers, b.VocabSize)
	}
	if len(options.Prompts) == 0 {
		return nil, errors.New("parity: no prompts")
	}
	tolerance := cmp.Or(options.Tolerance, Tolerances[a.DType], Tolerances["bfloat16"])
	r := &run{
		first: first, second: second, options: options, total: 4*len(options.Prompts) + 2,
		report: &Report{Model: a.Path, DType: a.DType, Tolerance: tolerance,
			Engines: [2]string{string(a.Engine) + " on " + a.Device, string(b.Engine) + " on " + b.Device}},
	}
	for _, part := range []func(context.Context) error{r.text, r.layers, r.chosen, r.labels} {
		if err := part(ctx); err != nil {
			return nil, fmt.Errorf("parity: %w", err)
		}
	}
	r.report.Passed = len(r.report.Failures()) == 0
	return r.report, nil
}

func (r *run) step() {
	r.steps++
	if r.options.Progress != nil {
		r.options.Progress(min(r.steps, r.total), r.total)
	}
}

// check notes a comparison; differences are what is wrong, of so many compared.
func (r *run) check(name string, compared int, differences []string) {
	detail := fmt.Sprintf("%d of %d the same", compared-len(differences), compared)
	if len(differences) > 0 {
		detail += "; " + strings.Join(differences[:min(3, len(differences))], "; ")
		if len(differences) > 3 {
			detail += "; ..."
		}
	}
	r.report.Checks = append(r.report.Checks, Check{name, len(differences) == 0, detail})
}

// both asks both engines.
func both[T any](r *run, ask func(Engine) (T, error)) (a, b T, err error) {
	if a, err = ask(r.first); err != nil {
		return a, b, fmt.Errorf("%s: %w", r.report.Engines[0], err)
	}
	if b, err = ask(r.second); err != nil {
		return a, b, fmt.Errorf("%s: %w", r.report.Engines[1], err)
	}
	return a, b, nil
}

// text compares tokenizers and chat templates.
func (r *run) text(ctx context.Context) error {
	var ids, decoded, rendered []string
	template := true
	for _, prompt := range r.options.Prompts {
		a, b, err := both(r, func(e Engine) ([]int32, error) { return e.Encode(ctx, prompt, true) })
		if err != nil {
			return err
		}
		r.report.Prompts = append(r.report.Prompts, Prompt{prompt, len(b)})
		if !slices.Equal(a, b) {
			ids = append(ids, fmt.Sprintf("%q: token %d differs", prompt, common(a, b)))
		}
		textA, textB, err := both(r, func(e Engine) (string, error) { return e.Decode(ctx, b) })
		if err != nil {
			return err
		}
		if textA != textB {
			decoded = append(decoded, fmt.Sprintf("%q and %q", textA, textB))
		}
		if template {
			textA, textB, err = both(r, func(e Engine) (string, error) {
				return e.RenderChat(ctx, []engine.Message{{Role: "user", Content: prompt}}, engine.GenerateOptions{})
			})
			if errors.Is(err, engine.ErrNoChatTemplate) {
				template = false
			} else if err != nil {
				return err
			} else if textA != textB {
				rendered = append(rendered, fmt.Sprintf("%q and %q", textA, textB))
			}
		}
	}
	r.check("token ids", len(r.options.Prompts), ids)
	r.check("decoded text", len(r.options.Prompts), decoded)
	if template {
		r.check("chat template", len(r.options.Prompts), rendered)
	}
	r.step()
	return nil
}

// layers compares every layer's states and the logits.
func (r *run) layers(ctx context.Context) error {
	rep := r.report
	rep.Columns = []string{
		columnEngines: "engines", columnBatchFirst: fmt.Sprintf("%s, %d rows", r.first.Info().Engine, r.options.Rows),
		columnBatchSecond: fmt.Sprintf("%s, %d rows", r.second.Info().Engine, r.options.Rows),
		columnCachedFirst: string(r.first.Info().Engine) + ", cached", columnCachedSecond: string(r.second.Info().Engine) + ", cached",
	}
	for i := range r.first.Info().Layers + 2 {
		name := fmt.Sprintf("layer %d", i-1)
		switch i {
		case 0:
			name = "embeddings"
		case r.first.Info().Layers + 1:
			name = "logits"
		}
		rep.Layers = append(rep.Layers, Layer{Name: name})
	}
	for p, prompt := range r.options.Prompts {
		ids, err := r.second.Encode(ctx, prompt, true)
		if err != nil {
			return err
		}
		whole := engine.TraceOptions{Rows: 1, OpsOf: -1}
		a, b, err := both(r, func(e Engine) (*engine.Trace, error) { return e.Trace(ctx, ids, whole) })
		if err != nil {
			return err
		}
		if len(a.Layers) != len(b.Layers) {
			return fmt.Errorf("%d states on one side, %d on the other", len(a.Layers), len(b.Layers))
		}
		if err := r.note(columnEngines, b, a); err != nil {
			return err
		}
		if err := r.diverge(ctx, p, ids, b, a); err != nil {
			return err
		}
		r.step()
		rows, rows2, err := both(r, func(e Engine) (*engine.Trace, error) {
			return e.Trace(ctx, ids, engine.TraceOptions{Rows: r.options.Rows, OpsOf: -1})
		})
		if err != nil {
			return err
		}
		if err := errors.Join(r.note(columnBatchFirst, a, rows), r.note(columnBatchSecond, b, rows2)); err != nil {
			return err
		}
		r.step()
		if len(ids) > 1 {
			cached, cached2, err := both(r, func(e Engine) (*engine.Trace, error) {
				return e.Trace(ctx, ids, engine.TraceOptions{Rows: 1, OpsOf: -1, Split: len(ids) / 2})
			})
			if err != nil {
				return err
			}
			if err := errors.Join(r.note(columnCachedFirst, a, cached), r.note(columnCachedSecond, b, cached2)); err != nil {
				return err
			}
		}
		r.step()
	}
	return nil
}

// note merges the differences of a prompt into a column.
func (r *run) note(column int, want, got *engine.Trace) error {
	for i := range r.report.Layers {
		a, b := state(want, i), state(got, i)
		if len(a) != len(b) {
			return fmt.Errorf("%s: %d values on one side, %d on the other", r.report.Layers[i].Name, len(b), len(a))
		}
		d := Compare(a, b, r.report.DType)
		layer := &r.report.Layers[i]
		if layer.Differences == nil {
			layer.Differences = make([]Difference, columnCount)
		}
		if old := layer.Differences[column]; old.ULP != (Histogram{}) || old.Broken > 0 {
			d = old.merge(d)
		}
		layer.Differences[column] = d
	}
	return nil
}

// state is the states of layer i, or after the last one the logits.
func state(t *engine.Trace, i int) []float32 {
	if i < len(t.Layers) {
		return t.Layers[i]
	}
	return t.Logits
}

// diverge looks for the first place where a prompt's states differ, and keeps the worst and first of all prompts.
func (r *run) diverge(ctx context.Context, prompt int, ids []int32, want, got *engine.Trace) error {
	if d := r.report.Diverging; d != nil && d.Beyond {
		return nil
	}
	first := -1
	beyond := false
	for i := range r.report.Layers {
		d := Compare(state(want, i), state(got, i), r.report.DType)
		if over := d.Relative > r.report.Tolerance || d.Broken > 0; over && !beyond || first < 0 && !d.Equal() {
			first, beyond = i, over
		}
	}
	if first < 0 || r.report.Diverging != nil && !beyond {
		return nil
	}
	d := &Divergence{Prompt: prompt, Layer: r.report.Layers[first].Name, Beyond: beyond}
	r.report.Diverging = d
	if first == 0 || first > len(want.Layers)-1 {
		return nil // nothing to look into
	}
	a, b, err := both(r, func(e Engine) (*engine.Trace, error) {
		return e.Trace(ctx, ids, engine.TraceOptions{Rows: 1, OpsOf: first - 1})
	})
	if err != nil {
		return err
	}
	d.Ops = compareOps(b.Ops, a.Ops, r.report)
	for _, op := range d.Ops {
		if op.Missing != "" || op.Difference.Broken > 0 || op.Difference.Relative > r.report.Tolerance || !beyond && !op.Difference.Equal() {
			d.Op = op.Name
			break
		}
	}
	return nil
}

// compareOps pairs ops by name, in the order of got. An op that got lacks is put before the first later op that both have.
func compareOps(want, got []engine.TracedOp, report *Report) []Op {
	if len(want) == 0 || len(got) == 0 {
		return nil
	}
	var out []Op
	missing := func(until string) { // ops of want up to the named one that got does not have
		for _, op := range want {
			if op.Name == until {
				return
			}
			known := func(o Op) bool { return o.Name == op.Name }
			if find(got, op.Name) == nil && !slices.ContainsFunc(out, known) {
				out = append(out, Op{Name: op.Name, Missing: report.Engines[0]})
			}
		}
	}
	for _, op := range got {
		values := find(want, op.Name)
		if len(values) != len(op.Values) {
			out = append(out, Op{Name: op.Name, Missing: report.Engines[1]})
			continue
		}
		missing(op.Name)
		out = append(out, Op{Name: op.Name, Difference: Compare(values, op.Values, report.DType)})
	}
	return out
}

func find(ops []engine.TracedOp, name string) []float32 {
	for _, op := range ops {
		if op.Name == name {
			return op.Values
		}
	}
	return nil
}

// chosen compares generated tokens: the most likely ones, and draws with the same seed.
func (r *run) chosen(ctx context.Context) error {
	greedy := engine.DefaultGenerateOptions()
	greedy.MaxTokens, greedy.IgnoreEOS = r.options.Tokens, true
	drawn := greedy
	drawn.Temperature, drawn.TopP, drawn.HasSeed = 1, 0.95, true
	for _, way := range []struct {
		name    string
		options engine.GenerateOptions
	}{{"most likely tokens", greedy}, {"drawn tokens, same seed", drawn}} {
		var differences []string
		for p, prompt := range r.options.Prompts {
			o := way.options
			o.Seed = uint64(p)
			a, b, err := both(r, func(e Engine) (ids []int32, err error) {
				for tok, err := range e.Generate(ctx, engine.Prompt{Text: prompt}, o) {
					if err != nil {
						return nil, err
					}
					ids = append(ids, tok.ID)
				}
				return ids, nil
			})
			if err != nil {
				return err
			}
			if !slices.Equal(a, b) {
				differences = append(differences, fmt.Sprintf("prompt %d from token %d on", p, common(a, b)))
			}
		}
		r.check(way.name, len(r.options.Prompts), differences)
	}
	for range r.options.Prompts {
		r.step()
	}
	return nil
}

// labels compares classifications.
func (r *run) labels(ctx context.Context) error {
	if len(r.options.Labels) == 0 {
		return nil
	}
	o := engine.ClassifyOptions{Labels: r.options.Labels, Prompt: engine.DefaultLabelPrompt}
	a, b, err := both(r, func(e Engine) ([]engine.Classification, error) { return e.Classify(ctx, r.options.Prompts, o) })
	if err != nil {
		return err
	}
	var differences []string
	for i := range a {
		if a[i].Label != b[i].Label {
			differences = append(differences, fmt.Sprintf("prompt %d: %s (margin %.3g) and %s (%.3g)", i, a[i].Label, a[i].Margin, b[i].Label, b[i].Margin))
		}
	}
	r.check("labels", len(a), differences)
	r.step()
	return nil
}

func common(a, b []int32) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

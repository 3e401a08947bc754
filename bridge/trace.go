package bridge

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// Trace runs token ids through the model and returns what its layers compute; see engine.TraceOptions. The arrays come
// by way of a file: they are too large for a frame.
func (m *Model) Trace(ctx context.Context, ids []int32, options engine.TraceOptions) (*engine.Trace, error) {
	if err := options.Validate(len(ids)); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "go-mlx-trace-*")
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "trace.safetensors")
	reply, _, err := m.call(ctx, &traceRequest{
		head: head{Type: "trace"}, IDs: ids, Rows: options.Rows, Split: options.Split, OpsOf: options.OpsOf, File: file,
	})
	if err != nil {
		return nil, err
	}
	arrays, err := safetensors.ReadFloats(file)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	out := &engine.Trace{Logits: arrays["logits"]}
	for i := range reply.States {
		out.Layers = append(out.Layers, arrays[fmt.Sprintf("layer.%d", i)])
	}
	numbers := map[string]int{}
	for name, values := range arrays {
		rest, ok := strings.CutPrefix(name, "op.")
		if !ok {
			continue
		}
		number, op, _ := strings.Cut(rest, ".")
		if numbers[op], err = strconv.Atoi(number); err != nil {
			return nil, fmt.Errorf("trace: array %q: %w", name, err)
		}
		out.Ops = append(out.Ops, engine.TracedOp{Name: op, Values: values})
	}
	slices.SortFunc(out.Ops, func(a, b engine.TracedOp) int { return cmp.Compare(numbers[a.Name], numbers[b.Name]) })
	return out, nil
}

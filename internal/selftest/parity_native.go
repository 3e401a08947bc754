//go:build cgo && !nonative

package selftest

import (
	"context"
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/parity"
	nativeengine "forge.lthn.ai/core/go-mlx/native"
)

func parityChecks() []check {
	return []check{
		{Parity, "kernels of this module against those of MLX", native, false, (*bench).kernelsAgainstMLX},
		{Parity, "native engine against mlx-lm, layer by layer", native, false, (*bench).nativeAgainstPython},
	}
}

var parityOptions = parity.Options{
	Prompts: []string{
		"The goalkeeper saved a penalty in the last minute of the match.",
		"Der Vertrag wurde gestern in Berlin unterschrieben, 14 Tage zu spät.",
		strings.Repeat("One of the engines computes this sentence with a window that slides. ", 4),
	},
	Tokens: 16, Rows: 2,
}

func (b *bench) kernelsAgainstMLX(ctx context.Context) (string, error) {
	own, err := nativeengine.Load(ctx, b.dir, engine.NativeOptions{})
	if err != nil {
		return "", err
	}
	defer own.Close()
	kernels := own.Info().Kernels
	if kernels == "mlx" {
		return "", errNotRun{"MLX's own kernels compute on this device"}
	}
	exact, err := nativeengine.Load(ctx, b.dir, engine.NativeOptions{Exact: true})
	if err != nil {
		return "", err
	}
	defer exact.Close()
	// The kernels add in another order, so a close call between two tokens may go the other way: only the layers are judged.
	return compare(ctx, kernels, own, exact, func(r *parity.Report) []string {
		if d := r.Diverging; d != nil && d.Beyond {
			return []string{"the layers' states are " + d.String()}
		}
		return nil
	})
}

func (b *bench) nativeAgainstPython(ctx context.Context) (string, error) {
	if why := b.missing[python]; why != "" {
		return "", errNotRun{why}
	}
	exact, err := nativeengine.Load(ctx, b.dir, engine.NativeOptions{Exact: true})
	if err != nil {
		return "", err
	}
	defer exact.Close()
	workers, err := bridge.Load(ctx, b.dir, bridge.Options{Python: b.python})
	if err != nil {
		return "", err
	}
	defer workers.Close()
	return compare(ctx, exact.Info().Device, exact, workers, (*parity.Report).Failures)
}

// compare compares two engines; name says what the first computes with, and failures what is wrong.
func compare(ctx context.Context, name string, first, second parity.Engine, failures func(*parity.Report) []string) (string, error) {
	report, err := parity.Run(ctx, first, second, parityOptions)
	if err != nil {
		return "", err
	}
	if wrong := failures(report); len(wrong) > 0 {
		return "", fmt.Errorf("%s: %s", name, strings.Join(wrong, "; "))
	}
	largest := 0.0
	for _, l := range report.Layers {
		largest = max(largest, l.Differences[0].Relative)
	}
	if largest == 0 {
		return name + ": every layer is bit-equal", nil
	}
	return fmt.Sprintf("%s: the layers differ by at most %.2g (tolerance %.2g)", name, largest, report.Tolerance), nil
}

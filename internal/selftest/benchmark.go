package selftest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/tests/corpus"
)

// benchmark measures an engine once and briefly; docs/performance.md has the thorough way.
func (b *bench) benchmark(ctx context.Context, e mlx.Engine) (detail string, err error) {
	start := time.Now()
	err = b.with(ctx, e, func(m mlx.TextModel) error {
		parts := []string{fmt.Sprintf("load %.2f s", time.Since(start).Seconds())}
		say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
		// Kernels are compiled, and caches filled, by the first requests.
		if err := drain(m.Generate(ctx, prompt, endless(4)...)); err != nil {
			return err
		}
		long := strings.Repeat("One more sentence for a long prompt. ", 60)
		var first time.Duration
		var prompted int
		start := time.Now()
		for tok, err := range m.Generate(ctx, long, endless(1)...) {
			if err != nil {
				return err
			}
			first, prompted = time.Since(start), tok.PromptTokens
		}
		say("prompt of %d tokens %.0f tokens/s", prompted, float64(prompted)/first.Seconds())
		const tokens = 128
		start = time.Now()
		if err := drain(m.Generate(ctx, prompt, endless(tokens)...)); err != nil {
			return err
		}
		say("one stream %.0f tokens/s", tokens/time.Since(start).Seconds())
		const streams = 8
		var all sync.WaitGroup
		errs := make(chan error, streams)
		start = time.Now()
		for range streams {
			all.Go(func() { errs <- drain(m.Generate(ctx, prompt, endless(tokens)...)) })
		}
		all.Wait()
		took := time.Since(start)
		for range streams {
			if err := <-errs; err != nil {
				return err
			}
		}
		say("%d streams %.0f tokens/s", streams, streams*tokens/took.Seconds())
		var texts []string
		for _, s := range sentencesFor(e) {
			texts = append(texts, s.Text)
		}
		labels := corpus.Labels()
		if _, err := m.Classify(ctx, texts[:8], labels); err != nil {
			return err
		}
		start = time.Now()
		if _, err := m.Classify(ctx, texts, labels); err != nil {
			return err
		}
		say("classify %.0f texts/s", float64(len(texts))/time.Since(start).Seconds())
		metrics, err := m.Metrics(ctx)
		if err != nil {
			return err
		}
		say("peak %.0f MiB of MLX memory", float64(metrics.PeakBytes)/(1<<20))
		info := m.Info()
		where := info.Device
		if info.Kernels != "" {
			where = info.Kernels
		}
		detail = where + ": " + strings.Join(parts, ", ")
		return nil
	})
	return detail, err
}

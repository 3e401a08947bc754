package native

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// benchModel is the model that GO_MLX_BENCH_MODEL names, or the trained one.
func benchModel(t testing.TB) string {
	if dir := os.Getenv("GO_MLX_BENCH_MODEL"); dir != "" {
		return dir
	}
	return testenv.Model(t)
}

// BenchmarkDecode says where the time of a token goes: building the graph, handing it to MLX, and waiting for
// the token before.
func BenchmarkDecode(b *testing.B) {
	dir := benchModel(b)
	for _, exact := range []bool{false, true} {
		b.Run(fmt.Sprintf("exact=%v", exact), func(b *testing.B) {
			m, err := Load(context.Background(), dir, engine.NativeOptions{Exact: exact})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			var build, submit, wait time.Duration
			err = m.owner.Do(context.Background(), func() error {
				state := m.network.NewSequence()
				defer state.Free()
				first := m.owner.Lease.NewScope()
				token := first.Keep(first.FromUints([]uint32{5}, 1))
				if err := first.Close(); err != nil {
					return err
				}
				step := func() error {
					s := m.owner.Lease.NewScope()
					defer s.Close()
					start := time.Now()
					next := s.Keep(s.Argmax(m.network.NextLogits(s, state, token), -1, false))
					built := time.Now()
					if err := s.AsyncEval(append([]*mlxc.Array{next}, state.Arrays()...)...); err != nil {
						return err
					}
					submitted := time.Now()
					_, err := token.Int()
					if err == nil {
						err = token.Free()
					}
					token = next
					build, submit, wait = build+built.Sub(start), submit+submitted.Sub(built), wait+time.Since(submitted)
					return err
				}
				for range 20 { // kernels are compiled when they are first used
					if err := step(); err != nil {
						return err
					}
				}
				build, submit, wait = 0, 0, 0
				for b.Loop() {
					if err := step(); err != nil {
						return err
					}
				}
				return token.Free()
			})
			if err != nil {
				b.Fatal(err)
			}
			for unit, total := range map[string]time.Duration{"build-µs": build, "submit-µs": submit, "wait-µs": wait} {
				b.ReportMetric(float64(total.Microseconds())/float64(b.N), unit)
			}
		})
	}
}

// BenchmarkGenerate is 200 tokens as a caller gets them.
func BenchmarkGenerate(b *testing.B) {
	bothWays(b, func(m *Model) error {
		o := engine.DefaultGenerateOptions()
		o.IgnoreEOS, o.MaxTokens = true, 200
		for _, err := range m.Generate(b.Context(), engine.Prompt{Text: "Where can I find"}, o) {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkClassifyOne is one text in a call of its own.
func BenchmarkClassifyOne(b *testing.B) {
	texts := testenv.Texts(b)
	i := 0
	bothWays(b, func(m *Model) error {
		i++
		_, err := m.Classify(b.Context(), texts[i%len(texts):][:1], domainOptions(b))
		return err
	})
}

// bothWays measures work with the fused kernels, where the device has them, and without.
func bothWays(b *testing.B, work func(m *Model) error) {
	for _, exact := range []bool{false, true} {
		b.Run(fmt.Sprintf("exact=%v", exact), func(b *testing.B) {
			m := openPath(b, benchModel(b), engine.NativeOptions{Exact: exact})
			if err := work(m); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := work(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

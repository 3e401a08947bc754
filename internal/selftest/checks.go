package selftest

import (
	"context"
	"errors"
	"fmt"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/tests/corpus"
)

const (
	native = mlx.EngineNative
	python = mlx.EnginePython
)

// checks are all checks, each group in order.
func checks() []check {
	out := append(parityChecks(),
		check{Parity, "held-out sentences, native engine", native, true, of((*bench).accuracy, native)},
		check{Parity, "held-out sentences, python engine", python, true, of((*bench).accuracy, python)},
		check{Memory, "requests leave nothing behind", native, false, (*bench).requestsLeaveNothing},
		check{Memory, "Close gives everything back", native, false, (*bench).closeGivesBack},
		check{Memory, "worker processes are gone after Close", python, false, (*bench).workersEnd},
		check{Faults, "broken checkpoints are errors", native, true, (*bench).brokenCheckpoints},
		check{Faults, "bad requests are errors, native engine", native, false, of((*bench).badRequests, native)},
		check{Faults, "bad requests are errors, python engine", python, false, of((*bench).badRequests, python)},
		check{Faults, "a memory budget holds", native, false, (*bench).budgetHolds},
		check{Faults, "Close ends a stream, native engine", native, false, of((*bench).closeEndsStream, native)},
		check{Faults, "Close ends a stream, python engine", python, false, of((*bench).closeEndsStream, python)},
		check{Faults, "a stream outlives its killed worker", python, false, (*bench).killedWorker},
		check{Faults, "a worker that hangs is replaced", python, false, (*bench).hungWorker},
		check{Benchmark, "native engine", native, false, of((*bench).benchmark, native)},
		check{Benchmark, "python engine", python, false, of((*bench).benchmark, python)},
	)
	return out
}

// of makes a check of an engine one without arguments.
func of(f func(*bench, context.Context, mlx.Engine) (string, error), e mlx.Engine) func(*bench, context.Context) (string, error) {
	return func(b *bench, ctx context.Context) (string, error) { return f(b, ctx, e) }
}

// leastAccuracy is below what the model reaches with every kernel, which is about 0.8 (docs/domain-model.md), and far above chance, which
// is one in eight.
const leastAccuracy = 0.7

// sentencesFor are held-out sentences, spread over labels and languages: all of them for the native engine, and a quarter for the python
// engine, which takes long on a CPU.
func sentencesFor(e mlx.Engine) (out []corpus.Sentence) {
	for i, s := range corpus.Heldout() {
		if e == native || i%4 == 0 {
			out = append(out, s)
		}
	}
	return out
}

// accuracy classifies the sentences that the model was never trained on.
func (b *bench) accuracy(ctx context.Context, e mlx.Engine) (detail string, err error) {
	sentences := sentencesFor(e)
	texts := make([]string, len(sentences))
	for i, s := range sentences {
		texts[i] = s.Text
	}
	err = b.with(ctx, e, func(m mlx.TextModel) error {
		results, err := m.Classify(ctx, texts, corpus.Labels())
		if err != nil {
			return err
		}
		right := 0
		for i, r := range results {
			if r.Label == sentences[i].Label {
				right++
			}
		}
		detail = fmt.Sprintf("%d of %d right", right, len(texts))
		if float64(right) < leastAccuracy*float64(len(texts)) {
			return errors.New(detail)
		}
		return nil
	})
	return detail, err
}

const prompt = "Where can I find"

// endless are options of a stream that only a limit ends.
func endless(tokens int) []mlx.GenerateOption {
	return []mlx.GenerateOption{mlx.WithMaxTokens(tokens), mlx.WithSampling(mlx.IgnoreEOS())}
}

// useEveryWay runs requests that end in every way: at their limit, broken off, cancelled, refused.
func useEveryWay(ctx context.Context, m mlx.TextModel) error {
	if _, err := mlx.Collect(m.Generate(ctx, prompt, endless(16)...)); err != nil {
		return err
	}
	for range m.Generate(ctx, prompt, endless(64)...) {
		break
	}
	short, cancel := context.WithCancel(ctx)
	for _, err := range m.Generate(short, prompt, endless(1000)...) {
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	cancel()
	if _, err := mlx.Collect(m.Generate(ctx, prompt, mlx.WithMaxTokens(-1))); err == nil {
		return errors.New("a request with -1 tokens was not refused")
	}
	_, err := m.Classify(ctx, []string{"The goalkeeper saved a penalty.", "Bake the cake."}, []string{"sport", "food"})
	return err
}

// account is what MLX and the engine hold when no request is under way.
type account struct{ arrays, active, kv int64 }

func (a account) String() string {
	return fmt.Sprintf("%d arrays, %d bytes, KV %d", a.arrays, a.active, a.kv)
}

// quiet reads the account after the last request has ended: a stream that its reader left is cleaned up a moment later.
func quiet(ctx context.Context, m mlx.TextModel) (account, error) {
	for {
		x, err := m.Metrics(ctx)
		if err != nil {
			return account{}, err
		}
		if x.Active == 0 {
			return account{x.LiveArrays, x.ActiveBytes, x.KVBytes}, nil
		}
		select {
		case <-ctx.Done():
			return account{}, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (b *bench) requestsLeaveNothing(ctx context.Context) (detail string, err error) {
	const rounds = 40
	err = b.with(ctx, native, func(m mlx.TextModel) error {
		for range 2 { // what is made once, such as the scores of texts that say nothing, is made now
			if err := useEveryWay(ctx, m); err != nil {
				return err
			}
		}
		before, err := quiet(ctx, m)
		if err != nil {
			return err
		}
		for range rounds {
			if err := useEveryWay(ctx, m); err != nil {
				return err
			}
		}
		after, err := quiet(ctx, m)
		if err != nil {
			return err
		}
		if before != after {
			return fmt.Errorf("before %d requests: %v; after: %v", 5*rounds, before, after)
		}
		detail = fmt.Sprintf("%d requests: %v before and after", 5*rounds, after)
		return nil
	})
	return detail, err
}

func (b *bench) closeGivesBack(ctx context.Context) (detail string, err error) {
	var accounts []account
	for range 3 {
		err := b.with(ctx, native, func(m mlx.TextModel) error {
			if err := useEveryWay(ctx, m); err != nil {
				return err
			}
			a, err := quiet(ctx, m)
			accounts = append(accounts, a)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	// The first load may leave what the process keeps, such as compiled kernels.
	if accounts[1] != accounts[2] {
		return "", fmt.Errorf("the second load held %v, the third %v", accounts[1], accounts[2])
	}
	return fmt.Sprintf("three loads: %v each time", accounts[2]), nil
}

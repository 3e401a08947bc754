package selftest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// workersEnd looks for the processes of workers after Close.
func (b *bench) workersEnd(ctx context.Context) (string, error) {
	var pids []int
	err := b.with(ctx, python, func(m mlx.TextModel) error {
		if err := useEveryWay(ctx, m); err != nil {
			return err
		}
		for _, w := range m.(mlx.Supervised).Stat().Workers {
			pids = append(pids, w.PID)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, pid := range pids {
		if alive(pid) {
			return "", fmt.Errorf("process %d still lives", pid)
		}
	}
	return fmt.Sprintf("processes that are gone: %d", len(pids)), nil
}

// brokenCheckpoints loads files that are damaged as downloads and disks damage them.
func (b *bench) brokenCheckpoints(ctx context.Context) (string, error) {
	weights, err := os.ReadFile(filepath.Join(b.dir, "model.safetensors"))
	if err != nil {
		return "", err
	}
	damages := map[string]func(dir string) error{
		"half of the weights": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "model.safetensors"), weights[:len(weights)/2], 0o600)
		},
		"a header that is no JSON": func(dir string) error {
			broken := append([]byte(nil), weights...)
			copy(broken[8:], "}}}}")
			return os.WriteFile(filepath.Join(dir, "model.safetensors"), broken, 0o600)
		},
		"no tokenizer": func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) },
		"an empty config": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600)
		},
	}
	n := 0
	for name, damage := range damages {
		dir := filepath.Join(b.temp, fmt.Sprintf("broken%d", n))
		n++
		if err := errors.Join(os.CopyFS(dir, os.DirFS(b.dir)), damage(dir)); err != nil {
			return "", err
		}
		m, err := b.load(ctx, dir, native)
		if err == nil {
			return "", errors.Join(fmt.Errorf("a model with %s was loaded", name), m.Close())
		}
	}
	return fmt.Sprintf("%d damages, each an error", n), nil
}

// badRequests asks for what cannot be; every answer must be an error of its own type, and the model must go on.
func (b *bench) badRequests(ctx context.Context, e mlx.Engine) (detail string, err error) {
	err = b.with(ctx, e, func(m mlx.TextModel) error {
		option := func(err error) bool { var o *mlx.OptionError; return errors.As(err, &o) }
		long := func(err error) bool { var c *mlx.ContextLengthError; return errors.As(err, &c) }
		utf8 := func(err error) bool { return errors.Is(err, mlx.ErrInvalidUTF8) }
		empty := func(err error) bool { return errors.Is(err, mlx.ErrEmptyPrompt) }
		limit := m.Info().ContextLength
		requests := []struct {
			name string
			do   func() error
			is   func(error) bool
		}{
			{"TopP(2)", func() error { return drain(m.Generate(ctx, prompt, mlx.WithSampling(mlx.TopP(2)))) }, option},
			{"a broken regular expression", func() error { return drain(m.Generate(ctx, prompt, mlx.WithConstraint(mlx.Regex("(")))) }, option},
			{"a prompt that is not UTF-8", func() error { return drain(m.Generate(ctx, "\xff")) }, utf8},
			{"an empty prompt", func() error { return drain(m.Generate(ctx, "")) }, empty},
			{"an id that is none", func() error { return drain(m.GenerateIDs(ctx, []int32{1 << 30})) }, func(err error) bool { return err != nil }},
			{"no labels", func() error { _, err := m.Classify(ctx, []string{"x"}, nil); return err }, option},
		}
		if limit > 0 && limit <= 1<<16 {
			requests = append(requests, struct {
				name string
				do   func() error
				is   func(error) bool
			}{"a prompt that is too long", func() error { return drain(m.Generate(ctx, strings.Repeat("word ", limit+1))) }, long})
		}
		for _, r := range requests {
			if err := r.do(); err == nil {
				return fmt.Errorf("%s was no error", r.name)
			} else if !r.is(err) {
				return fmt.Errorf("%s: an error of another kind: %w", r.name, err)
			}
		}
		detail = fmt.Sprintf("%d requests, each an error that says why; the model goes on", len(requests))
		return drain(m.Generate(ctx, prompt, endless(2)...))
	})
	return detail, err
}

func drain(stream iter.Seq2[mlx.Token, error]) error {
	_, err := mlx.Collect(stream)
	return err
}

func (b *bench) budgetHolds(ctx context.Context) (string, error) {
	m, err := b.load(ctx, b.dir, native, mlx.WithMemoryBudget(1<<16))
	if err == nil {
		return "", errors.Join(errors.New("a model was loaded into 64 KiB"), m.Close())
	}
	if !errors.Is(err, mlx.ErrBudget) {
		return "", fmt.Errorf("an error of another kind: %w", err)
	}
	return "refused before anything was allocated", nil
}

// closeEndsStream closes a model whose stream is being read.
func (b *bench) closeEndsStream(ctx context.Context, e mlx.Engine) (string, error) {
	m, err := b.load(ctx, b.dir, e)
	if err != nil {
		return "", err
	}
	next, stop := iter.Pull2(m.Generate(ctx, prompt, endless(100000)...))
	defer stop()
	if _, err, _ := next(); err != nil {
		return "", errors.Join(err, m.Close())
	}
	start := time.Now()
	if err := m.Close(); err != nil {
		return "", err
	}
	took := time.Since(start)
	for {
		_, err, ok := next()
		if !ok {
			return "", errors.New("the stream ended without an error")
		}
		if errors.Is(err, mlx.ErrClosed) {
			return fmt.Sprintf("closed in %d ms", took.Milliseconds()), nil
		}
		if err != nil {
			return "", fmt.Errorf("an error of another kind: %w", err)
		}
	}
}

// ahead is more tokens than a worker computes before its reader asks for more: a stream of so many is not over when its worker is lost, however
// fast that is.
const ahead = 128

// interrupted reads a stream, does something to its worker after a few tokens, and compares the whole with a stream that nothing happened to.
func (b *bench) interrupted(ctx context.Context, harm func(pid int) error, options ...mlx.PythonOption) (detail string, err error) {
	err = b.with(ctx, python, func(m mlx.TextModel) error {
		want, err := mlx.Collect(m.Generate(ctx, prompt, endless(ahead)...))
		if err != nil {
			return err
		}
		text, n := "", 0
		start := time.Now()
		for tok, err := range m.Generate(ctx, prompt, endless(ahead)...) {
			if err != nil {
				return fmt.Errorf("after %d tokens: %w", n, err)
			}
			text += tok.Text
			if n++; n == 8 {
				if err := harm(m.(mlx.Supervised).Stat().Workers[0].PID); err != nil {
					return err
				}
			}
		}
		if text != want.Text {
			return fmt.Errorf("the text is another one: %q instead of %q", text, want.Text)
		}
		crashes := m.(mlx.Supervised).Stat().Crashes
		if crashes == 0 {
			return errors.New("the stream was whole without its worker being missed: nothing was tested")
		}
		detail = fmt.Sprintf("workers lost: %d; no token lost or repeated; %.1f s", crashes, time.Since(start).Seconds())
		return nil
	}, mlx.WithPython(options...))
	return detail, err
}

func (b *bench) killedWorker(ctx context.Context) (string, error) {
	return b.interrupted(ctx, func(pid int) error {
		p, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		return p.Kill()
	})
}

// stall is how long a worker may be silent until it counts as hung. What replaces it is silent too, while it begins: on a slow disk, for
// seconds.
const stall = 10 * time.Second

func (b *bench) hungWorker(ctx context.Context) (string, error) {
	return b.interrupted(ctx, suspend, mlx.StallTimeout(stall))
}

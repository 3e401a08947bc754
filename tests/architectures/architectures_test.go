// Package architectures runs a tiny checkpoint with random weights of every architecture that mlx-lm has through the
// python engine.
package architectures

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// some stand for a kind each: attention alone, experts, latent attention, recurrent layers, both kinds, and a text model inside
// another config.
var some = []string{"gpt2", "mixtral", "deepseek_v3", "mamba", "jamba", "gemma3"}

// made makes checkpoints, of all architectures if none is named, and returns what is wrong with each, by name.
func made(t *testing.T, out string, names ...string) map[string]string {
	t.Helper()
	cmd := exec.Command(testenv.Python(t), append([]string{filepath.Join(testenv.Root(), "tests", "models", "architectures.py"), out}, names...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	problems := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(stdout))
	for lines.Scan() {
		var line struct {
			Name  string
			Error *string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			continue // a library's own words
		}
		if line.Error != nil {
			problems[line.Name] = *line.Error
		}
	}
	return problems
}

// run loads a checkpoint, generates with and without company, and closes.
func run(t *testing.T, dir string) (err error) {
	m, err := mlx.LoadModelContext(t.Context(), dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(testenv.Python(t)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	var group errgroup.Group
	for _, prompt := range []string{"Where can I find", "Hello"} {
		group.Go(func() error {
			c, err := mlx.Collect(m.Generate(t.Context(), prompt, mlx.WithMaxTokens(5), mlx.WithIgnoreEOS()))
			if err == nil && len(c.Tokens) != 5 {
				err = fmt.Errorf("%d tokens, want 5", len(c.Tokens))
			}
			return err
		})
	}
	return group.Wait()
}

func TestSomeArchitecturesRunThroughTheBridge(t *testing.T) {
	out := t.TempDir()
	for name, problem := range made(t, out, some...) {
		require.Empty(t, problem, name)
	}
	for _, name := range some {
		require.NoError(t, run(t, filepath.Join(out, name)), name)
	}
}

// Make architectures: all of them. The table in docs/architectures.md must be what comes out; GO_MLX_WRITE=1 writes it.
func TestEveryArchitecture(t *testing.T) {
	if os.Getenv("GO_MLX_ARCHITECTURES") == "" {
		t.Skip("minutes: `make architectures` runs it")
	}
	out := t.TempDir()
	problems := made(t, out)
	require.Greater(t, len(problems), 100)
	results := map[string]string{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(2)
	for name, problem := range problems {
		group.Go(func() error {
			result := problem
			if problem == "" {
				if err := run(t, filepath.Join(out, name)); err != nil {
					result = firstLine(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			results[name] = result
			fmt.Printf("%d of %d: %s %s\n", len(results), len(problems), name, result)
			return nil
		})
	}
	require.NoError(t, group.Wait())
	path := filepath.Join(testenv.Root(), "docs", "architectures.md")
	page := table(results, func(name string) error { return mlx.NativeSupport(filepath.Join(out, name)) })
	if os.Getenv("GO_MLX_WRITE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(page), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), page)
}

func firstLine(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	if i := strings.Index(text, ": "); strings.HasPrefix(text, "load ") && i > 0 {
		text = text[i+2:] // without the folder
	}
	return text
}

func table(results map[string]string, native func(string) error) string {
	works := 0
	var rows strings.Builder
	names := make([]string, 0, len(results))
	for name := range results {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		python, engine := "yes", ""
		if problem := results[name]; problem != "" {
			python = "no: " + strings.ReplaceAll(problem, "|", "\\|")
		} else {
			works++
		}
		if native(name) == nil {
			engine = "yes"
		}
		fmt.Fprintf(&rows, "| %s | %s | %s |\n", name, python, engine)
	}
	return fmt.Sprintf(`# Architectures

Made by %s; do not edit. For every architecture of mlx-lm a tiny checkpoint with random weights is made
(%s), loaded by the python engine, asked for tokens by two requests at once, and closed. On a CPU, %d of %d
work. "No" may also mean that the generator does not know what to put into its config.

| model_type | python engine | native engine |
|---|---|---|
%s`, "`make architectures`", "`tests/models/architectures.py`", works, len(results), rows.String())
}

//go:build long

package architectures

import (
	"fmt"
	"os"
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

// `make architectures`: all of them. The table in docs/architectures.md must be what comes out; GO_MLX_WRITE=1 writes it.
func TestEveryArchitecture(t *testing.T) {
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

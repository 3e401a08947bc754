// Package architectures runs a tiny checkpoint with random weights of every architecture that mlx-lm has through the
// python engine.
package architectures

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
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

// run loads a checkpoint, generates alone and two requests at once, and closes.
func run(t *testing.T, dir string) (err error) {
	m, err := mlx.LoadModelContext(t.Context(), dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	var group errgroup.Group
	for _, prompt := range []string{"Where can I find", "Hello"} {
		group.Go(func() error {
			c, err := mlx.Collect(m.Generate(t.Context(), prompt, mlx.WithMaxTokens(5), mlx.WithSampling(mlx.IgnoreEOS())))
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

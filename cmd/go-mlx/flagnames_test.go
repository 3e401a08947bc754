package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// An error names the flag that was typed, not the function that the flag calls.
func TestErrorsNameTheFlag(t *testing.T) {
	model := testenv.Model(t)
	labels := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(labels, []byte("a\nb\n"), 0o600))
	for want, args := range map[string][]string{
		"--top-p: 2 is not":               {"generate", "--top-p", "2", model, "x"},
		"--max-tokens: -1 is not":         {"generate", "-n", "-1", model, "x"},
		"--temperature: -1 is not":        {"generate", "--temperature", "-1", model, "x"},
		"--kv-bits: 5 bits":               {"generate", "--kv-bits", "5", model, "x"},
		"--xtc: probability":              {"generate", "--xtc", "2", model, "x"},
		"--regex: ":                       {"generate", "--regex", "(", model, "x"},
		"--draft-tokens: the model":       {"generate", "--draft-tokens", "2", model, "x"},
		"--workers: only the python":      {"generate", "-e", "native", "--workers", "2", model, "x"},
		"--batch: -1 is not positive":     {"generate", "--batch", "-1", model, "x"},
		"--memory-budget: ":               {"generate", "--memory-budget", "-1", model, "x"},
		"--engine: unknown engine":        {"generate", "-e", "fast", model, "x"},
		"--abstain: probability 2":        {"classify", "--abstain", "2", "-l", labels, model},
		"--prompt: it must hold {text}":   {"classify", "--prompt", "x", "-l", labels, model},
		`--prior: there is no "best"`:     {"classify", "--prior", "best", "-l", labels, model},
		"--adapter: /none":                {"generate", "--adapter", "/none", model, "x"},
		"--draft: /none":                  {"serve", "--draft", "/none", model},
		"--python: exec":                  {"generate", "--python", "/none", "-e", "python", model, "x"},
		"--dimensions: ":                  {"embed", "--dimensions", "-1", model},
		`--prompt-name: the model has no`: {"embed", "--prompt-name", "query", model},
	} {
		_, _, err := run(t, "text\n", args...)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "option ")
		require.NotContains(t, err.Error(), "leave the option out")
		var option *mlx.OptionError
		require.ErrorAs(t, err, &option, want)
	}
	other := fmt.Errorf("x: %w", &mlx.OptionError{Option: "ids", Reason: "no"})
	require.Equal(t, other, byFlags(rootCommand().Flags(), other), "no flag sets it")
}

func TestHelpFitsATerminal(t *testing.T) {
	for _, cmd := range below(rootCommand()) {
		require.Contains(t, cmd.UsageString(), "Usage:", cmd.CommandPath())
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			require.LessOrEqual(t, len([]rune(strings.TrimSuffix(line, "\n"))), helpWidth, cmd.CommandPath())
		}
		if cmd.HasParent() { // in its parent's list the names are in front
			require.LessOrEqual(t, cmd.NamePadding()+len("  ")+len(" ")+len(cmd.Short), helpWidth, cmd.CommandPath())
		}
	}
	require.NotContains(t, wrapped("0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 --api-key-file"), "-\n", "words are not cut")
	require.Equal(t, "a b\n\n  kept\n  too\n\nc", wrapped("a\nb\n\n  kept\n  too\n\nc"))
}

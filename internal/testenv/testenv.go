// Package testenv gives tests the project's model, corpus and Python environment. What is missing is a
// failure, not a skip: `make test` makes all of it.
package testenv

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Root is the project's folder. With -trimpath programs do not know where their source is: then it is the folder above the working directory
// that has the project's corpus.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	if filepath.IsAbs(file) {
		return filepath.Dir(filepath.Dir(filepath.Dir(file)))
	}
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tests", "corpus", "labels.txt")); err == nil {
			return dir
		}
		above := filepath.Dir(dir)
		if above == dir {
			panic("tests that are built with -trimpath run within the project's folder")
		}
		dir = above
	}
}

// Model is the folder of the trained domain classifier.
func Model(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(Root(), "tests", "models", "domains")
	require.FileExists(t, filepath.Join(dir, "model.safetensors"))
	return dir
}

// Slow reports whether `make test-slow` runs: more prompts, more tokens and more tries of what `make test` tries, too.
func Slow() bool { return os.Getenv("GO_MLX_SLOW") != "" }

// Number is the number in an environment variable, or the other one if it is not set.
func Number(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err)
	return n
}

// Python is the interpreter of the project's environment. With -short, as in `make test-short`, tests that ask for it are skipped.
func Python(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Python")
	}
	path := filepath.Join(Root(), ".venv", "bin", "python")
	require.FileExists(t, path, "run `make build`")
	return path
}

// RunPython runs a script of tests/python with in as JSON on its stdin and decodes its stdout into out.
func RunPython(t testing.TB, script string, in, out any, args ...string) {
	t.Helper()
	data, err := json.Marshal(in)
	require.NoError(t, err)
	cmd := exec.Command(Python(t), append([]string{filepath.Join(Root(), "tests", "python", script)}, args...)...)
	cmd.Stdin = bytes.NewReader(data)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(Root(), "python")+string(os.PathListSeparator)+os.Getenv("PYTHONPATH"), "HF_HUB_OFFLINE=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.NoError(t, json.Unmarshal(stdout, out), "%s", stdout)
}

// Labels are the domains, in the order of tests/corpus/labels.txt.
func Labels(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Root(), "tests", "corpus", "labels.txt"))
	require.NoError(t, err)
	return strings.Fields(string(data))
}

// Sentence is a held-out sentence.
type Sentence struct{ Language, Domain, Text string }

// Heldout are the held-out sentences.
func Heldout(t testing.TB) []Sentence {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(Root(), "tests", "corpus", "heldout.tsv"))
	require.NoError(t, err)
	var out []Sentence
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		require.Len(t, fields, 3, line)
		out = append(out, Sentence{fields[0], fields[1], fields[2]})
	}
	return out
}

// Texts are the held-out sentences' texts.
func Texts(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, s := range Heldout(t) {
		out = append(out, s.Text)
	}
	return out
}

// EditJSON changes a JSON object of a model folder.
func EditJSON(t testing.TB, dir, file string, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var object map[string]any
	require.NoError(t, json.Unmarshal(data, &object))
	change(object)
	data, err = json.Marshal(object)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o644))
}

// CopyModel copies the model's folder, to be damaged.
func CopyModel(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(Model(t))))
	return dir
}

// RelativeDifference is ||got - want|| / ||want||, for arrays of one length.
func RelativeDifference(want, got []float32) float64 {
	var difference, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		difference, norm = difference+d*d, norm+float64(want[i])*float64(want[i])
	}
	return math.Sqrt(difference / norm)
}

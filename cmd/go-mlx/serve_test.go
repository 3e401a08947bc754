package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// serveWith runs the command until the test ends it.
func serveWith(t *testing.T, args ...string) (url string, end func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	var stderr testenv.Log
	cmd := rootCommand()
	cmd.SetArgs(append([]string{"serve", "--port", "0"}, args...))
	cmd.SetErr(&stderr)
	ended := make(chan error, 1)
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	address := regexp.MustCompile(`address=(http://\S+)/`)
	require.Eventually(t, func() bool { return address.MatchString(stderr.String()) }, 2*time.Minute, 10*time.Millisecond, stderr.String())
	return address.FindStringSubmatch(stderr.String())[1], func() error {
		cancel()
		return <-ended
	}
}

func TestServeAFolderOfModels(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	require.NoError(t, os.WriteFile(keys, []byte("one\n\ntwo\n"), 0o600))
	url, end := serveWith(t, "--models-dir", filepath.Join(testenv.Root(), "tests", "models"), "--api-key-file", keys, "--preload", "--no-page")
	// It is alive at once, and ready when the models are loaded.
	require.Eventually(t, func() bool {
		alive, err := http.Get(url + "/healthz")
		require.NoError(t, err)
		alive.Body.Close()
		require.Equal(t, 200, alive.StatusCode)
		ready, err := http.Get(url + "/readyz")
		require.NoError(t, err)
		ready.Body.Close()
		return ready.StatusCode == 200
	}, 2*time.Minute, 10*time.Millisecond)
	r, err := http.NewRequestWithContext(t.Context(), "GET", url+"/v1/status", nil)
	require.NoError(t, err)
	r.Header.Set("X-Api-Key", "two")
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	response.Body.Close()
	var status struct {
		Models []struct{ Name, Phase string }
	}
	require.NoError(t, json.Unmarshal(data, &status))
	require.Len(t, status.Models, 2)
	response, err = http.Get(url + "/")
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, 401, response.StatusCode, "no page")
	require.NoError(t, end())
}

func TestServeRefusesWhatItCannotDo(t *testing.T) {
	model := testenv.Model(t)
	for _, c := range []struct {
		args  []string
		want  string
		usage bool
	}{
		{[]string{}, "name models", true},
		{[]string{"--model", model, "--host", "0.0.0.0"}, "give API keys", true},
		{[]string{"--model", "/none"}, "not a model folder", true},
		{[]string{"--model", "x=" + model + ",colour=red"}, `unknown setting "colour"`, true},
		{[]string{"--model", "x=" + model + ",workers=two"}, "workers=two", true},
		{[]string{"--model", model, "--model", model}, `two models have the name "domains"`, false},
		{[]string{"--model", model, "--alias", "x"}, "PATTERN=NAME", true},
		{[]string{"--model", model, "--alias", "[=domains"}, "PATTERN=NAME", true},
		{[]string{"--model", model, "--alias", "x=nobody"}, "there is no model", true},
		{[]string{"--model", model, "--default-model", "nobody"}, "there is no model", true},
		{[]string{"--model", "org/none"}, "go-mlx pull org/none", true},
		{[]string{"--model", "x=" + model + ",adapter=/none"}, "adapter_config.json", true},
		{[]string{"--model", model, "--adapter", model}, "adapter_config.json", true},
		{[]string{"--model", model, "--draft", "/none"}, "--draft: /none", true},
		{[]string{"--model", testenv.Root() + "/README.md"}, "is a file, and not a .gguf one", true},
		{[]string{"--models-dir", t.TempDir()}, "no folder", false},
		{[]string{"--model", model, "--log-format", "xml"}, "text and json", true},
		{[]string{"--model", model, "--log-level", "loud"}, "--log-level", true},
		{[]string{"--model", model, "--api-key-file", os.DevNull}, "holds no key", false},
		{[]string{"--model", model, "--cors-origin", "not an origin", "--port", "0"}, "origin", false},
		{[]string{"--model", model, "--port", "70000"}, "--port chooses another", false},
	} {
		_, _, err := run(t, "", append([]string{"serve"}, c.args...)...)
		require.ErrorContains(t, err, c.want, "%v", c.args)
		require.Equal(t, c.usage, isUsage(err), "%v: %v", c.args, err)
	}
}

// A model's own settings come before those for all; a flag of one engine does not reach the models of the other.
func TestModelsHaveSettingsOfTheirOwn(t *testing.T) {
	r := &serveRun{loadFlags: loadFlags{engine: "auto", workers: 3, exact: true}}
	m, err := r.model("a=" + testenv.Model(t) + ",engine=python,workers=1")
	require.NoError(t, err)
	require.Equal(t, "a", m.Name)
	require.Len(t, m.Options, 2, "the engine and its workers, but not --exact")
	m, err = r.model(testenv.Model(t) + ",engine=native")
	require.NoError(t, err)
	require.Equal(t, "domains", m.Name)
	require.Len(t, m.Options, 2, "the engine and --exact, but no workers")
}

// A folder of --models-dir may have a name that --model would read as settings.
func TestFoldersMayHaveAnyName(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "a,b=c"), os.DirFS(testenv.Model(t))))
	models, err := (&serveRun{loadFlags: loadFlags{engine: "native"}, modelsDir: dir}).hosted(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, []string{"a,b=c"}, models.Names())
	require.NoError(t, models.Close())
}

// LM Studio keeps each file in a folder of its own, ORG/NAME/FILE.gguf, and hubs' folders are ORG/NAME: the model goes by these two.
func TestModelsInTheirMakersFolders(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "org", "small"), os.DirFS(testenv.Model(t))))
	require.NoError(t, os.CopyFS(filepath.Join(dir, "org", "other.v2"), os.DirFS(testenv.Model(t))))
	models, err := (&serveRun{loadFlags: loadFlags{engine: "native"}, modelsDir: dir}).hosted(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, []string{"org/other.v2", "org/small"}, models.Names())
	require.NoError(t, models.Close())
}

// A model may be given as to every other command: by its place in the arguments, as a GGUF file, by the name of a download.
func TestModelsAreServedAsTheyAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"FILE.gguf", "split-00001-of-00002.gguf"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
		_, _, err := run(t, "", "serve", filepath.Join(dir, name))
		require.ErrorContains(t, err, name, "what is no GGUF is found at the start")
	}
	require.Equal(t, "FILE", defaultName(filepath.Join(dir, "FILE.gguf")))
	require.Equal(t, "split", defaultName(filepath.Join(dir, "split-00001-of-00002.gguf")))
	require.Equal(t, "org/name:q4.gguf", defaultName("org/name:q4.gguf"))
	t.Chdir(testenv.Model(t))
	require.Equal(t, "domains", defaultName("."))

	t.Setenv("HF_HUB_CACHE", dir)
	snapshot := filepath.Join(dir, "models--org--small", "snapshots", "abc")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "models--org--small", "refs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "models--org--small", "refs", "main"), []byte("abc"), 0o644))
	require.NoError(t, os.CopyFS(snapshot, os.DirFS(testenv.Model(t))))
	url, end := serveWith(t, "org/small", "--engine", "native")
	response, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"model": "org/small", "prompt": "Where can", "max_tokens": 2}`))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 200, response.StatusCode)
	require.NoError(t, end())
}

func TestDoctor(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	t.Chdir(testenv.Root())
	out, _, err := run(t, "", "doctor", "--json")
	require.NoError(t, err)
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(out), &findings))
	states := map[string]string{}
	for _, f := range findings {
		states[f.Part] = f.State
	}
	require.Equal(t, "ok", states["native engine"])
	require.Equal(t, "ok", states["python engine"])
	require.Equal(t, "ok", states["go"])

	out, _, err = run(t, "", "doctor", "--python", "/none")
	require.NoError(t, err, "one engine is enough")
	require.Contains(t, out, "run: python3 -m venv")
	require.NotContains(t, out, "\x1b", "no colours but on a terminal")
}

func TestManualPagesAndCompletions(t *testing.T) {
	dir := t.TempDir()
	_, _, err := run(t, "", "man", dir)
	require.NoError(t, err)
	page, err := os.ReadFile(filepath.Join(dir, "go-mlx-serve.1"))
	require.NoError(t, err)
	require.Contains(t, string(page), "--request-timeout")
	for _, shell := range []string{"bash", "zsh", "fish"} {
		out, _, err := run(t, "", "completion", shell)
		require.NoError(t, err)
		require.Contains(t, out, "go-mlx")
	}
}

// Several models have a budget also where nobody gives one: clients may ask for one after the other.
func TestSeveralModelsHaveABudget(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skip("the system does not say how much memory it has")
	}
	total := systemMemory()
	require.Greater(t, total, int64(256<<20))
	model := testenv.Model(t)
	one, two := []string{"a=" + model}, []string{"a=" + model, "b=" + model}
	for _, c := range []struct {
		models   []string
		budgeted bool
		budget   int64 // MiB
		want     string
	}{
		{one, false, 0, ""}, {two, true, 0, ""}, {two, true, 500, ""}, {two, false, 0, fmt.Sprintf("mib=%d", total/4*3>>20)},
	} {
		var log testenv.Log
		run := serveRun{loadFlags: loadFlags{budget: c.budget}, models: c.models, budgeted: c.budgeted}
		host, err := run.hosted(slog.New(slog.NewTextHandler(&log, nil)))
		require.NoError(t, err)
		require.NoError(t, host.Close())
		if c.want == "" {
			require.NotContains(t, log.String(), "memory budget")
			continue
		}
		require.Contains(t, log.String(), c.want)
	}
	// A container may have less than the system.
	if runtime.GOOS == "linux" {
		before := limitsOfMemory
		t.Cleanup(func() { limitsOfMemory = before })
		limitsOfMemory = nil
		whole := systemMemory()
		limit := filepath.Join(t.TempDir(), "memory.max")
		limitsOfMemory = []string{filepath.Join(t.TempDir(), "none"), limit}
		for text, want := range map[string]int64{"max\n": whole, "104857600\n": 100 << 20, "": whole, "9223372036854771712\n": whole} {
			require.NoError(t, os.WriteFile(limit, []byte(text), 0o644))
			require.Equal(t, want, systemMemory(), text)
		}
	}
}

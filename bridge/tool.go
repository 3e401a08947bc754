package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
)

// Tool runs Python once, for work that is not a request to a loaded model.
type Tool struct {
	interpreter string
	source      string // folder of the worker's modules
	env         []string
	// Stderr gets what Python prints there; nil keeps the end of it for errors.
	Stderr io.Writer
}

// NewTool finds the interpreter as Load does.
func NewTool(python string) (*Tool, error) {
	interpreter, err := FindPython(python)
	if err != nil {
		return nil, err
	}
	source, err := workerSource()
	if err != nil {
		return nil, err
	}
	return &Tool{interpreter: interpreter, source: source, env: append(environment(false), "PYTHONPATH="+source)}, nil
}

// GoOnline lets Python use the network, with this program's settings and token for it.
func (t *Tool) GoOnline() { t.env = append(environment(true), "PYTHONPATH="+t.source) }

// AddEnv gives Python more environment variables, as NAME=VALUE.
func (t *Tool) AddEnv(entries ...string) { t.env = append(t.env, entries...) }

// toolStderr is how much of a failed tool's stderr comes with the error.
const toolStderr = 4 << 10

// missingModule is the last line of what Python prints when it cannot import a module.
var missingModule = regexp.MustCompile(`ModuleNotFoundError: No module named '([^']+)'$`)

// Run runs the interpreter with arguments ("-m MODULE ...", "-c CODE ..." or a script) and returns its stdout. Modules come from
// the worker's folder and from what is installed, never from the working directory. A module that is not installed is an ErrVersion.
func (t *Tool) Run(ctx context.Context, args ...string) ([]byte, error) {
	full := args
	switch {
	case len(args) > 1 && args[0] == "-m":
		full = moduleArguments(t.source, args[1], args[2:]...)
	case len(args) > 1 && args[0] == "-c":
		full = append([]string{"-c", withSource + args[1], t.source}, args[2:]...)
	}
	cmd := exec.CommandContext(ctx, t.interpreter, full...)
	cmd.Env = t.env
	var kept bytes.Buffer
	cmd.Stderr = &kept
	if t.Stderr != nil {
		cmd.Stderr = io.MultiWriter(t.Stderr, &kept)
	}
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		text := strings.TrimSpace(kept.String())
		if module := missingModule.FindStringSubmatch(text); module != nil {
			return nil, fmt.Errorf("%w: %s has no module %s: run `make build` in the go-mlx folder, or `%s -m pip install -r requirements.txt`",
				ErrVersion, t.interpreter, module[1], t.interpreter)
		}
		if len(text) > toolStderr {
			text = "..." + text[len(text)-toolStderr:]
		}
		return nil, fmt.Errorf("python %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, text)
	}
	return out, nil
}

// Versions asks the interpreter for the versions of its packages.
func (t *Tool) Versions(ctx context.Context) (map[string]string, error) {
	out, err := t.Run(ctx, "-c", "import json; from go_mlx_worker.__main__ import versions; print(json.dumps({k: str(v) for k, v in versions().items()}))")
	if err != nil {
		return nil, err
	}
	var versions map[string]string
	if err := json.Unmarshal(out, &versions); err != nil {
		return nil, fmt.Errorf("python versions: %w", err)
	}
	return versions, nil
}

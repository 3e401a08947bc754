// Package selftest finds out on a user's own machine whether both engines compute what they should, give memory back, come through faults,
// and how fast they are. Its report is made to be attached to an issue.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/tests/models"
)

// Groups of checks, in the order in which they run.
const (
	Parity    = "parity"
	Memory    = "memory"
	Faults    = "faults"
	Benchmark = "benchmark"
)

// Groups are all groups.
var Groups = []string{Parity, Memory, Faults, Benchmark}

// State is the outcome of a check.
type State string

// Outcomes of a check.
const (
	Passed State = "passed"
	Failed State = "failed"
	NotRun State = "not run"
)

// Check is one thing that was looked at.
type Check struct {
	Group   string  `json:"group"`
	Name    string  `json:"name"`
	State   State   `json:"state"`
	Detail  string  `json:"detail"` // what was found, or why it failed or was not run
	Seconds float64 `json:"seconds"`
}

// Fact is a line about the machine or the program.
type Fact struct {
	Name   string `json:"name"`
	Detail string `json:"detail"`
}

// Report is the outcome of a run.
type Report struct {
	Version string    `json:"version"` // of go-mlx
	Model   string    `json:"model"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	System  []Fact    `json:"system"`
	Checks  []Check   `json:"checks"`
	// Interrupted says that the run was ended before all checks had run.
	Interrupted bool `json:"interrupted,omitempty"`
}

// Count is how many checks have an outcome.
func (r *Report) Count(s State) int {
	n := 0
	for _, c := range r.Checks {
		if c.State == s {
			n++
		}
	}
	return n
}

// Passed reports whether something was tested and nothing failed.
func (r *Report) Passed() bool { return r.Count(Passed) > 0 && r.Count(Failed) == 0 && !r.Interrupted }

// Options of a run.
type Options struct {
	Version  string
	Model    string // what LoadModel takes; empty for the project's own model, which is part of the program
	Python   string // interpreter; empty for the default
	Groups   []string
	System   []Fact
	Progress func(Check) // told of each check when it is over
}

// patience is how long a check may take; the project's model needs seconds.
const patience = 5 * time.Minute

// errNotRun is the error of a check that cannot run here, with the reason.
type errNotRun struct{ reason string }

func (e errNotRun) Error() string { return e.reason }

// check is one thing to look at. Its text is what was found.
type check struct {
	group, name string
	engine      mlx.Engine // which must be there
	own         bool       // needs the project's own model
	run         func(*bench, context.Context) (string, error)
}

// bench is what the checks of a run share.
type bench struct {
	dir    string // of the model
	own    bool   // it is the project's
	python string
	temp   string // a folder for files
	// missing is, for each engine, why it cannot be tested; empty if it can.
	missing map[mlx.Engine]string
}

// Run runs the checks. It returns a report also when ctx ends, which says then what was not run; the error is only about what kept it from
// beginning.
func Run(ctx context.Context, o Options) (*Report, error) {
	temp, err := os.MkdirTemp("", "go-mlx-selftest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	b := &bench{temp: temp, python: o.Python, own: o.Model == ""}
	if b.own {
		if b.dir, err = ownModel(temp); err != nil {
			return nil, err
		}
	} else if b.dir, err = mlx.Locate(o.Model); err != nil {
		return nil, err
	} else if err := mlx.Verify(b.dir); err != nil {
		return nil, err
	}
	b.look(ctx)
	r := &Report{Version: o.Version, Model: o.Model, Began: time.Now().UTC().Truncate(time.Second), System: o.System}
	if b.own {
		r.Model = "the project's own (domains)"
	}
	start := time.Now()
	for _, group := range Groups {
		if len(o.Groups) > 0 && !contains(o.Groups, group) {
			continue
		}
		for _, c := range checks() {
			if c.group != group {
				continue
			}
			done := b.try(ctx, c)
			r.Checks = append(r.Checks, done)
			if o.Progress != nil {
				o.Progress(done)
			}
		}
	}
	r.Seconds = time.Since(start).Seconds()
	r.Interrupted = ctx.Err() != nil
	return r, nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// ownModel writes the model that is part of the program to a folder.
func ownModel(temp string) (string, error) {
	files, err := fs.Sub(models.Domains, "domains")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(temp, "domains")
	return dir, os.CopyFS(dir, files)
}

// look finds out which engines are there.
func (b *bench) look(ctx context.Context) {
	b.missing = map[mlx.Engine]string{}
	if err := mlx.NativeSupport(b.dir); err != nil {
		b.missing[mlx.EngineNative] = summary(err)
	}
	if from, err := modelfiles.Find(b.dir); err == nil && from.GGUF != "" {
		b.missing[mlx.EnginePython] = "the python engine does not read GGUF files"
	} else if _, _, err := bridge.Inspect(ctx, b.python); err != nil {
		b.missing[mlx.EnginePython] = summary(err) + "; go-mlx doctor says what to install"
	}
}

// summary is an error in one line: the first, or of a Python traceback the last, which says what was raised.
func summary(err error) string {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	if strings.Contains(lines[0], "Traceback") {
		return strings.TrimSpace(lines[len(lines)-1])
	}
	return lines[0]
}

// try runs one check. A panic is its failure.
func (b *bench) try(ctx context.Context, c check) (out Check) {
	out = Check{Group: c.group, Name: c.name, State: NotRun}
	switch why := b.missing[c.engine]; {
	case ctx.Err() != nil:
		out.Detail = "interrupted"
		return out
	case why != "":
		out.Detail = why
		return out
	case c.own && !b.own:
		out.Detail = "it needs the project's own model"
		return out
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	start := time.Now()
	detail, err := func() (text string, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return c.run(b, limited)
	}()
	out.Seconds = time.Since(start).Seconds()
	var not errNotRun
	switch {
	case ctx.Err() != nil:
		out.Detail = "interrupted"
	case errors.As(err, &not):
		out.Detail = not.reason
	case err != nil:
		out.State, out.Detail = Failed, err.Error()
	default:
		out.State, out.Detail = Passed, detail
	}
	return out
}

// load loads the model, or the one in another folder, with an engine.
func (b *bench) load(ctx context.Context, dir string, e mlx.Engine, options ...mlx.LoadOption) (mlx.TextModel, error) {
	options = append(options, mlx.WithEngine(e))
	if e == mlx.EnginePython && b.python != "" {
		options = append(options, mlx.WithPython(mlx.Interpreter(b.python)))
	}
	return mlx.LoadModelContext(ctx, dir, options...)
}

// with loads the model, does something with it and closes it.
func (b *bench) with(ctx context.Context, e mlx.Engine, do func(mlx.TextModel) error, options ...mlx.LoadOption) error {
	m, err := b.load(ctx, b.dir, e, options...)
	if err != nil {
		return err
	}
	return errors.Join(do(m), m.Close())
}

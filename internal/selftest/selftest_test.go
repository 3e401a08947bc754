package selftest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestBothEnginesPass(t *testing.T) {
	var told []Check
	r, err := Run(t.Context(), Options{
		Version: "v1", Python: testenv.Python(t), Groups: []string{Parity, Memory, Faults}, System: []Fact{{"system", "test"}},
		Progress: func(c Check) { told = append(told, c) },
	})
	require.NoError(t, err)
	require.Equal(t, told, r.Checks)
	for _, c := range r.Checks {
		require.Equal(t, Passed, c.State, "%s: %s", c.Name, c.Detail)
		require.NotEmpty(t, c.Detail)
	}
	require.True(t, r.Passed())
	require.GreaterOrEqual(t, r.Count(Passed), 14)
}

func TestWithoutPythonTheNativeEngineIsTested(t *testing.T) {
	r, err := Run(t.Context(), Options{Python: filepath.Join(t.TempDir(), "none")})
	require.NoError(t, err)
	require.True(t, r.Passed())
	require.Positive(t, r.Count(NotRun))
	for _, c := range r.Checks {
		if c.State == NotRun {
			require.NotEmpty(t, c.Detail, c.Name)
			require.NotEqual(t, "interrupted", c.Detail)
		}
	}
	var text, html bytes.Buffer
	require.NoError(t, r.WriteText(&text))
	require.NoError(t, r.WriteHTML(&html))
	for _, c := range r.Checks {
		require.Contains(t, text.String(), c.Name)
		require.Contains(t, html.String(), c.Name)
	}
	require.Contains(t, text.String(), r.Verdict())
}

// A model whose weights are no numbers: requests fail, and so do the checks that make them.
func TestChecksFailWhereSomethingIsWrong(t *testing.T) {
	dir := testenv.CopyModel(t)
	file := filepath.Join(dir, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for at := 8 + int(binary.LittleEndian.Uint64(data)); at+1 < len(data); at += 2 {
		binary.LittleEndian.PutUint16(data[at:], 0x7fc0) // NaN in bfloat16
	}
	require.NoError(t, os.WriteFile(file, data, 0o600))
	r, err := Run(t.Context(), Options{Model: dir, Python: filepath.Join(t.TempDir(), "none"), Groups: []string{Memory}})
	require.NoError(t, err)
	require.False(t, r.Passed())
	require.Equal(t, Failed, r.Checks[0].State)
	require.Contains(t, r.Checks[0].Detail, "not a number")
}

func TestAnInterruptedRunReportsWhatHasRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var end time.Time
	r, err := Run(ctx, Options{Python: testenv.Python(t), Groups: []string{Faults}, Progress: func(c Check) {
		if end.IsZero() {
			end = time.Now()
			// In the middle of one of the checks that follow, which load models and start workers.
			time.AfterFunc(50*time.Millisecond, cancel)
		}
	}})
	require.NoError(t, err)
	require.Less(t, time.Since(end), 5*time.Minute)
	require.True(t, r.Interrupted)
	require.False(t, r.Passed())
	require.Equal(t, Passed, r.Checks[0].State)
	last := r.Checks[len(r.Checks)-1]
	require.Equal(t, []any{NotRun, "interrupted"}, []any{last.State, last.Detail})
	require.Zero(t, r.Count(Failed), "what was interrupted has not failed: %v", r.Checks)
	require.Contains(t, r.Verdict(), "interrupted")
}

func TestOutcomesOfACheck(t *testing.T) {
	b := &bench{missing: map[mlx.Engine]string{python: "no Python"}}
	try := func(c check) Check { c.name = "x"; return b.try(t.Context(), c) }
	returns := func(text string, err error) func(*bench, context.Context) (string, error) {
		return func(*bench, context.Context) (string, error) { return text, err }
	}
	require.Equal(t, Passed, try(check{engine: native, run: returns("fine", nil)}).State)
	failed := try(check{engine: native, run: returns("", errors.New("wrong"))})
	require.Equal(t, []any{Failed, "wrong"}, []any{failed.State, failed.Detail})
	panicked := try(check{engine: native, run: func(*bench, context.Context) (string, error) { panic("boom") }})
	require.Equal(t, Failed, panicked.State)
	require.Contains(t, panicked.Detail, "boom")
	require.Equal(t, NotRun, try(check{engine: native, run: returns("", errNotRun{"why"})}).State)
	require.Equal(t, "no Python", try(check{engine: python}).Detail)
	require.Equal(t, NotRun, try(check{engine: native, own: true}).State)
	require.False(t, (&Report{}).Passed(), "nothing was tested")
	require.Contains(t, (&Report{}).Verdict(), "nothing could be tested")
	require.Equal(t, "ModuleNotFoundError: No module named 'msgpack'", summary(errors.New("python -c x: exit status 1: Traceback (most recent call last):\n  File\nModuleNotFoundError: No module named 'msgpack'")))
	require.Equal(t, "first", summary(errors.New("first\nsecond")))
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/selftest"
)

func TestSelftestPrintsAReport(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	none := filepath.Join(t.TempDir(), "none")
	out, stderr, err := run(t, "", "selftest", "--json", "--html", page, "--only", "faults,memory", "--python", none)
	require.NoError(t, err)
	var r selftest.Report
	require.NoError(t, json.Unmarshal([]byte(out), &r))
	require.True(t, r.Passed())
	for _, c := range r.Checks {
		require.Contains(t, []string{"faults", "memory"}, c.Group)
	}
	require.Equal(t, "system", r.System[0].Name)
	require.Contains(t, stderr, "not run  faults: bad requests are errors, python engine")
	html, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(html), r.Verdict())

	out, stderr, err = run(t, "", "selftest", "-q", "--only", "memory", "--python", none)
	require.NoError(t, err)
	require.Empty(t, stderr)
	require.Contains(t, out, "requests leave nothing behind")
	require.NotContains(t, out, "benchmark")
}

func TestSelftestOfWhatIsNotThere(t *testing.T) {
	_, _, err := run(t, "", "selftest", "--only", "everything")
	require.ErrorContains(t, err, `no group "everything"`)
	require.True(t, isUsage(err))
	_, _, err = run(t, "", "selftest", "-q", filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.False(t, isUsage(err))
}

func TestReportsDoNotNameTheUser(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	require.Equal(t, "~/.venv/bin/python: no", withoutHome("/home/somebody/.venv/bin/python: no"))
	t.Setenv("HOME", "/")
	require.Equal(t, "/x", withoutHome("/x"))
}

package selftest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReportsFitATerminal(t *testing.T) {
	r := &Report{
		System: []Fact{{Name: "python engine", Detail: "/a/folder/with/a/long/name/.venv/bin/python: Python 3.11.7, mlx 0.32.2, mlx-lm 0.32.2, transformers 5.23.0"}},
		Checks: []Check{{Name: "python engine", Group: Benchmark, State: Failed, Detail: "an error\nTraceback (most recent call last):\n  File \"worker.py\", line 1, in a_function_with_a_name_that_is_longer_than_any_line_may_be\n\nthe end"}},
	}
	var b strings.Builder
	require.NoError(t, r.WriteText(&b))
	for line := range strings.Lines(b.String()) {
		if !strings.Contains(line, "File") { // code stays as it is
			require.LessOrEqual(t, len(strings.TrimSuffix(line, "\n")), 80, line)
		}
	}
	require.Contains(t, b.String(), "mlx\n               0.32.2, mlx-lm 0.32.2, transformers 5.23.0\n")
	require.Contains(t, b.String(), "\n             File \"worker.py\", line 1, in a_function_with_a_name_that_is_longer_than_any_line_may_be\n")
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAByteOrderMarkIsNoPartOfALabel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(file, []byte("\ufeffsport\r\n\r\nnight life\n"), 0o600))
	labels, err := readLines(file)
	require.NoError(t, err)
	require.Equal(t, []string{"sport", "night life"}, labels)
	var got []line
	require.NoError(t, eachBatch(strings.NewReader("\ufeffsport\tgoal\nfood\tsoup\n"), true, func(batch []line) error {
		got = append(got, batch...)
		return nil
	}))
	require.Equal(t, []line{{1, "sport", "goal"}, {2, "food", "soup"}}, got)
}

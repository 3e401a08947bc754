package mlx

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Few texts leave folds empty, which no head could be judged in.
func TestFoldsAreNumberedWithoutGaps(t *testing.T) {
	gaps := 0
	for n := range 200 {
		var texts []LabelledText
		for i := range 2 + n%12 {
			texts = append(texts, LabelledText{Text: fmt.Sprint("text ", n, i), Label: "a", Group: "one"})
		}
		texts = append(texts, LabelledText{Text: "x", Label: "b", Group: "one"}, LabelledText{Text: "y", Label: "b", Group: "two"})
		folds := foldsOf(texts)
		used := slices.Compact(slices.Sorted(slices.Values(folds)))
		for i, f := range used {
			require.Equal(t, i, f, "%v", folds)
		}
		if len(used) < groupFolds {
			gaps++
		}
	}
	require.Positive(t, gaps, "no case had an empty fold")
}

package stop

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The oracle looks for the stop strings in the whole text at once.
func TestMatcherFindsWhatAWholeSearchFinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte("ab "[rng.IntN(3)])
		}
		return b.String()
	}
	for range 3000 {
		var stops []string
		for range rng.IntN(3) + 1 {
			stops = append(stops, random(rng.IntN(4)+1))
		}
		whole := random(rng.IntN(30))
		want, found := whole, false
		// A stream ends at the first piece that completes a stop string; the earliest start counts there.
		m := NewMatcher(stops)
		got, stop := "", ""
		end := 0
		for rest := whole; rest != "" && stop == ""; {
			n := min(len(rest), rng.IntN(4)+1)
			var text string
			text, stop = m.Add(rest[:n])
			got, rest, end = got+text, rest[n:], end+n
		}
		if stop == "" {
			got += m.Finish()
		}
		first := -1
		for _, stop := range stops {
			if i := strings.Index(whole[:end], stop); i >= 0 && (first < 0 || i < first) {
				first, found = i, true
			}
		}
		if found {
			want = whole[:first]
		}
		if found {
			require.True(t, strings.HasPrefix(whole[first:], stop) && slices.Contains(stops, stop))
		}
		require.Equal(t, found, stop != "", fmt.Sprintf("%q in %q", stops, whole))
		require.Equal(t, want, got, fmt.Sprintf("%q in %q", stops, whole))
	}
}

func TestMatcherWithoutStopStringsWithholdsNoText(t *testing.T) {
	m := NewMatcher(nil)
	text, stop := m.Add("abc")
	require.Equal(t, "abc", text)
	require.Empty(t, stop)
	require.Empty(t, m.Finish())
}

package decode

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

func TestSnapshotsAreKeptAtTheBordersOfTurnsAndChunks(t *testing.T) {
	const end = 5
	turns := func(n int, at ...int) []int32 { // a prompt of n tokens with ends of turns before some positions
		ids := make([]int32, n)
		for _, i := range at {
			ids[i-1] = end
		}
		return ids
	}
	const chunk = decoder.PrefillChunk
	for name, c := range map[string]struct {
		prompt []int32
		done   int
		exact  bool
		want   []int
	}{
		"short":                        {prompt: turns(20, 10)},
		"one turn":                     {prompt: turns(60, 20), want: []int{20}},
		"turns that are too short":     {prompt: turns(100, 15, 20, 25, 40, 90), want: []int{20, 40}},
		"after what is known":          {prompt: turns(100, 20, 50), done: 30, want: []int{50}},
		"no turns":                     {prompt: turns(3*chunk + 5), want: []int{chunk, 2 * chunk}},
		"chunks begin where it begins": {prompt: turns(2 * chunk), done: 100, want: []int{chunk + 100}},
		"turns in chunks":              {prompt: turns(2*chunk, 300, chunk+5), want: []int{300, chunk}},
		"exact passes":                 {prompt: turns(2*chunk, 300), exact: true, want: []int{chunk}},
		"many": {
			prompt: turns(16*20+40, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300, 320),
			want:   []int{40, 80, 120, 160, 200, 240, 280, 320},
		},
	} {
		require.Equal(t, c.want, snapshotPlaces(c.prompt, c.done, map[int32]bool{end: true, 1: true}, c.exact), name)
	}
}

func TestAPassStopsAtTheNextPlace(t *testing.T) {
	st := &Stream{branch: 30, snapshots: []int{20, 40}}
	for done, want := range map[int]int{0: 20, 20: 30, 30: 40, 39: 40} {
		stop, ok := st.nextStop(done)
		require.True(t, ok)
		require.Equal(t, want, stop)
	}
	_, ok := st.nextStop(40)
	require.False(t, ok)
	_, ok = (&Stream{}).nextStop(0)
	require.False(t, ok)
}

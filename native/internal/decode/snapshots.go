package decode

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

// Snapshots. A sliding window that has moved on cannot go back, so when an earlier turn of a chat is edited, no kept KV of it could be
// used. While a prompt is prefilled, the KV at some of its borders is therefore kept too: after the ends of turns,
// and from chunk to chunk where these are far apart. A later prompt goes on from the nearest border before the place where it differs.
// Full attention can be cut back to any position, and needs no snapshots.

const (
	// maxSnapshots bounds those of one prompt, each of which is a copy of the KV.
	maxSnapshots = 8
	// minSnapshot is how many tokens there must be between two, and before the end, where the KV is kept anyway.
	minSnapshot = 16
)

// snapshotPlaces are the numbers of tokens of a prompt after which its KV is to be kept, in order, where the first done tokens are
// known already. ends are the tokens that end turns; with exact, passes must stay as they are, and only their own borders count.
func snapshotPlaces(prompt []int32, done int, ends map[int32]bool, exact bool) []int {
	var places []int
	before := done
	for at := done + minSnapshot; at <= len(prompt)-1-minSnapshot; at++ {
		turn, chunk := ends[prompt[at-1]] && !exact, (at-done)%decoder.PrefillChunk == 0
		if (turn || chunk) && at-before >= minSnapshot {
			places, before = append(places, at), at
		}
	}
	n := len(places)
	if n <= maxSnapshots {
		return places
	}
	spread := make([]int, maxSnapshots) // evenly, and the last
	for i := range spread {
		spread[i] = places[(i+1)*n/maxSnapshots-1]
	}
	return spread
}

// nextStop is where the next pass over the prompt must end at the latest: the next place where its KV is to be kept.
func (st *Stream) nextStop(done int) (stop int, ok bool) {
	for _, place := range append(slices.Clone(st.snapshots), st.branch) {
		if place > done && (!ok || place < stop) {
			stop, ok = place, true
		}
	}
	return stop, ok
}

package score

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

// What is cut into chunks follows from a row alone, not from the rest of its batch.
func TestWhichRowsAreLong(t *testing.T) {
	ids := func(n int) []int32 { return make([]int32, n) }
	for _, c := range []struct {
		prefix, tokens int
		long           bool
	}{{0, MaxBatchTokens, false}, {0, MaxBatchTokens + 1, true}, {100, MaxBatchTokens - 99, true}, {30000, decoder.PrefillChunk, false}, {30000, decoder.PrefillChunk + 1, true}} {
		require.Equal(t, c.long, isLong(c.prefix, c.tokens), "%v", c)
	}
	rows := []ScoreRow{{index: 0, IDs: ids(9)}, {index: 1, IDs: ids(9000)}, {index: 2, IDs: ids(10)}}
	short, long := splitLong(rows)
	require.Equal(t, []int{0, 2, 1}, []int{short[0].index, short[1].index, long[0].index})
	// A long prefix is held once for each row, so that few rows go together.
	many := slices.Repeat([]ScoreRow{{Prefix: ids(30000), IDs: ids(5)}}, 64)
	require.Equal(t, 1, batchSize(many))
	require.Equal(t, 64, batchSize(slices.Repeat([]ScoreRow{{Prefix: ids(100), IDs: ids(30)}}, 100)))
}

func TestPrefixIsSharedOnlyWhereItIsOne(t *testing.T) {
	require.Equal(t, []int32{1, 2}, commonPrefix([]int32{1, 2, 3, 4}, []int32{1, 2, 5}))
	require.Equal(t, []int32{1, 2}, commonPrefix([]int32{1, 2, 3}, []int32{1, 2, 3}), "the last id is the row's own")
	require.Empty(t, commonPrefix([]int32{1}, []int32{1, 2}))
}

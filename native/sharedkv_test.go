package native

import (
	"iter"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// requireGreedy checks that every token is the most likely one after the tokens before it, but for rounding: all rows are
// recomputed in one pass, alone.
func requireGreedy(t *testing.T, m *Model, prompt, made []int32) {
	t.Helper()
	ids := slices.Concat(prompt, made)
	trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1, Rows: 1})
	require.NoError(t, err)
	vocab := m.network.Shape.VocabSize
	require.Len(t, trace.Logits, len(ids)*vocab)
	for i, id := range made {
		row := trace.Logits[(len(prompt)+i-1)*vocab:][:vocab]
		require.InDelta(t, slices.Max(row), row[id], 0.5, "token %d", i)
	}
}

// Of streams that decode together, one is not read for a while. The others must be fed the tokens that they drew, also in
// steps that only one or some of them take.
func TestAPausedReaderDoesNotChangeOtherStreams(t *testing.T) {
	for name, c := range map[string]struct{ readers, paused int }{"one of two": {2, 1}, "one of three": {3, 1}, "two of three": {3, 2}} {
		t.Run(name, func(t *testing.T) {
			m := openSharing(t, engine.NativeOptions{})
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.MaxTokens = true, 60
			texts := []string{"Where can I find", "Le chef", "Der Torwart hat den Ball"}
			prompts, made := make([][]int32, c.readers), make([][]int32, c.readers)
			next := make([]func() (engine.Token, error, bool), c.readers)
			for i := range next {
				var err error
				prompts[i], err = m.Encode(t.Context(), texts[i], true)
				require.NoError(t, err)
				var stop func()
				next[i], stop = iter.Pull2(m.Generate(t.Context(), engine.Prompt{IDs: prompts[i]}, o))
				defer stop()
			}
			read := func(i, n int) {
				for range n {
					token, err, ok := next[i]()
					require.NoError(t, err)
					require.True(t, ok)
					made[i] = append(made[i], token.ID)
				}
			}
			for i := range next {
				read(i, 1)
			}
			for i := c.paused; i < c.readers; i++ { // far enough for the others to be left behind
				read(i, 40)
			}
			for i := range next {
				read(i, o.MaxTokens-len(made[i]))
				requireGreedy(t, m, prompts[i], made[i])
				require.Greater(t, len(slices.Compact(slices.Sorted(slices.Values(made[i])))), 3, "an older token would make a difference")
			}
		})
	}
}

// A cache grows by blocks from its present size, so that what is kept of one prompt and prefilled of another may have more
// room than a batch gives its members.
func TestKeptKVOfAnyLengthJoinsABatch(t *testing.T) {
	m := openSharing(t, engine.NativeOptions{PromptCache: 64 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 4
	ask := func(prompts ...[]int32) {
		t.Helper()
		for i, a := range together(t, m, prompts, o) {
			require.NoError(t, a.err)
			require.Len(t, a.ids, o.MaxTokens)
			requireGreedy(t, m, prompts[i], a.ids)
		}
	}
	known := numbers(300, 311)
	ask(known)
	cached := m.owner.Counters.Prompt.Load()
	ask(append(slices.Clone(known[:310]), numbers(2000, 300)...), numbers(900, 20))
	require.Less(t, m.owner.Counters.Prompt.Load()-cached, int64(400), "what was kept is used")

	// From a file comes a cache without any room.
	path := filepath.Join(t.TempDir(), "cache.safetensors")
	require.NoError(t, m.SavePromptCache(t.Context(), path))
	require.NoError(t, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
	require.NoError(t, m.LoadPromptCache(t.Context(), path))
	ask(known, numbers(900, 20), numbers(1300, 25))
}

package native

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// A stream that goes on from a file's KV takes a draft's wrong proposals back, as one that computed its prompt does: also where a sliding
// window has moved on, of which a file has no more than the window.
func TestADraftGoesOnFromTheKVOfAFile(t *testing.T) {
	wrong := testenv.CopyModel(t)
	testenv.EditJSON(t, wrong, "config.json", func(c map[string]any) { c["rope_theta"], c["query_pre_attn_scalar"] = 10, 9000 })
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.DraftTokens = true, 40, 12
	for name, exact := range map[string]bool{"kernels": false, "exact": true} {
		t.Run(name, func(t *testing.T) { testADraftGoesOnFromTheKVOfAFile(t, exact, wrong, o) })
	}
}

func testADraftGoesOnFromTheKVOfAFile(t *testing.T, exact bool, wrong string, o engine.GenerateOptions) {
	plain := openWith(t, engine.NativeOptions{PromptCache: 64 << 20, Exact: exact})
	long, err := plain.Encode(t.Context(), strings.Join(testenv.Texts(t)[:14], " "), true)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "prompts")
	for _, n := range []int{20, 33, 40, 95, 96, 97, 200} { // the window is 32
		p := engine.Prompt{IDs: long[:n]}
		withoutDraft := o
		withoutDraft.DraftTokens = 0
		var want, got answer
		want.run(t.Context(), plain, p, withoutDraft)
		require.NoError(t, want.err)
		require.NoError(t, plain.SavePromptCache(t.Context(), path))
		drafted, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Draft: wrong, PromptCache: 64 << 20, Exact: exact})
		require.NoError(t, err)
		require.NoError(t, drafted.LoadPromptCache(t.Context(), path))
		got.run(t.Context(), drafted, p, o)
		require.Less(t, drafted.owner.Counters.Prompt.Load(), int64(n), "the file is used")
		require.NoError(t, drafted.Close())
		require.NoError(t, got.err, "%d tokens", n)
		if !exact { // whose passes of several tokens round otherwise
			require.Equal(t, want.ids, got.ids, "%d tokens", n)
		}
	}
}

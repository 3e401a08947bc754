package native

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// prompts that begin alike in many ways: the same again, longer, shorter, parting early, late and within
// the sliding window of 32 positions, or after it.
func alikePrompts(t *testing.T, m *Model) [][]int32 {
	t.Helper()
	text := ""
	for _, line := range testenv.Texts(t)[:14] {
		text += line + " "
	}
	ids, err := m.Encode(t.Context(), text, true)
	require.NoError(t, err)
	require.Greater(t, len(ids), 200)
	with := func(n int, rest ...int32) []int32 { return append(slices.Clone(ids[:n]), rest...) }
	return [][]int32{
		with(200), with(200), with(120), with(150, 400, 401), with(150, 500), with(150, 500, 501, 502), with(20, 300),
		with(20, 300, 301), with(25), with(31), with(32), with(33), with(34), with(199), with(200, 700), with(10, 900), with(1), with(2),
	}
}

func TestAnswersFromTheCacheAreThoseWithoutIt(t *testing.T) {
	plain := open(t)
	cached := openWith(t, engine.NativeOptions{PromptCache: 64 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 12, true
	reused := false
	for round := range 2 {
		for i, ids := range alikePrompts(t, plain) {
			var cold, warm answer
			cold.run(t.Context(), plain, engine.Prompt{IDs: ids}, o)
			before, err := cached.Metrics(t.Context())
			require.NoError(t, err)
			warm.run(t.Context(), cached, engine.Prompt{IDs: ids}, o)
			after, err := cached.Metrics(t.Context())
			require.NoError(t, err)
			require.NoError(t, warm.err)
			reused = reused || after.PromptTokens-before.PromptTokens < int64(len(ids))
			if round == 1 {
				require.EqualValues(t, 1, after.PromptTokens-before.PromptTokens, "prompt %d is known", i)
			}
			// The passes have other lengths, so bfloat16 rounds elsewhere; what a wrong window does is
			// larger by far (see the next test).
			for k := range cold.ids {
				require.InDelta(t, cold.logprobs[k], warm.logprobs[k], 0.2, "round %d, prompt %d, token %d", round, i, k)
				if cold.ids[k] != warm.ids[k] {
					break
				}
			}
		}
	}
	require.True(t, reused)
}

// A chat is asked, and then edited in one of its turns: the answer is that without a cache, and the turns before are not
// computed again, though sliding windows cannot go back.
func TestAnEditedChatGoesOnFromTheTurnBefore(t *testing.T) {
	texts := testenv.Texts(t)
	long := func(i int) string { return strings.Join(texts[4*i:4*i+4], " ") }
	chat := func(edited int) []engine.Message {
		var messages []engine.Message
		for i := range 7 {
			role := []string{"user", "assistant"}[i%2]
			content := long(i)
			if i == edited {
				content = "Something else: " + long(i+10)
			}
			messages = append(messages, engine.Message{Role: role, Content: content})
		}
		return messages
	}
	for name, exact := range map[string]bool{"kernels": false, "exact": true} {
		t.Run(name, func(t *testing.T) {
			plain := openWith(t, engine.NativeOptions{Exact: exact})
			cached := openWith(t, engine.NativeOptions{Exact: exact, PromptCache: 64 << 20})
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 12, true
			// First the chat as it is, then edited in ever earlier turns; of passes by MLX's ops, which are slow, only some.
			for _, edited := range map[bool][]int{false: {7, 6, 5, 4, 3, 2, 1, 0}, true: {7, 3}}[exact] {
				ask := func(m *Model) (a answer, cached int) {
					for tok, err := range m.Generate(t.Context(), engine.Prompt{Messages: chat(edited)}, o) {
						require.NoError(t, err)
						a.ids, a.logprobs, cached = append(a.ids, tok.ID), append(a.logprobs, tok.LogProb), tok.CachedTokens
					}
					return a, cached
				}
				want, _ := ask(plain)
				got, reused := ask(cached)
				if plain.network.Shape.Rings {
					require.Equal(t, want, got, "edited in turn %d", edited)
				} else {
					require.InDeltaSlice(t, want.logprobs[:1], got.logprobs[:1], 0.2, "edited in turn %d", edited)
				}
				before, err := cached.EncodeChat(t.Context(), chat(7)[:max(1, edited)], o)
				require.NoError(t, err)
				t.Logf("edited in turn %d: %d of %d tokens before it", edited, reused, len(before))
				if edited == 7 {
					require.Zero(t, reused)
				} else if edited >= 1 {
					require.GreaterOrEqual(t, reused, len(before)-12, "all but the opening of the next turn, which EncodeChat adds")
				}
			}
		})
	}
}

func TestThePromptCacheKeepsItsBudget(t *testing.T) {
	const budget = 3 << 20
	m := openWith(t, engine.NativeOptions{PromptCache: budget})
	before := mlxtest.Measure(t)
	largest := int64(0)
	for i := range 30 {
		ids := []int32{2}
		for k := range 40 {
			ids = append(ids, int32(300+i*7+k))
		}
		var a answer
		o := engine.DefaultGenerateOptions()
		o.MaxTokens = 2
		a.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
		require.NoError(t, a.err)
		metrics, err := m.Metrics(t.Context())
		require.NoError(t, err)
		largest = max(largest, metrics.PromptCacheBytes)
		require.LessOrEqual(t, metrics.PromptCacheBytes, int64(budget))
	}
	require.Greater(t, largest, int64(budget/2))
	require.NoError(t, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
	require.Equal(t, before, mlxtest.Measure(t))
}

func TestABudgetIsKeptBeforeAnythingIsAllocated(t *testing.T) {
	_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{MemoryBudget: 1 << 20})
	require.ErrorIs(t, err, engine.ErrBudget)
	before := mlxtest.Measure(t)
	weights := int64(0)
	func() {
		m := open(t)
		weights = m.info.WeightBytes
	}()
	budget := int64(before.Active) + 2*weights + 18<<20
	m := openWith(t, engine.NativeOptions{MemoryBudget: budget, PromptCache: 8 << 20})
	require.NoError(t, mlxc.ResetPeak())
	refused, served := 0, 0
	for i := range 20 {
		ids := make([]int32, 100*(i+1)-1)
		for k := range ids {
			ids[k] = int32(300 + (k+i)%500)
		}
		o := engine.DefaultGenerateOptions()
		o.IgnoreEOS, o.MaxTokens = true, 20
		var a answer
		a.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
		memory, err := mlxc.ReadMemory()
		require.NoError(t, err)
		require.LessOrEqual(t, int64(memory.Peak), budget, fmt.Sprint(len(ids), " tokens"))
		if a.err == nil {
			served++
			continue
		}
		var over *engine.BudgetError
		require.ErrorAs(t, a.err, &over)
		require.Equal(t, budget, over.Budget)
		refused++
	}
	require.Positive(t, served)
	require.Positive(t, refused)
	// A small request still fits.
	var a answer
	a.run(t.Context(), m, engine.Prompt{Text: "Please"}, engine.DefaultGenerateOptions())
	require.NoError(t, a.err)
}

func TestThePromptCacheGoesThroughAFile(t *testing.T) {
	m := openWith(t, engine.NativeOptions{PromptCache: 64 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 40, true
	prompts := alikePrompts(t, m)
	for _, ids := range prompts {
		var a answer
		a.run(t.Context(), m, engine.Prompt{IDs: ids}, o)
		require.NoError(t, a.err)
	}
	file := filepath.Join(t.TempDir(), "prompts.safetensors")
	before := mlxtest.Measure(t)
	require.NoError(t, m.SavePromptCache(t.Context(), file))
	require.Equal(t, before, mlxtest.Measure(t))
	want := make([]answer, len(prompts))
	for i, ids := range prompts {
		want[i].run(t.Context(), m, engine.Prompt{IDs: ids}, o)
	}
	// As the next process does. On an NVIDIA GPU only one model of a process computes tokens in one launch, and last bits are its own.
	require.NoError(t, m.Close())
	for round := range 2 {
		loaded := openWith(t, engine.NativeOptions{PromptCache: 64 << 20})
		require.NoError(t, loaded.LoadPromptCache(t.Context(), file))
		for i, ids := range prompts {
			var got answer
			got.run(t.Context(), loaded, engine.Prompt{IDs: ids}, o)
			if round == 0 && m.info.Device != "cpu:0" {
				// The least that must hold on a GPU; docs/native.md says what is seen there.
				requireTheSameButForRounding(t, want[i], got)
				want[i] = got
				continue
			}
			require.Equal(t, want[i], got)
		}
		metrics, err := loaded.Metrics(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, len(prompts), metrics.PromptTokens, "one token of each prompt was computed")
		require.NoError(t, loaded.Close())
	}

	data, err := os.ReadFile(file)
	require.NoError(t, err)
	fresh := openWith(t, engine.NativeOptions{PromptCache: 64 << 20})
	atStart := mlxtest.Measure(t)
	for name, broken := range map[string][]byte{
		"empty":            nil,
		"cut off":          data[:len(data)/2],
		"another format":   bytes.Replace(data, []byte("prompt cache 1"), []byte("prompt cache 9"), 1),
		"another model":    bytes.Replace(data, []byte(m.fingerprint), bytes.Repeat([]byte("0"), 64), 1),
		"another window":   bytes.Replace(data, []byte(`\"window\":32`), []byte(`\"window\":33`), 1),
		"another offset":   bytes.Replace(data, []byte(`\"held\":32`), []byte(`\"held\":31`), 1),
		"another shape":    bytes.Replace(data, []byte(`"shape":[1,1,32,32]`), []byte(`"shape":[1,32,1,32]`), 1),
		"not a file of it": []byte("hello, this is text"),
	} {
		bad := filepath.Join(t.TempDir(), "bad.safetensors")
		require.NoError(t, os.WriteFile(bad, broken, 0o644))
		require.False(t, bytes.Equal(broken, data), name)
		require.Error(t, fresh.LoadPromptCache(t.Context(), bad), name)
		require.Equal(t, atStart, mlxtest.Measure(t), name)
	}
	require.Error(t, fresh.LoadPromptCache(t.Context(), "/no/such/file"))
	require.Error(t, fresh.SavePromptCache(t.Context(), "/no/such/folder/file"))
	plain := open(t)
	var option *engine.OptionError
	require.ErrorAs(t, plain.SavePromptCache(t.Context(), file), &option)
}

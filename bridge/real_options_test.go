//go:build unix

package bridge

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// references are what mlx-lm generates by itself, for several requests with one start of Python.
func references(t *testing.T, requests map[string]any) (ids map[string][]int32) {
	t.Helper()
	testenv.RunPython(t, "reference.py", requests, &ids)
	return ids
}

var optionPrompt = []int32{2, 376, 377, 1069, 304, 1892, 1412, 410, 1238, 266}

func TestRealAdapterDraftAndQuantizedKVAreMLXLMs(t *testing.T) {
	// Models whose caches have no window, and an adapter for the first; and one whose cache can be short.
	dir, other := testenv.CopyModel(t), testenv.CopyModel(t)
	adapter, qwen := filepath.Join(t.TempDir(), "adapter"), filepath.Join(t.TempDir(), "qwen")
	testenv.RunPython(t, "make_mistral.py", nil, new(bool), dir, "1", adapter, other, "2")
	out, err := exec.Command(testenv.Python(t), filepath.Join(testenv.Root(), "tests", "models", "random_model.py"), "qwen3-small", qwen).CombinedOutput()
	require.NoError(t, err, string(out))
	o := longOptions(60)
	prompt := engine.Prompt{IDs: optionPrompt}
	request := func(model string, more map[string]any) map[string]any {
		r := map[string]any{"model": model, "ids": optionPrompt, "max_tokens": 60}
		maps.Copy(r, more)
		return r
	}
	want := references(t, map[string]any{
		"plain":   request(dir, nil),
		"adapter": request(dir, map[string]any{"adapter": adapter}),
		"cache":   request(dir, map[string]any{"kv_bits": 4, "kv_group_size": 64, "quantized_kv_start": 5}),
		"short":   request(qwen, map[string]any{"max_kv_size": 16}),
	})
	plain := want["plain"]
	require.Len(t, plain, 60)

	t.Run("adapter", func(t *testing.T) {
		m := loadReal(t, []func(*Options){func(o *Options) { o.Adapter = adapter }}, dir)
		got, err := drain(t.Context(), m, prompt, o)
		require.NoError(t, err)
		require.Equal(t, want["adapter"], got)
		require.NotEqual(t, plain, got)
	})
	alone := loadReal(t, nil, dir)
	t.Run("cache", func(t *testing.T) {
		m := alone
		got, err := drain(t.Context(), m, prompt, o)
		require.NoError(t, err)
		require.Equal(t, plain, got)
		quantised := o
		quantised.KVBits, quantised.KVGroupSize, quantised.KVStart = 4, 64, 5
		got, err = drain(t.Context(), m, prompt, quantised)
		require.NoError(t, err)
		require.Equal(t, want["cache"], got)
		drafted := o
		drafted.DraftTokens = 2
		_, err = drain(t.Context(), m, prompt, drafted)
		requireOption(t, err, "DraftTokens")
	})
	t.Run("short cache", func(t *testing.T) {
		m := loadReal(t, nil, qwen)
		short := o
		short.MaxKVSize = 16
		got, err := drain(t.Context(), m, prompt, short)
		require.NoError(t, err)
		require.Equal(t, want["short"], got)
	})
	// Drafts change the speed and not the text: neither a perfect draft nor a useless one.
	for name, draft := range map[string]string{"perfect draft": dir, "useless draft": other} {
		t.Run(name, func(t *testing.T) {
			m := loadReal(t, []func(*Options){func(o *Options) { o.Draft = draft }}, dir)
			for _, n := range []int{0, 1, 5} {
				o.DraftTokens = n
				got, err := drain(t.Context(), m, prompt, o)
				require.NoError(t, err)
				require.Equal(t, plain, got)
			}
			seeded := o
			seeded.Temperature, seeded.Seed, seeded.HasSeed, seeded.TopP = 0.9, 4, true, 0.9
			for _, penalty := range []float32{1, 1.3} {
				seeded.RepetitionPenalty, seeded.DraftTokens = penalty, 0
				undrafted, err := drain(t.Context(), alone, prompt, seeded)
				require.NoError(t, err)
				seeded.DraftTokens = 3
				got, err := drain(t.Context(), m, prompt, seeded)
				require.NoError(t, err)
				require.Equal(t, undrafted, got, "the seed decides, not the draft")
			}
			short := o
			short.MaxKVSize = 16
			_, err := drain(t.Context(), m, prompt, short)
			requireOption(t, err, "MaxKVSize")
		})
	}
}

func requireOption(t *testing.T, err error, name string) {
	t.Helper()
	var option *engine.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, name, option.Option)
}

func TestRealOptionsThatTheArchitectureCannotHonour(t *testing.T) {
	m := loadReal(t, []func(*Options){func(o *Options) { o.Draft = testenv.Model(t) }})
	prompt := engine.Prompt{Text: "Please"}
	drafted := longOptions(20)
	got, err := drain(t.Context(), m, prompt, drafted)
	require.NoError(t, err)
	require.Len(t, got, 20)
	_, err = drain(t.Context(), m, prompt, longOptions(600))
	requireOption(t, err, "DraftModel") // beyond the sliding window
	quantised := longOptions(5)
	quantised.KVBits, quantised.KVGroupSize = 4, 32
	_, err = drain(t.Context(), m, prompt, quantised)
	requireOption(t, err, "QuantizedKV")
	plain := loadReal(t, nil)
	short := longOptions(5)
	short.MaxKVSize = 64
	_, err = drain(t.Context(), plain, prompt, short)
	requireOption(t, err, "MaxKVSize")
	for _, o := range []Options{{Adapter: t.TempDir()}, {Draft: t.TempDir()}} {
		o.Python = testenv.Python(t)
		_, err = Load(t.Context(), testenv.Model(t), o)
		require.ErrorContains(t, err, "is not a")
	}
}

func TestRealPromptCacheChangesNothingButTheWork(t *testing.T) {
	const limit = 2 << 20
	cold := loadReal(t, nil)
	warm := loadReal(t, []func(*Options){func(o *Options) { o.PromptCache = limit }})
	var chat []engine.Message
	for turn := range 4 {
		chat = append(chat, engine.Message{Role: "user", Content: strings.Repeat("Where can I find the team? ", 1+3*turn)})
		o := longOptions(30)
		o.Session = "one"
		done := int64(-1)
		want, err := drain(t.Context(), cold, engine.Prompt{Messages: chat}, o)
		require.NoError(t, err)
		o.Events = func(e engine.Event) {
			if done < 0 {
				done = e.Total
			}
		}
		got, err := drain(t.Context(), warm, engine.Prompt{Messages: chat}, o)
		require.NoError(t, err)
		require.Equal(t, want, got, "turn %d", turn)
		text, err := warm.Decode(t.Context(), got)
		require.NoError(t, err)
		chat = append(chat, engine.Message{Role: "assistant", Content: text})
		var metrics engine.Metrics
		require.Eventually(t, func() bool { // a worker that does not answer soon is represented by its last heartbeat
			metrics, err = warm.Metrics(t.Context())
			return err != nil || metrics.PromptCacheBytes > 0
		}, aWhile, time.Millisecond)
		require.NoError(t, err)
		require.LessOrEqual(t, metrics.PromptCacheBytes, int64(limit))
		if turn == 0 {
			// The same again: all but one token is kept.
			done = -1
			_, err = drain(t.Context(), warm, engine.Prompt{Messages: chat[:1]}, o)
			require.NoError(t, err)
			require.EqualValues(t, 1, done, "tokens that were prefilled")
		}
	}
	metrics, err := cold.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.PromptCacheBytes)
}

func TestRealBatchOfOneTakesTurns(t *testing.T) {
	turns := loadReal(t, []func(*Options){func(o *Options) { o.Batch = 1 }})
	withOtherStreams(t, turns, undisturbed(t, turns), nil)
}

// On a GPU this, and not the batch, gives the same tokens alone and beside others.
func soloStreams(t *testing.T, m *Model) {
	prompts, options := otherStreams()
	solo := func(i int) []int32 {
		o := options[i]
		o.Solo = true
		ids, err := drain(t.Context(), m, engine.Prompt{Text: prompts[i]}, o)
		if err != nil {
			t.Error(err)
		}
		return ids
	}
	var want, got [4][]int32
	for i := range want {
		want[i] = solo(i)
	}
	var group sync.WaitGroup
	for i := range got {
		group.Go(func() { got[i] = solo(i) })
		group.Go(func() { _, _ = drain(t.Context(), m, engine.Prompt{Text: prompts[i]}, options[i]) })
	}
	group.Wait()
	require.Equal(t, want, got)
}

func TestRealTemplateSeesToolsAndArguments(t *testing.T) {
	dir := testenv.CopyModel(t)
	template := `{{ messages[0].content }} {% for k in tools[0] %}{{ k }} {{ tools[0][k] }} {% endfor %}{{ flavour }} {{ messages[1].tool_calls[0].function.arguments.b }}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o644))
	m := loadReal(t, nil, dir)
	o := longOptions(20)
	o.Tools = []byte(`[{"z":"last","a":"first"}]`)
	o.TemplateArguments = map[string]any{"flavour": "salt"}
	call := engine.ToolCall{Type: "function", Function: engine.FunctionCall{Name: "f", Arguments: []byte(`{"b":"soup"}`)}}
	messages := []engine.Message{{Role: "user", Content: "Where"}, {Role: "assistant", ToolCalls: []engine.ToolCall{call}}}
	got, err := drain(t.Context(), m, engine.Prompt{Messages: messages}, o)
	require.NoError(t, err)
	ids, err := m.Encode(t.Context(), "Where z last a first salt soup", false)
	require.NoError(t, err)
	want, err := drain(t.Context(), m, engine.Prompt{IDs: ids}, longOptions(20))
	require.NoError(t, err)
	require.Equal(t, want, got)
	o.Tools = []byte(`{"not":"a list"}`)
	_, err = drain(t.Context(), m, engine.Prompt{Messages: messages}, o)
	requireOption(t, err, "Tools")
}

func segmentsAreTheText(t *testing.T, m *Model) {
	o := longOptions(40)
	o.Segments = true
	text, segments := "", ""
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Where can"}, o) {
		require.NoError(t, err)
		text += tok.Text
		for _, s := range tok.Segments {
			require.Equal(t, engine.SegmentNormal, s.Kind)
			segments += s.Text
		}
	}
	require.NotEmpty(t, text)
	require.Equal(t, text, segments)
}

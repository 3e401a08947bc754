package native

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

func TestStreamedTextIsTheWholeText(t *testing.T) {
	m := open(t)
	for seed := range uint64(8) {
		ids, text := collect(t, m, "Le chef", func(o *engine.GenerateOptions) {
			o.MaxTokens, o.Temperature, o.Seed, o.HasSeed = 60, 1.5, seed, true
		})
		whole, err := m.Decode(t.Context(), ids)
		require.NoError(t, err)
		require.Equal(t, whole, text)
	}
}

// The CPU kernels give a request the same bits beside any others. Elsewhere a pass of several rows rounds otherwise than that of one, and what is drawn
// can be another token: there Solo keeps a request by itself, and only that is promised.
func TestASeededRequestIsTheSameAloneAndBesideConcurrentOnes(t *testing.T) {
	withAndWithoutSharedKV(t, func(t *testing.T, m *Model) {
		ask := func(seed uint64, solo bool) (a answer) {
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.LogProbs, o.Solo = true, true, solo
			o.MaxTokens, o.Temperature, o.Seed, o.HasSeed = 40, 1.2, seed, true
			a.run(t.Context(), m, engine.Prompt{Text: "Please check"}, o)
			return a
		}
		solo := !m.network.Shape.Rings
		alone := ask(11, solo)
		require.NoError(t, alone.err)
		require.Len(t, alone.ids, 40)
		var wg sync.WaitGroup
		got := make([]answer, 3)
		for i := range got {
			wg.Go(func() { got[i] = ask(11, solo) })
			wg.Go(func() { ask(uint64(i), false) })
			wg.Go(func() {
				if _, err := m.Classify(t.Context(), []string{"goal", "soup"}, domainOptions(t)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, a := range got {
			require.Equal(t, alone, a)
		}
	})
}

func TestUnseededRequestsDiffer(t *testing.T) {
	m := open(t)
	sample := func(o *engine.GenerateOptions) { o.MaxTokens, o.Temperature = 30, 2 }
	a, _ := collect(t, m, "Please", sample)
	b, _ := collect(t, m, "Please", sample)
	require.NotEqual(t, a, b)
}

// Decoding goes token by token through the KV caches; a pass over the whole sequence uses none. Both
// must see the same, also beyond the sliding window of 32 positions.
func TestCachedDecodingMatchesAPassWithoutCache(t *testing.T) {
	m := open(t)
	prompt, err := m.Encode(t.Context(), "Where can I find", true)
	require.NoError(t, err)
	ids, _ := collect(t, m, "Where can I find", func(o *engine.GenerateOptions) { o.MaxTokens = 90 })
	trace, err := m.Trace(t.Context(), append(slices.Clone(prompt), ids[:len(ids)-1]...), engine.TraceOptions{OpsOf: -1})
	require.NoError(t, err)
	vocab := m.network.Shape.VocabSize
	for i, id := range ids {
		row := trace.Logits[(len(prompt)-1+i)*vocab:][:vocab]
		best := slices.Max(row)
		// bfloat16 rounds differently in passes of other shapes: the token must be the best but for that.
		require.InDelta(t, best, row[id], 0.13, "token %d", i)
	}
}

func TestLongPromptsArePrefilledInChunksWithTheSameResult(t *testing.T) {
	m := open(t)
	long := strings.Repeat("Please check the order. ", 130)
	ids, err := m.Encode(t.Context(), long, true)
	require.NoError(t, err)
	require.Greater(t, len(ids), decoder.PrefillChunk+100)
	tokens, _ := collect(t, m, long, func(o *engine.GenerateOptions) { o.MaxTokens = 1 })
	trace, err := m.Trace(t.Context(), ids, engine.TraceOptions{OpsOf: -1})
	require.NoError(t, err)
	vocab := m.network.Shape.VocabSize
	row := trace.Logits[(len(ids)-1)*vocab:]
	require.InDelta(t, slices.Max(row), row[tokens[0]], 0.13)
}

func TestContextLengthIsALimitWithAClearError(t *testing.T) {
	m := open(t)
	huge := engine.Prompt{Text: strings.Repeat("Please check the order. ", 2000)}
	for _, err := range m.Generate(t.Context(), huge, engine.DefaultGenerateOptions()) {
		var tooLong *engine.ContextLengthError
		require.ErrorAs(t, err, &tooLong)
		require.Equal(t, 2048, tooLong.Limit)
	}
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens = true, 10
	ids := make([]int32, 2045)
	count := 0
	for tok, err := range m.Generate(t.Context(), engine.Prompt{IDs: ids}, o) {
		require.NoError(t, err)
		if count++; tok.FinishReason != "" {
			require.Equal(t, engine.FinishLength, tok.FinishReason)
			require.Equal(t, 2045, tok.PromptTokens)
		}
	}
	require.Equal(t, 3, count, "prompt and answer together fill the context")
}

func TestCancelStopsInPrefill(t *testing.T) {
	m := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	ids := make([]int32, 2000)
	o := engine.DefaultGenerateOptions()
	// The scheduler waits for its reader before the next chunk but one, so the prompt is not through when this is called.
	o.Events = func(engine.Event) { cancel() }
	var last error
	for _, err := range m.Generate(ctx, engine.Prompt{IDs: ids}, o) {
		last = err
	}
	require.ErrorIs(t, last, context.Canceled)
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Less(t, metrics.PromptTokens, int64(2000), "the rest of the prompt was not computed")
}

func TestCloseWhileStreaming(t *testing.T) {
	before := mlxtest.Measure(t)
	m := open(t)
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS = true
	var last error
	count := 0
	for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "Please"}, o) {
		last = err
		if count++; count == 4 {
			require.NoError(t, m.Close()) // from within the loop
			require.Equal(t, before, mlxtest.Measure(t), "everything is back before the stream has ended")
		}
	}
	require.ErrorIs(t, last, engine.ErrClosed)
	require.Equal(t, 5, count)
	require.NoError(t, m.Close())
	for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "x"}, o) {
		require.ErrorIs(t, err, engine.ErrClosed)
	}
	_, err := m.Classify(t.Context(), []string{"x"}, domainOptions(t))
	require.ErrorIs(t, err, engine.ErrClosed)
	_, err = m.Encode(t.Context(), "x", true)
	require.ErrorIs(t, err, engine.ErrClosed)
	_, err = m.Metrics(t.Context())
	require.ErrorIs(t, err, engine.ErrClosed)
}

func TestCloseFromManySidesAtOnce(t *testing.T) {
	before := mlxtest.Measure(t)
	for range 5 {
		m := open(t)
		var wg, begun sync.WaitGroup
		begun.Add(4)
		for range 4 {
			wg.Go(func() {
				o := engine.DefaultGenerateOptions()
				o.IgnoreEOS = true
				first := sync.OnceFunc(begun.Done)
				for _, err := range m.Generate(context.Background(), engine.Prompt{Text: "Please"}, o) {
					first()
					if err != nil {
						if err.Error() != engine.ErrClosed.Error() {
							t.Errorf("stream ended with %v", err)
						}
					}
				}
			})
		}
		begun.Wait()
		for range 3 {
			wg.Go(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, before, mlxtest.Measure(t))
	}
}

func TestStopTokensAndEndTokens(t *testing.T) {
	m := open(t)
	ids, _ := collect(t, m, "Where can I find", func(o *engine.GenerateOptions) { o.MaxTokens = 20 })
	stop := ids[7]
	at := slices.Index(ids, stop)
	got, _ := collect(t, m, "Where can I find", func(o *engine.GenerateOptions) { o.StopTokens = []int32{stop} })
	require.Equal(t, ids[:at+1], got, "the stop token is the last token")
	o := engine.DefaultGenerateOptions()
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Messages: []engine.Message{{Role: "user", Content: "Hi"}}}, o) {
		require.NoError(t, err)
		if tok.FinishReason == engine.FinishStop {
			require.True(t, m.encoder.EOS[tok.ID])
		}
	}
}

func TestBadInputIsRefused(t *testing.T) {
	m := open(t)
	first := func(p engine.Prompt, change func(*engine.GenerateOptions)) error {
		o := engine.DefaultGenerateOptions()
		if change != nil {
			change(&o)
		}
		for _, err := range m.Generate(t.Context(), p, o) {
			return err
		}
		return nil
	}
	require.ErrorIs(t, first(engine.Prompt{Text: "a\xffb"}, nil), engine.ErrInvalidUTF8)
	require.ErrorIs(t, first(engine.Prompt{}, nil), engine.ErrEmptyPrompt)
	require.ErrorContains(t, first(engine.Prompt{Messages: []engine.Message{{Role: "assistant", Content: "x"}}}, nil), "roles must alternate")
	for name, change := range map[string]func(*engine.GenerateOptions){
		"MaxTokens":  func(o *engine.GenerateOptions) { o.MaxTokens = 0 },
		"TopP":       func(o *engine.GenerateOptions) { o.TopP = 1.1 },
		"StopTokens": func(o *engine.GenerateOptions) { o.StopTokens = []int32{4160} },
	} {
		var bad *engine.OptionError
		require.ErrorAs(t, first(engine.Prompt{Text: "x"}, change), &bad)
		require.Equal(t, name, bad.Option)
	}
}

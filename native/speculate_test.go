package native

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// A draft changes the speed and not the text: neither a perfect one nor one that is nearly always wrong, far
// beyond the sliding window of 32 tokens.
func TestADraftDoesNotChangeTheText(t *testing.T) {
	wrong := testenv.CopyModel(t)
	testenv.EditJSON(t, wrong, "config.json", func(c map[string]any) { c["rope_theta"], c["query_pre_attn_scalar"] = 10, 9000 })
	plain := open(t)
	prompts := []string{"Where can I find", strings.Join(testenv.Texts(t)[:6], " "), "x"}
	for name, c := range map[string]struct {
		draft  string
		change func(o *engine.GenerateOptions)
	}{
		"perfect":         {testenv.Model(t), nil},
		"wrong":           {wrong, nil},
		"one at a time":   {wrong, func(o *engine.GenerateOptions) { o.DraftTokens = 1 }},
		"twelve":          {testenv.Model(t), func(o *engine.GenerateOptions) { o.DraftTokens = 12 }},
		"drawn":           {testenv.Model(t), func(o *engine.GenerateOptions) { o.Temperature, o.Seed, o.HasSeed, o.TopK = 1, 5, true, 30 }},
		"penalised":       {wrong, func(o *engine.GenerateOptions) { o.RepetitionPenalty, o.FrequencyPenalty = 1.3, 0.2 }},
		"packed KV":       {testenv.Model(t), func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize = 8, 32 }},
		"one token":       {wrong, func(o *engine.GenerateOptions) { o.MaxTokens = 1 }},
		"stops in drafts": {testenv.Model(t), func(o *engine.GenerateOptions) { o.StopTokens = []int32{300, 310, 350, 400, 420} }},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Load(context.Background(), testenv.Model(t), engine.NativeOptions{Draft: c.draft, PromptCache: 1 << 20})
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			rounds := 1
			if name == "perfect" || name == "wrong" {
				rounds = 2 // the second time from the prompt cache
			}
			for range rounds {
				for _, prompt := range prompts {
					o := engine.DefaultGenerateOptions()
					o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 40, true
					if c.change != nil {
						c.change(&o)
					}
					var want, got answer
					got.run(t.Context(), m, engine.Prompt{Text: prompt}, o)
					o.DraftTokens = 0
					want.run(t.Context(), plain, engine.Prompt{Text: prompt}, o)
					require.NoError(t, got.err)
					switch {
					case plain.info.Device == "cpu:0":
						require.Equal(t, want.ids, got.ids)
						require.Equal(t, want.text, got.text)
					case o.Temperature == 0: // the passes of a GPU round otherwise where they take several tokens
						requireTheSameButForRounding(t, want, got)
					default:
						require.Len(t, got.ids, len(want.ids))
					}
				}
			}
			metrics, err := m.Metrics(t.Context())
			require.NoError(t, err)
			t.Logf("%d of %d proposals were right", metrics.AcceptedTokens, metrics.DraftedTokens)
			if name == "perfect" {
				require.Greater(t, float64(metrics.AcceptedTokens), 0.9*float64(metrics.DraftedTokens))
			}
		})
	}
}

func openDrafted(t *testing.T) *Model {
	return openWith(t, engine.NativeOptions{Draft: testenv.Model(t)})
}

func TestDraftsLeaveNothingBehind(t *testing.T) {
	m := openDrafted(t)
	collect(t, m, "Where can I find", nil)
	before := mlxtest.Measure(t)
	for i, prompt := range testenv.Texts(t)[:12] {
		if i%2 == 0 {
			collect(t, m, prompt, func(o *engine.GenerateOptions) { o.MaxTokens = 30 })
			continue
		}
		for range m.Generate(t.Context(), engine.Prompt{Text: prompt}, engine.DefaultGenerateOptions()) {
			break // the reader leaves
		}
	}
	require.Equal(t, before, mlxtest.Measure(t))
}

func TestDraftsThatDoNotFitAreRefused(t *testing.T) {
	before := mlxtest.Measure(t)
	foreign := testenv.CopyModel(t)
	testenv.EditJSON(t, foreign, "tokenizer.json", func(c map[string]any) { c["normalizer"] = map[string]any{"type": "Lowercase"} })
	for _, draft := range []string{foreign, t.TempDir()} {
		_, err := Load(t.Context(), testenv.Model(t), engine.NativeOptions{Draft: draft})
		var option *engine.OptionError
		require.ErrorAs(t, err, &option)
		require.Equal(t, "DraftModel", option.Option)
		require.ErrorContains(t, err, draft)
	}
	require.Equal(t, before, mlxtest.Measure(t))

	m := openDrafted(t)
	for name, change := range map[string]func(o *engine.GenerateOptions){
		"MaxKVSize": func(o *engine.GenerateOptions) { o.MaxKVSize = 30 },
		"Regex":     func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: "regex", Text: "a"} },
	} {
		o := engine.DefaultGenerateOptions()
		change(&o)
		var got error
		for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "x"}, o) {
			got = err
		}
		var option *engine.OptionError
		require.ErrorAs(t, got, &option)
		require.Equal(t, name, option.Option)
	}
}

package native

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// personSchema bounds everything, so that texts end.
const personSchema = `{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
	"tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3}}, "required": ["name", "age", "tags"], "additionalProperties": false}`

// constrained collects a stream that follows a grammar, at a temperature at which the model alone would ramble.
func constrained(t testing.TB, m *Model, g engine.Grammar, seed uint64) (text string, reason engine.FinishReason) {
	t.Helper()
	o := engine.DefaultGenerateOptions()
	o.Grammar, o.Temperature, o.Seed, o.HasSeed, o.MaxTokens = g, 1.5, seed, true, 200
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Where can I find"}, o) {
		require.NoError(t, err)
		text, reason = text+tok.Text, tok.FinishReason
	}
	return text, reason
}

func TestTextsFollowTheirGrammar(t *testing.T) {
	m := open(t)
	isPerson := func(text string) bool {
		var p struct {
			Name *string
			Age  *int
			Tags []string
		}
		err := json.Unmarshal([]byte(text), &p)
		return err == nil && p.Name != nil && len([]rune(*p.Name)) <= 12 && p.Age != nil && *p.Age >= 0 && *p.Age <= 150 &&
			len(p.Tags) <= 3 && !slices.ContainsFunc(p.Tags, func(tag string) bool { return tag != "red" && tag != "blue" })
	}
	for name, c := range map[string]struct {
		grammar engine.Grammar
		valid   func(text string) bool
	}{
		"schema":  {engine.Grammar{Kind: "json_schema", Text: personSchema}, isPerson},
		"regex":   {engine.Grammar{Kind: "regex", Text: `[A-Z][a-z]{2,8} (ä|é|日本){1,3} [0-9]{4}-[0-9]{2}`}, regexp.MustCompile(`^[A-Z][a-z]{2,8} (ä|é|日本){1,3} [0-9]{4}-[0-9]{2}$`).MatchString},
		"choices": {engine.Grammar{Kind: "choices", Text: `["sport", "a \"quoted\" word", "naïve"]`}, func(text string) bool { return slices.Contains([]string{"sport", `a "quoted" word`, "naïve"}, text) }},
		"lark":    {engine.Grammar{Kind: "lark", Text: `start: item ("," item)~1..3` + "\n" + `item: /[a-c]+/`}, regexp.MustCompile(`^[a-c]+(,[a-c]+){1,3}$`).MatchString},
	} {
		t.Run(name, func(t *testing.T) {
			// All at once, beside a stream without a grammar: batches change nothing.
			var wait sync.WaitGroup
			texts, reasons := make([]string, 10), make([]engine.FinishReason, 10)
			for seed := range texts {
				wait.Go(func() { texts[seed], reasons[seed] = constrained(t, m, c.grammar, uint64(seed)) })
			}
			free, _ := collect(t, m, "Der Torwart", func(o *engine.GenerateOptions) { o.MaxTokens = 40 })
			wait.Wait()
			alone, _ := collect(t, m, "Der Torwart", func(o *engine.GenerateOptions) { o.MaxTokens = 40 })
			require.Equal(t, alone, free)
			for seed, text := range texts {
				if reasons[seed] == engine.FinishStop {
					require.True(t, c.valid(text), "%q", text)
				}
			}
			require.Greater(t, len(slices.Compact(slices.Sorted(slices.Values(texts)))), 1, "draws differ")
			require.Contains(t, reasons, engine.FinishStop)
		})
	}
}

// What a grammar leaves is drawn as often as the model finds it likely.
func TestAGrammarKeepsTheModelsProportions(t *testing.T) {
	m := open(t)
	grammar := engine.Grammar{Kind: "regex", Text: "[a-e]"}
	o := engine.DefaultGenerateOptions()
	o.Grammar, o.TopLogProbs, o.MaxTokens = grammar, 20, 1
	want := map[int32]float64{}
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Where can I find"}, o) {
		require.NoError(t, err)
		for _, top := range tok.TopLogProbs {
			want[top.ID] = math.Exp(float64(top.LogProb))
		}
	}
	require.Len(t, want, 10, "five letters, each as a token and as a byte; what cannot come is not listed")
	const draws = 600
	got := map[int32]float64{}
	o.TopLogProbs, o.Temperature, o.HasSeed = 0, 1, true
	for o.Seed = range uint64(draws) {
		for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: "Where can I find"}, o) {
			require.NoError(t, err)
			got[tok.ID] += 1.0 / draws
		}
	}
	for id, p := range want {
		require.InDelta(t, p, got[id], 4*math.Sqrt(p*(1-p)/draws)+0.005, "token %d", id)
	}
}

func TestBadGrammarsAreNamed(t *testing.T) {
	m := open(t)
	for kind, text := range map[string]string{"json_schema": `{"type": "poem"}`, "regex": "(", "choices": "{}", "lark": "begin: x"} {
		g := engine.Grammar{Kind: kind, Text: text}
		o := engine.DefaultGenerateOptions()
		o.Grammar = g
		var got error
		for _, err := range m.Generate(t.Context(), engine.Prompt{Text: "x"}, o) {
			got = err
		}
		var option *engine.OptionError
		require.ErrorAs(t, got, &option, kind)
		require.Equal(t, g.Option(), option.Option)
		require.NotEmpty(t, option.Reason)
	}
	require.NoError(t, m.Close())
	_, err := m.encoder.NewMatcher(engine.Grammar{Kind: "regex", Text: "a"})
	require.ErrorIs(t, err, engine.ErrClosed, fmt.Sprint(err))
}

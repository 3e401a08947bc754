package native

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Streams with a draft model, packed or bounded KV, stop strings and segments go on where they were too, when they had to wait for memory.
func TestAllKindsOfStreamsGoOnWhereTheyWere(t *testing.T) {
	wrong := testenv.CopyModel(t)
	testenv.EditJSON(t, wrong, "config.json", func(c map[string]any) { c["rope_theta"], c["query_pre_attn_scalar"] = 10, 9000 })
	base := engine.DefaultGenerateOptions()
	base.IgnoreEOS, base.MaxTokens, base.LogProbs = true, 120, true
	for name, c := range map[string]struct {
		load   engine.NativeOptions
		change func(o *engine.GenerateOptions)
	}{
		"draft": {engine.NativeOptions{Draft: wrong, PromptCache: 1 << 20}, nil},
		"drawn, draft": {engine.NativeOptions{Draft: wrong}, func(o *engine.GenerateOptions) {
			o.Temperature, o.Seed, o.HasSeed, o.RepetitionPenalty = 1, 5, true, 1.2
		}},
		"without draft": {engine.NativeOptions{Draft: wrong}, func(o *engine.GenerateOptions) { o.DraftTokens = engine.NoDraft }},
		"packed KV":     {engine.NativeOptions{}, func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize = 8, 32 }},
		"bounded KV":    {engine.NativeOptions{PromptCache: 1 << 20}, func(o *engine.GenerateOptions) { o.MaxKVSize = 100 }},
		"a stop string": {engine.NativeOptions{}, func(o *engine.GenerateOptions) { o.Stop = []string{"never to be found"}; o.Segments = true }},
	} {
		t.Run(name, func(t *testing.T) {
			m := openWith(t, c.load)
			o := base
			var waits atomic.Int64
			if c.change != nil {
				c.change(&o)
			}
			ask := func(i int, come, meet func()) (a answer) {
				o := o
				o.Events = func(e engine.Event) {
					if e.Kind == engine.EventWait {
						waits.Add(1)
						come()
					}
				}
				a.runFrom(t.Context(), m, engine.Prompt{IDs: numbers(300+10*i, 40)}, o, meet)
				return a
			}
			const requests = 3
			var want [requests]answer
			most := int64(0) // what the one that needs most holds, and what its passes ask for
			for i := range want {
				want[i] = ask(i, nobody, nobody)
				require.NoError(t, want[i].err)
				for {
					require.NoError(t, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
					setBudget(t, m, most)
					if a := ask(i, nobody, nobody); a.err == nil {
						break
					} else {
						require.ErrorIs(t, a.err, engine.ErrBudget)
					}
					most += 100_000
				}
			}
			require.NoError(t, m.owner.Do(t.Context(), func() error { return m.store.Shrink(0) }))
			setBudget(t, m, most)
			waits.Store(0)
			requireTheSameTogether(t, want[:], ask)
			require.Positive(t, waits.Load())
			requireNoTurns(t)
		})
	}
}

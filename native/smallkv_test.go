package native

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// KV that is bounded or packed means the same to the CPU kernels as to MLX's ops, which compute it as mlx-lm does.
func TestSmallKVIsTheSameByTheKernels(t *testing.T) {
	kernels, exact := open(t), openWith(t, engine.NativeOptions{Exact: true})
	prompts := map[string]string{"short": "Where can I find", "long": strings.Join(testenv.Texts(t)[:20], " ")}
	for name, change := range map[string]func(*engine.GenerateOptions){
		"bound":         func(o *engine.GenerateOptions) { o.MaxKVSize = 24 },
		"small bound":   func(o *engine.GenerateOptions) { o.MaxKVSize = 8 },
		"large bound":   func(o *engine.GenerateOptions) { o.MaxKVSize = 1000 },
		"8 bits":        func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize = 8, 32 },
		"4 bits":        func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize = 4, 32 },
		"8 bits, later": func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize, o.KVStart = 8, 32, 20 },
	} {
		for length, prompt := range prompts {
			t.Run(name+", "+length, func(t *testing.T) {
				o := engine.DefaultGenerateOptions()
				o.MaxTokens, o.IgnoreEOS, o.LogProbs = 40, true, true
				change(&o)
				var got, want answer
				got.run(t.Context(), kernels, engine.Prompt{Text: prompt}, o)
				want.run(t.Context(), exact, engine.Prompt{Text: prompt}, o)
				require.NoError(t, got.err)
				require.NoError(t, want.err)
				require.Len(t, got.ids, 40)
				for i := range got.ids {
					if got.ids[i] != want.ids[i] { // a near tie that bfloat16 decided
						require.InDelta(t, want.logprobs[i], got.logprobs[i], 0.3, "token %d", i)
						if o.KVBits != 4 { // whose steps are coarse: a last bit of a key may be a whole step
							require.Greater(t, i, 4)
						}
						break
					}
					require.InDelta(t, want.logprobs[i], got.logprobs[i], 0.1+0.05*math.Abs(float64(want.logprobs[i])), "token %d", i)
				}
			})
		}
	}
}

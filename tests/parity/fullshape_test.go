//go:build long

package parity

import (
	"testing"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// `make test-long`: real shapes with random weights. The 1B model is whole (26 layers); the larger ones
// have few layers.
func TestFullShapes(t *testing.T) {
	for name, c := range map[string]struct {
		args   []string
		states int
		tokens int
	}{
		"gemma3-1b":            {[]string{"gemma3-1b"}, 27, 12},
		"gemma3-1b 4-bit":      {[]string{"gemma3-1b", "--bits", "4", "--shards", "2"}, 27, 4},
		"gemma3-4b, 2 layers":  {[]string{"gemma3-4b", "--layers", "2"}, 3, 6},
		"qwen3-8b, 1 layer":    {[]string{"qwen3-8b", "--layers", "1"}, 2, 3},
		"gemma3-27b, 2 layers": {[]string{"gemma3-27b", "--layers", "2"}, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeModel(t, c.args...)
			nat, py := loadEngines(t, dir)
			requireEqualTokens(t, nat, py, c.tokens, nil)
			requireEqualLayers(t, nat, py, c.states, 8, testenv.Texts(t)[:1])
		})
	}
}

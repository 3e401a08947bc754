package parity

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

const personSchema = `{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
	"tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 3}}, "required": ["name", "age", "tags"], "additionalProperties": false}`

// Both engines let a grammar allow the same tokens: texts are equal, greedy and drawn with a seed, alone and in a batch.
func TestGrammarsAreTheSameInBothEngines(t *testing.T) {
	for _, model := range []string{"domains", "assistant"} {
		t.Run(model, func(t *testing.T) {
			dir := filepath.Join(testenv.Root(), "tests", "models", model)
			native, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EngineNative), mlx.WithNative(mlx.Exact()))
			require.NoError(t, err)
			defer native.Close()
			python, err := mlx.LoadModel(dir, mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))), mlx.WithBatch(8))
			require.NoError(t, err)
			defer python.Close()
			var cases [][]mlx.GenerateOption
			for _, form := range []mlx.GenerateOption{
				mlx.WithConstraint(mlx.JSONSchema([]byte(personSchema))),
				mlx.WithConstraint(mlx.JSONSchema([]byte(`{"type": "object"}`))),
				mlx.WithConstraint(mlx.Regex(`[A-Z][a-z]{2,8} (ä|é|日本){1,3} [0-9]{4}-[0-9]{2}`)),
				mlx.WithConstraint(mlx.Choices("sport", `a "quoted" word`, "naïve", "\x7f")),
				mlx.WithConstraint(mlx.Grammar("start: item (\",\" item)~1..3\nitem: /[a-c]+/")),
			} {
				cases = append(cases, []mlx.GenerateOption{form, mlx.WithMaxTokens(60)},
					[]mlx.GenerateOption{form, mlx.WithMaxTokens(60), mlx.WithTemperature(1.5), mlx.WithSeed(uint64(len(cases)))})
			}
			cases = append(cases, []mlx.GenerateOption{mlx.WithMaxTokens(60)}) // without one, beside them
			ask := func(m mlx.TextModel, options []mlx.GenerateOption) (mlx.Completion, error) {
				return mlx.Collect(m.Generate(t.Context(), "Where can I find", options...))
			}
			together := make([]mlx.Completion, len(cases))
			errs := make([]error, len(cases))
			var wait sync.WaitGroup
			for i, options := range cases {
				wait.Go(func() { together[i], errs[i] = ask(python, options) })
			}
			wait.Wait()
			for i, options := range cases {
				t.Run(fmt.Sprint(i), func(t *testing.T) {
					want, err := ask(native, options)
					require.NoError(t, err)
					alone, err := ask(python, options)
					require.NoError(t, err)
					require.Equal(t, want.Text, alone.Text)
					require.NoError(t, errs[i])
					require.Equal(t, want.Text, together[i].Text, "in a batch")
					require.Equal(t, want.FinishReason, alone.FinishReason)
				})
			}
			for _, m := range []mlx.TextModel{native, python} {
				var wrong *mlx.OptionError
				_, err := ask(m, []mlx.GenerateOption{mlx.WithConstraint(mlx.Regex("("))})
				require.ErrorAs(t, err, &wrong)
				require.Equal(t, "Regex", wrong.Option)
				_, err = ask(m, []mlx.GenerateOption{mlx.WithConstraint(mlx.JSONSchema([]byte("{")))})
				require.ErrorAs(t, err, &wrong)
				require.Equal(t, "JSONSchema", wrong.Option)
			}
		})
	}
}

package native

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// open loads the trained model and checks at the end of the test that Close gives every byte back.
func open(t testing.TB) *Model { return openWith(t, engine.NativeOptions{}) }

func openWith(t testing.TB, o engine.NativeOptions) *Model { return openPath(t, testenv.Model(t), o) }

func openPath(t testing.TB, dir string, o engine.NativeOptions) *Model {
	t.Helper()
	before := mlxtest.Measure(t)
	m, err := Load(context.Background(), dir, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, m.Close())
		require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes after Close")
	})
	return m
}

func collect(t testing.TB, m *Model, prompt string, change func(*engine.GenerateOptions)) (ids []int32, text string) {
	t.Helper()
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS = true
	if change != nil {
		change(&o)
	}
	for tok, err := range m.Generate(t.Context(), engine.Prompt{Text: prompt}, o) {
		require.NoError(t, err)
		ids, text = append(ids, tok.ID), text+tok.Text
	}
	return ids, text
}

func domainOptions(t testing.TB) engine.ClassifyOptions {
	return engine.ClassifyOptions{Labels: testenv.Labels(t), Prompt: engine.DefaultLabelPrompt}
}

// requireTheSameButForRounding checks that an answer is another one as far as rounding allows: the same tokens, with log-probabilities that are a few
// last bits of bfloat16 logits apart, up to where two tokens are as likely as each other and any of them may come.
func requireTheSameButForRounding(t *testing.T, want, got answer) {
	t.Helper()
	same := requireTheSameUntilApart(t, want, got)
	if same < len(want.ids) {
		require.InDelta(t, want.logprobs[same], got.logprobs[same], 0.3, "token %d", same)
		return
	}
	require.Equal(t, want.text, got.text)
}

// requireTheSameUntilApart checks the log-probabilities of the tokens that two answers begin with together, and returns how many these are. Drawn
// tokens may differ wherever rounding moves the borders between them, whatever their probabilities are.
func requireTheSameUntilApart(t *testing.T, want, got answer) int {
	t.Helper()
	require.NoError(t, want.err)
	require.NoError(t, got.err)
	require.Len(t, got.ids, len(want.ids))
	for i := range want.ids {
		if want.ids[i] != got.ids[i] {
			return i
		}
		require.InDelta(t, want.logprobs[i], got.logprobs[i], 0.3, "token %d", i)
	}
	return len(want.ids)
}

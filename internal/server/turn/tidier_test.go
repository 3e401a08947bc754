package turn

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

// tidied joins the Events of segments by kind.
func tidied(t *testing.T, segments []mlx.Segment) (text, reasoning string, calls int) {
	tidy := &tidier{tools: &Tools{List: []Tool{{Name: "f"}}}, emit: func(e Event) error {
		switch e.Kind {
		case Text:
			text += e.Text
		case Reasoning:
			reasoning += e.Text
		case Call:
			calls++
			require.NotEmpty(t, e.Call.ID)
		}
		return nil
	}}
	require.NoError(t, tidy.add(mlx.Token{}, segments))
	require.NoError(t, tidy.end())
	return text, reasoning, calls
}

// Newlines of the template go, those of the answer stay, and it does not matter in which pieces they come.
func TestNewlinesOfTheTemplateGo(t *testing.T) {
	call := []mlx.ToolCall{{Type: "function", Function: mlx.FunctionCall{Name: "f", Arguments: []byte("{}")}}}
	for _, c := range []struct {
		in              []mlx.Segment
		text, reasoning string
		calls           int
	}{
		{in: []mlx.Segment{{Kind: mlx.SegmentNormal, Text: "\n\nplain\n\ntext\n"}}, text: "\n\nplain\n\ntext\n"},
		{
			in:   []mlx.Segment{{Kind: mlx.SegmentReasoning, Text: "\nfirst\n\nthen\n"}, {Kind: mlx.SegmentNormal, Text: "\n\nso\n\nit is\n"}},
			text: "so\n\nit is\n", reasoning: "first\n\nthen",
		},
		{
			in: []mlx.Segment{
				{Kind: mlx.SegmentNormal, Text: "\n"}, {Kind: mlx.SegmentReasoning, Text: "\n\n"}, {Kind: mlx.SegmentNormal, Text: "\n\nlook:\n"},
				{Kind: mlx.SegmentTool, Text: "f()", Calls: call}, {Kind: mlx.SegmentNormal, Text: "\n"}, {Kind: mlx.SegmentTool, Text: "f()", Calls: call},
			},
			text: "look:", calls: 2,
		},
		{in: []mlx.Segment{{Kind: mlx.SegmentTool, Text: "\nnot a call\n"}}, text: "not a call"},
	} {
		rng := rand.New(rand.NewPCG(1, 2))
		for range 50 {
			var pieces []mlx.Segment
			for _, s := range c.in {
				for rest := s.Text; s.Kind != mlx.SegmentTool && rest != ""; {
					n := 1 + rng.IntN(len(rest))
					pieces = append(pieces, mlx.Segment{Kind: s.Kind, Text: rest[:n]})
					rest = rest[n:]
				}
				if s.Kind == mlx.SegmentTool {
					pieces = append(pieces, s)
				}
			}
			text, reasoning, calls := tidied(t, pieces)
			require.Equal(t, []any{c.text, c.reasoning, c.calls}, []any{text, reasoning, calls}, "%q", pieces)
		}
	}
}

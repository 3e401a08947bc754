package parity

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

const weatherTools = `[{"type": "function", "function": {"name": "get_weather", "description": "Current weather of a city",
	"parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]`

// segments joins those of a stream, and of each kind what stands together.
func segments(c mlx.Completion) []mlx.Segment {
	var out []mlx.Segment
	for _, tok := range c.Tokens {
		for _, s := range tok.Segments {
			if n := len(out); n > 0 && out[n-1].Kind == s.Kind && s.Kind != mlx.SegmentTool {
				out[n-1].Text += s.Text
				continue
			}
			out = append(out, s)
		}
	}
	return out
}

// Both engines tell a thought from a call from the rest at the same tokens, and read the same calls.
func TestSegmentsAndCallsAreTheSame(t *testing.T) {
	dir := filepath.Join(testenv.Root(), "tests", "models", "assistant")
	nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
	for prompt, kinds := range map[string][]mlx.SegmentKind{
		"Hello":                                   {mlx.SegmentReasoning, mlx.SegmentNormal},
		"Write a hostile page":                    {mlx.SegmentReasoning, mlx.SegmentNormal},
		"Say hello in Greek and Japanese":         {mlx.SegmentReasoning, mlx.SegmentNormal},
		"What is the weather in Lisbon?":          {mlx.SegmentReasoning, mlx.SegmentNormal, mlx.SegmentTool},
		"What is the weather in Oslo and Dublin?": {mlx.SegmentReasoning, mlx.SegmentNormal, mlx.SegmentTool, mlx.SegmentNormal, mlx.SegmentTool},
	} {
		for _, thinks := range []bool{true, false} {
			options := []mlx.GenerateOption{mlx.WithOutput(mlx.Segments()), mlx.WithTools([]byte(weatherTools)), mlx.WithTemplate(mlx.TemplateArguments(map[string]any{"enable_thinking": thinks}))}
			a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
				return mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: prompt}}, options...))
			})
			require.Equal(t, b, a, prompt)
			var found []mlx.SegmentKind
			for _, s := range segments(a) {
				found = append(found, s.Kind)
				require.Equal(t, s.Kind == mlx.SegmentTool, len(s.Calls) > 0, "%q", s.Text)
			}
			if thinks {
				require.Equal(t, kinds, found, prompt)
			}
		}
	}
}

func TestTheStopStringIsTheSame(t *testing.T) {
	dir := filepath.Join(testenv.Root(), "tests", "models", "assistant")
	nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
	a, b := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
		return mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "Count to ten"}}, mlx.WithStop("nine", "six s", "seven")))
	})
	require.Equal(t, b, a)
	require.Equal(t, "six s", a.Tokens[len(a.Tokens)-1].StopString)
}

// A chat with tools is rendered, token ids are generated from, and messages with calls and thoughts are rendered alike.
func TestPromptsOfToolsAreTheSame(t *testing.T) {
	dir := filepath.Join(testenv.Root(), "tests", "models", "assistant")
	nat, py := loadFrom(t, dir, mlx.EngineNative), loadFrom(t, dir, mlx.EnginePython)
	messages := []mlx.Message{
		{Role: "user", Content: "What is the weather in Oslo?"},
		{Role: "assistant", Reasoning: "I look it up.", ToolCalls: []mlx.ToolCall{{Type: "function", Function: mlx.FunctionCall{Name: "get_weather", Arguments: []byte(`{"z": 1, "city": "Oslo"}`)}}}},
		{Role: "tool", Content: `{"temperature": 4}`},
	}
	a, b := both(t, nat, py, func(m mlx.TextModel) (string, error) {
		return m.Tokenizer().RenderChat(t.Context(), messages, mlx.WithTools([]byte(weatherTools)), mlx.WithTemplate(mlx.TemplateArguments(map[string]any{"enable_thinking": false})))
	})
	require.Equal(t, b, a)
	require.Contains(t, a, `"arguments": {"z": 1, "city": "Oslo"}`)
	require.Contains(t, a, "get_weather")
	ids, err := nat.Tokenizer().Encode(t.Context(), a, false)
	require.NoError(t, err)
	fromIDs, b2 := both(t, nat, py, func(m mlx.TextModel) (mlx.Completion, error) {
		return mlx.Collect(m.GenerateIDs(t.Context(), ids, mlx.WithMaxTokens(30)))
	})
	require.Equal(t, b2, fromIDs)
	require.Equal(t, len(ids), fromIDs.PromptTokens)
}

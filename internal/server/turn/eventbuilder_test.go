package turn

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// tidied joins the Events of segments by kind.
func tidied(t *testing.T, segments []mlx.Segment) (text, reasoning string, calls int) {
	builder := &eventBuilder{tools: &Tools{List: []Tool{{Name: "f"}}}, emit: func(e Event) error {
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
	require.NoError(t, builder.add(mlx.Token{}, segments))
	require.NoError(t, builder.end())
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

// grown is what a stream of an answer in a template's notation gives, in pieces of a size.
func grown(t *testing.T, template, text string, size int, tools *Tools) []string {
	t.Helper()
	marks, err := segment.Infer(template, func(string) bool { return false })
	require.NoError(t, err)
	var out []string
	last := -1
	add := func(kind EventKind, text string) {
		if n := len(out); n > 0 && last == int(kind) && kind != Call {
			out[n-1] += text
			return
		}
		out, last = append(out, text), int(kind)
	}
	builder := &eventBuilder{tools: tools, template: template, emit: func(e Event) error {
		if e.Kind == Call {
			require.NotEmpty(t, e.Call.ID)
			e.Text = "call " + e.Call.Function.Name
		}
		add(e.Kind, e.Text)
		return nil
	}}
	splitter := segment.NewSplitter(marks, false)
	for rest := text; rest != ""; {
		n := min(size, len(rest))
		tok := mlx.Token{Segments: splitter.Add(rest[:n], n == len(rest)), CallText: splitter.CallText()}
		if n == len(rest) && (marks.ToolEnd == "" || !strings.HasSuffix(text, marks.ToolEnd)) {
			tok.FinishReason = mlx.FinishLength
		}
		if err := builder.add(tok, tok.Segments); err != nil {
			require.ErrorIs(t, err, errEnough)
			return out
		}
		rest = rest[n:]
	}
	require.NoError(t, builder.end())
	return out
}

// Calls come in pieces, and what comes does not depend on the pieces that the engine has.
func TestCallsGrowInEveryNotation(t *testing.T) {
	const json, mistral, llama, gemma = "<tool_call> tool_call.name", "[TOOL_CALLS]", "<|python_tag|>", "<start_function_call>"
	tools, one := &Tools{List: []Tool{{Name: "f"}, {Name: "g"}}}, &Tools{List: []Tool{{Name: "f"}}, OneCall: true}
	for _, c := range []struct {
		template, text string
		tools          *Tools
		want           []string
	}{
		{json, "look:\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1]}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", \"arguments\": {}}\n</tool_call>", tools,
			[]string{"look:", "call f", `{"a": [1]}`, "call g", "{}"}},
		{json, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1", tools, []string{"call f", `{"a": [1`}},
		{json, "<tool_call>\n{\"name\": \"f\", \"argu", tools, []string{"call f"}},
		{json, "look:\n<tool_call>\n{\"name\": \"f", tools, []string{"look:"}},
		{json, "look:\n<tool_call>\n", tools, []string{"look:"}},
		{json, "<tool_call>\n{\"arguments\": {\"a\": 1", tools, nil},
		{json, "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"na", tools, []string{"call f", "{}"}},
		{json, "<tool_call>\n{\"name\": \"h\", \"argu", tools, []string{"<tool_call>\n{\"name\": \"h\", \"argu"}},
		{json, "<tool_call>\n{\"name\": \"h\", \"arguments\": {}}", tools, []string{"<tool_call>\n{\"name\": \"h\", \"arguments\": {}}"}},
		{json, "<tool_call> is a mark", tools, []string{"<tool_call> is a mark"}},
		{json, "<tool_call>\n{\"name\": \"f\", \"argu", &Tools{}, []string{"<tool_call>\n{\"name\": \"f\", \"argu"}},
		{json, "<tool_call>\n{\"na", &Tools{}, []string{"<tool_call>\n{\"na"}},
		{mistral, `so [TOOL_CALLS]f[AR`, tools, []string{"so "}},
		{mistral, `so [TOOL_CALLS]f[ARGS]`, tools, []string{"so ", "call f"}},
		{mistral, `so [TOOL_CALLS]h[ARGS]`, tools, []string{"so [TOOL_CALLS]h[ARGS]"}},
		{mistral, `[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g"`, tools, []string{"call f", "{}", "call g"}},
		{mistral, `[TOOL_CALLS][{"name": "f", "arguments": {}}, {"na`, tools, []string{"call f", "{}"}},
		{mistral, `[TOOL_CALLS]f[ARGS]{"a": 1}Let me check`, tools, []string{"call f", `{"a": 1}`, "Let me check"}},
		{mistral, `[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CA`, tools, []string{"call f", `{"a": 1}`}},
		{mistral, `[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[AR`, tools, []string{"call f", `{"a": 1}`}},
		{mistral, `[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]`, tools, []string{"call f", `{"a": 1}`, "call g"}},
		{gemma, `<start_function_call>call:f{a:<esc`, tools, nil},
		{gemma, `<start_function_call>call:f{a:<esc`, &Tools{}, []string{"<start_function_call>call:f{a:<esc"}},
		{llama, `{"name": "f", "para`, tools, []string{"call f"}},
		{llama, `{"name": "h", "para`, tools, []string{`{"name": "h", "para`}},
		{llama, `{"na`, tools, []string{`{"na`}},
		{llama, `{"answer": "f`, tools, []string{`{"answer": "f`}},
		{json, "<tool_call>\n{\"name\": \"h\", \"arguments\": {}}\n</tool_call>", tools, []string{"<tool_call>\n{\"name\": \"h\", \"arguments\": {}}\n</tool_call>"}},
		{json, "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>", one,
			[]string{"call f", `{"a": 1}`}},
		{mistral, `[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "h", "arguments": {}}, {"name": "g", "arguments": {"b": 2}}]`, tools,
			[]string{"call f", `{"a": 1}`, "call g", `{"b": 2}`}},
		{mistral, `so [TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{"b": 2}`, tools, []string{"so ", "call f", `{"a": 1}`, "call g", `{"b": 2}`}},
		{llama, `{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {"b": 2}}`, tools, []string{"call f", `{"a": 1}`, "call g", `{"b": 2}`}},
		{llama, `{"name": "f", "parameters": {"a": 1}} and so on`, tools, []string{"call f", `{"a": 1}`, "and so on"}},
		{llama, `{"answer": 3}`, tools, []string{`{"answer": 3}`}},
	} {
		for size := 1; size <= len(c.text); size++ {
			require.Equal(t, c.want, grown(t, c.template, c.text, size, c.tools), "%s in pieces of %d", c.text, size)
		}
	}
}

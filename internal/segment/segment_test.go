package segment

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

const template = `<tool_call>\n{"name": "' + tool_call.name`

func marks(t *testing.T) Marks {
	m, err := Infer(template, func(token string) bool { return token == "<think>" || token == "</think>" })
	require.NoError(t, err)
	return m
}

// joined merges neighbours of one kind, calls apart.
func joined(segments []engine.Segment) []engine.Segment {
	var out []engine.Segment
	for _, s := range segments {
		if n := len(out); n > 0 && out[n-1].Kind == s.Kind && s.Kind != engine.SegmentTool {
			out[n-1].Text += s.Text
			continue
		}
		out = append(out, s)
	}
	return out
}

func call(name, arguments string) []engine.ToolCall {
	return []engine.ToolCall{{Type: "function", Function: engine.FunctionCall{Name: name, Arguments: []byte(arguments)}}}
}

const sample = "<think>\nso <b\n</think>\n\nfirst<tool_call>\n{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"<\"}}\n</tool_call>" +
	"<tool_call>no call</tool_call>é <tool_cal"

// However a text is cut into pieces, its segments are the same.
func TestPiecesDoNotMatter(t *testing.T) {
	want := []engine.Segment{
		{Kind: engine.SegmentReasoning, Text: "\nso <b\n"},
		{Kind: engine.SegmentNormal, Text: "\n\nfirst"},
		{Kind: engine.SegmentTool, Text: "\n{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"<\"}}\n", Calls: call("f", `{"z": 1, "a": "<"}`)},
		{Kind: engine.SegmentTool, Text: "no call"},
		{Kind: engine.SegmentNormal, Text: "é <tool_cal"},
	}
	for size := 1; size <= len(sample); size++ {
		s := NewSplitter(marks(t), false)
		var got []engine.Segment
		for rest := sample; ; {
			n := min(size, len(rest))
			got = append(got, s.Add(rest[:n], n == len(rest))...)
			if rest = rest[n:]; rest == "" {
				break
			}
		}
		require.Equal(t, want, joined(got), "pieces of %d", size)
	}
}

func TestAPromptMayOpenTheReasoning(t *testing.T) {
	s := NewSplitter(marks(t), true)
	require.Equal(t, []engine.Segment{{Kind: engine.SegmentReasoning, Text: "so"}, {Kind: engine.SegmentNormal, Text: "yes"}}, s.Add("so</think>yes", true))
}

func TestACallThatIsCutOffIsNoCall(t *testing.T) {
	s := NewSplitter(marks(t), false)
	require.Empty(t, s.Add(`<tool_call>{"name": "f", "argu`, false))
	require.Equal(t, []engine.Segment{{Kind: engine.SegmentTool, Text: `{"name": "f", "argu`}}, s.Add("", true))
}

func TestNotations(t *testing.T) {
	calls, err := parseFunctionGemma("call:get{city:<escape>Lis, {bon}<escape>,days:3,unit:c}")
	require.NoError(t, err)
	require.Equal(t, call("get", `{"city": "Lis, {bon}", "days": 3, "unit": "c"}`), calls)
	for _, bad := range []string{"", "call:f{a}", "call:f{a:<escape>x}"} {
		_, err := parseFunctionGemma(bad)
		require.Error(t, err, bad)
	}
	calls, err = parseJSON(`{"name": "now"}`)
	require.NoError(t, err)
	require.Equal(t, call("now", "{}"), calls)
	for _, bad := range []string{"", "{}", `{"name": "f", "arguments": 3}`} {
		_, err := parseJSON(bad)
		require.Error(t, err, bad)
	}
}

// Calls of Mistral's and Llama 3's models end with the text, and Llama's may have no mark at all.
func TestCallsThatEndWithTheText(t *testing.T) {
	two := append(call("f", `{"z": 1, "a": "{"}`), call("g", `{}`)...)
	for _, c := range []struct {
		template, text, before string
		calls                  []engine.ToolCall
	}{
		{"[TOOL_CALLS]", `look[TOOL_CALLS][{"name": "f", "arguments": {"z": 1, "a": "{"}}, {"name": "g"}]`, "look", two},
		{"[TOOL_CALLS]", `[TOOL_CALLS]f[ARGS]{"z": 1, "a": "{"}g[ARGS]{}`, "", two},
		{"[TOOL_CALLS]", `[TOOL_CALLS]f[CALL_ID]abc[ARGS]{"z": 1, "a": "{"}[TOOL_CALLS]g[ARGS]{}`, "", two},
		{"[TOOL_CALLS]", `[TOOL_CALLS][{"name": "f", "arguments": "{}"}]`, "", call("f", `{}`)},
		{"[TOOL_CALLS]", `[TOOL_CALLS]f[ARGS]{"cut`, "", nil},
		{"[TOOL_CALLS]", `[TOOL_CALLS][3]`, "", nil},
		{"<|python_tag|>", ` {"name": "f", "parameters": {"z": 1, "a": "{"}}; {"name": "g"}`, "", two},
		{"<|python_tag|>", `<|python_tag|>{"name": "f", "parameters": {"z": 1, "a": "{"}}` + "\n" + `{"name": "g", "parameters": {}}`, "", two},
		{"Environment: ipython", `{"answer": 3}`, "", nil},
		{"Environment: ipython", `{"name": "f", "parameters": 3}`, "", nil},
		{"Environment: ipython", ` so {"name": "f"}`, ` so {"name": "f"}`, nil},
	} {
		m, err := Infer(c.template, func(string) bool { return false })
		require.NoError(t, err)
		for size := 1; size <= len(c.text); size++ {
			s := NewSplitter(m, false)
			var got []engine.Segment
			for rest := c.text; rest != ""; {
				n := min(size, len(rest))
				got = append(got, s.Add(rest[:n], n == len(rest))...)
				rest = rest[n:]
			}
			before, calls := "", []engine.ToolCall(nil)
			for _, segment := range got {
				if segment.Kind == engine.SegmentNormal {
					before += segment.Text
				}
				calls = append(calls, segment.Calls...)
			}
			require.Equal(t, c.before, before, "%s in pieces of %d", c.text, size)
			require.Equal(t, c.calls, calls, "%s in pieces of %d", c.text, size)
		}
	}
}

func TestAnUnknownNotationIsAnError(t *testing.T) {
	_, err := Infer("... <arg_key> ...", func(string) bool { return false })
	require.ErrorContains(t, err, "glm47")
	none, err := Infer("plain", func(string) bool { return false })
	require.NoError(t, err)
	require.Equal(t, []engine.Segment{{Kind: engine.SegmentNormal, Text: "<think>x"}}, NewSplitter(none, false).Add("<think>x", true))
}

func FuzzSplitterLosesNothing(f *testing.F) {
	f.Add(sample, uint8(3))
	f.Fuzz(func(t *testing.T, text string, size uint8) {
		whole := NewSplitter(marks(&testing.T{}), false).Add(text, true)
		s := NewSplitter(marks(&testing.T{}), false)
		var pieces []engine.Segment
		for rest := text; rest != ""; {
			n := min(int(size)%7+1, len(rest))
			pieces = append(pieces, s.Add(rest[:n], false)...)
			rest = rest[n:]
		}
		pieces = append(pieces, s.Add("", true)...)
		require.Equal(t, joined(whole), joined(pieces))
	})
}

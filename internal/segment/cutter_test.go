package segment

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

const jsonTemplate, mistralTemplate, llamaTemplate = "<tool_call> tool_call.name", "[TOOL_CALLS]", "<|python_tag|>"

func offersAll(string) bool { return true }

// cutAll reads a segment in pieces of a size; at each piece calls begin before their arguments, and one after the other.
func cutAll(t *testing.T, c *Cutter, text string, size func() int) (calls []engine.ToolCall, cut bool) {
	t.Helper()
	open := false
	for rest := text; rest != ""; {
		n := min(size(), len(rest))
		for _, p := range c.Add(rest[:n]) {
			switch {
			case p.Begins:
				require.False(t, open)
				require.NotEmpty(t, p.Name)
				open = true
				calls = append(calls, engine.ToolCall{ID: p.ID, Type: "function", Function: engine.FunctionCall{Name: p.Name}})
			case p.Ends:
				require.True(t, open)
				open = false
			default:
				require.True(t, open)
				require.NotEmpty(t, p.Arguments)
				last := &calls[len(calls)-1].Function
				last.Arguments = append(last.Arguments, p.Arguments...)
			}
		}
		rest = rest[n:]
	}
	return calls, open
}

// The pieces of a call, joined, are what reading the whole call gives.
func TestCallsInPiecesAreTheWholeCalls(t *testing.T) {
	hard := `{"z": "} \" ] { \\", "a": [1, {"b": "é 字 \u00e9 \\\" "}], "n": null,` + "\n" + `  "e": {}}`
	for template, texts := range map[string][]string{
		jsonTemplate: {
			`{"name": "f", "arguments": ` + hard + `}`, "\n" + `{"name": "f", "arguments": {}}` + "\n", `{"arguments": {"a": 1}, "name": "f"}`,
			`{"name": "f"}`, `{"name": "f", "arguments": null}`, `{"id": 3, "name":"f" , "arguments" : {"name": "arguments"} }`,
			`{"name": "f", "x": {"name": "g", "arguments": {"no": 1}}, "arguments": {"yes": [{}]}}`, `{"name": "\u0066", "arguments": {"a": 1}}`,
		},
		mistralTemplate: {
			`[{"name": "f", "arguments": ` + hard + `}, {"name": "g", "arguments": {"b": 2}}]`, `[{"name": "f", "arguments": "{\"a\": 1}"}]`,
			`f[ARGS]` + hard, `f[CALL_ID]abc123456[ARGS]{"a": 1}`, `f[ARGS]{"a": 1}[TOOL_CALLS]g.h-i[ARGS] {"b": 2}`, ` [ {"name": "f", "arguments": {}} ] `,
		},
		llamaTemplate: {
			`{"name": "f", "parameters": ` + hard + `}`, `{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {"b": 2}}`,
			`{"type": "function", "name": "f", "parameters": {"a": 1}}` + "\n" + `{"name": "g"}`,
		},
	} {
		marks, err := Infer(template, func(string) bool { return false })
		require.NoError(t, err)
		for _, text := range texts {
			want, err := marks.parse(text)
			require.NoError(t, err, text)
			for i := range want {
				want[i].ID = ""
			}
			for size := 1; size <= len(text); size++ {
				c := NewCutter(template, offersAll)
				got, open := cutAll(t, c, text, func() int { return size })
				for i := range got {
					got[i].ID = ""
					if string(want[i].Function.Arguments) == "null" {
						want[i].Function.Arguments = json.RawMessage("{}")
					}
				}
				require.False(t, open, text)
				require.Empty(t, c.Rest(), text)
				require.Equal(t, calls(want), calls(got), "%s in pieces of %d", text, size)
			}
		}
	}
}

func calls(list []engine.ToolCall) (out []string) {
	for _, c := range list {
		out = append(out, fmt.Sprintf("%s %s", c.Function.Name, c.Function.Arguments))
	}
	return out
}

// Arguments grow with every piece: none is held back for the next one.
func TestArgumentsAreNotHeldBack(t *testing.T) {
	for template, head := range map[string]string{jsonTemplate: `{"name": "f", "arguments": `, mistralTemplate: "f[ARGS]", llamaTemplate: `{"name": "f", "parameters": `} {
		c := NewCutter(template, offersAll)
		require.Empty(t, c.Add(head))
		require.Equal(t, []CallPiece{{Begins: true, Name: "f"}, {Arguments: "{"}}, c.Add("{"), template)
		for _, piece := range []string{`"a`, `": "`, "x", `é\`, `"`, `"`, `, `, `"b": [`, `]`} {
			require.Equal(t, []CallPiece{{Arguments: piece}}, c.Add(piece), template)
		}
		require.Equal(t, []CallPiece{{Arguments: "}"}, {Ends: true}}, c.Add("}"), template)
	}
	c := NewCutter(mistralTemplate, offersAll)
	require.Equal(t, CallPiece{Begins: true, ID: "abc123456", Name: "f"}, c.Add("f[CALL_ID]abc123456[ARGS]{")[0])
	c = NewCutter(mistralTemplate, offersAll)
	require.Equal(t, CallPiece{Begins: true, ID: "abc123456", Name: "f"}, c.Add(`[{"id": "abc123456", "name": "f", "arguments": {`)[0])
}

func TestTextThatIsNoCallHasNoCallText(t *testing.T) {
	for template, texts := range map[string][]string{
		jsonTemplate:    {"f()", `{"answer": 3}`, `{"name": 3}`, `["name"]`, `{"name": "f", "arguments": [1]}`, `{"name": "f", "arguments": 3}`, `{"name": "f"`, "", `{]`},
		mistralTemplate: {"f(x)", "[3]", "f[ARGS", "f g[ARGS]{}", strings.Repeat("long ", 200) + "[ARGS]{}"},
		llamaTemplate:   {`{"name": "f", "parameters": 3}`, `search.call(query="x")`},
	} {
		for _, text := range texts {
			for size := 1; size <= max(1, len(text)); size++ {
				got, _ := cutAll(t, NewCutter(template, offersAll), text, func() int { return size })
				require.Empty(t, got, text)
			}
		}
	}
	require.Nil(t, NewCutter("<start_function_call>", offersAll))
	require.Nil(t, NewCutter("plain", offersAll))
}

func TestOnlyOfferedCallsHavePieces(t *testing.T) {
	offered := func(name string) bool { return name == "g" }
	for template, text := range map[string]string{
		jsonTemplate: `{"name": "f", "arguments": {"a": 1}, "name": "g"}` + "\n" + `{"name": "g", "arguments": {"b": 2}}`, mistralTemplate: `f[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{"b": 2}`,
		llamaTemplate: `{"name": "f", "parameters": {"a": 1}}; {"parameters": {"a": 1}, "name": "f"}; {"name": "g", "parameters": {"b": 2}}`,
	} {
		got, open := cutAll(t, NewCutter(template, offered), text, func() int { return 3 })
		require.False(t, open)
		require.Equal(t, []string{`g {"b": 2}`}, calls(got))
	}
}

// What the model gets wrong is the client's to see, once a call has begun; and what is after calls is a text.
func TestBrokenArgumentsStayAsTheyAre(t *testing.T) {
	got, open := cutAll(t, NewCutter(jsonTemplate, offersAll), `{"name": "f", "arguments": {"a": "x`, func() int { return 2 })
	require.True(t, open)
	require.Equal(t, []string{`f {"a": "x`}, calls(got))
	got, open = cutAll(t, NewCutter(jsonTemplate, offersAll), `{"name": "f", "arguments": {"a": 1 2}}}`, func() int { return 2 })
	require.False(t, open)
	require.Equal(t, []string{`f {"a": 1 2}`}, calls(got))
	got, _ = cutAll(t, NewCutter(jsonTemplate, offersAll), "{\"name\": \"f\", \"arguments\": {\"a\": \"two\nlines\tand\x01\"}}", func() int { return 2 })
	require.Equal(t, []string{`f {"a": "two\nlines\u0009and\u0001"}`}, calls(got))
	c := NewCutter(llamaTemplate, offersAll)
	got, _ = cutAll(t, c, `{"name": "f", "parameters": {}} and so on`, func() int { return 2 })
	require.Equal(t, []string{"f {}"}, calls(got))
	require.True(t, c.Endless())
	require.Equal(t, "and so on", c.Rest())
	require.JSONEq(t, `{"INVALID_JSON": "{\"a\": \"x"}`, string(Whole(`{"a": "x`)))
	require.JSONEq(t, `{"INVALID_JSON": "{\"a\": 1, \"a\": 2}"}`, string(Whole(`{"a": 1, "a": 2}`)), "what JSON forbids to say twice")
	require.Equal(t, `{"a": 1}`, string(Whole(`{"a": 1}`)))
	require.JSONEq(t, `{"INVALID_JSON": ""}`, string(Whole("")))
}

func FuzzCutter(f *testing.F) {
	f.Add(`{"name": "f", "arguments": {"a": "}"}}`, uint8(0), int64(1))
	f.Add(`[{"name": "f", "arguments": {}}] f[ARGS]{"a": [1]}[TOOL_CALLS]g[ARGS]{}`, uint8(1), int64(2))
	f.Add(`{"name": "f", "parameters": {}}; {"name": "g"} and`, uint8(2), int64(3))
	f.Fuzz(func(t *testing.T, text string, which uint8, seed int64) {
		template := []string{jsonTemplate, mistralTemplate, llamaTemplate}[which%3]
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		one, whole := NewCutter(template, offersAll), NewCutter(template, offersAll)
		got, _ := cutAll(t, one, text, func() int { return 1 + rng.IntN(5) })
		want, _ := cutAll(t, whole, text, func() int { return len(text) })
		require.Equal(t, calls(want), calls(got))
		require.Equal(t, whole.Rest(), one.Rest())
	})
}

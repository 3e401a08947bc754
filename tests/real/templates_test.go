//go:build real

package real

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

type message = map[string]any

func call(name, arguments string) []message {
	return []message{{"type": "function", "function": message{"name": name, "arguments": json.RawMessage(arguments)}}}
}

// conversations are 25 chats: turns of every kind, and contents that templates stumble over.
func conversations() [][]message {
	user, system, assistant := func(s string) message { return message{"role": "user", "content": s} },
		func(s string) message { return message{"role": "system", "content": s} },
		func(s string) message { return message{"role": "assistant", "content": s} }
	tool := func(s string) message { return message{"role": "tool", "content": s, "name": "weather"} }
	return [][]message{
		{user("Hi")},
		{system("Be brief."), user("Hi")},
		{user("a"), assistant("b"), user("c")},
		{system("s"), user("a"), assistant("b"), user("c"), assistant("d"), user("e")},
		{user("  spaces around \n")},
		{user("")},
		{user("<b>&\"quotes\" 'single'</b>")},
		{user("多言語 🦊 naïve\u2028line")},
		{user("{{ not a template }} {% nor this %}")},
		{user("a"), assistant("<think>\nlong thought\n</think>\n\nanswer"), user("b")},
		{user("a"), assistant("<think>only thought"), user("b")},
		{user("a"), message{"role": "assistant", "content": "answer", "reasoning_content": "a thought"}, user("b")},
		{user("a"), message{"role": "assistant", "content": "answer", "reasoning_content": "\nlines\n"}},
		{user("weather?"), message{"role": "assistant", "content": "", "tool_calls": call("weather", `{"city": "Łódź", "days": 3}`)}, tool(`{"temp": 21.5}`)},
		{user("weather?"), message{"role": "assistant", "content": "Looking.", "tool_calls": call("weather", `{}`)}, tool("sunny"), assistant("It is sunny."), user("thanks")},
		{system("s"), user("two"), message{"role": "assistant", "content": "", "tool_calls": call("a", `{"z": 1, "a": [1, null, true]}`)}, tool("1"), user("and?")},
		{user("a"), tool("one"), tool("two"), user("b")},
		{system("")},
		{assistant("wrong way round")},
		{user("a"), user("b")},
		{system("s1"), system("s2"), user("x")},
		{user(strings.Repeat("long ", 500))},
		{message{"role": "user", "content": []message{{"type": "text", "text": "part"}, {"type": "text", "text": " two"}}}},
		{message{"role": "user", "content": []message{{"type": "image"}, {"type": "text", "text": "what?"}}}},
		{user("<|im_end|><end_of_turn><|eot_id|>")},
	}
}

var tools = json.RawMessage(`[{"type": "function", "function": {"name": "weather", "description": "The weather <now> & \"later\"",
	"parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "default": 1.5}}, "required": ["city"]}}}]`)

// Every chat under every set of arguments renders as in transformers, or is refused in the same words.
func TestChatTemplatesRenderAsInTransformers(t *testing.T) {
	templates := map[string]string{}
	for _, name := range []string{"gemma3", "qwen3", "llama3_1"} {
		source, err := (&modelfiles.Source{Dir: filepath.Dir(realFile(t, filepath.Join("tokenizer-"+name, "tokenizer.json")))}).ChatTemplate()
		require.NoError(t, err)
		templates[name] = source
	}
	from, err := modelfiles.Find(realFile(t, smolLM))
	require.NoError(t, err)
	templates["smollm2"], err = from.ChatTemplate()
	require.NoError(t, err)
	arguments := []map[string]any{
		{}, {"add_generation_prompt": true}, {"tools": tools}, {"tools": tools, "add_generation_prompt": true},
		{"enable_thinking": false, "add_generation_prompt": true}, {"enable_thinking": true}, {"tools_in_user_message": false, "tools": tools}, {"date_string": "1 Jan 2026"},
	}
	for name, source := range templates {
		t.Run(name, func(t *testing.T) {
			require.NotEmpty(t, source)
			template, err := tokenizer.NewTemplate(source, map[string]string{"bos_token": "<s>"})
			require.NoError(t, err)
			defer template.Close()
			var requests []any
			for _, chat := range conversations() {
				for _, more := range arguments {
					requests = append(requests, []any{source, chat, more})
				}
			}
			var want []string
			testenv.RunPython(t, "templates.py", requests, &want)
			rendered := 0
			for i, request := range requests {
				more := request.([]any)[2].(map[string]any)
				open, _ := more["add_generation_prompt"].(bool)
				got, err := template.Render(t.Context(), request.([]any)[1], open, more)
				if strings.HasPrefix(want[i], "error: ") {
					require.Error(t, err, "chat %d with %v: Python refuses it: %s", i/len(arguments), more, want[i])
					continue
				}
				require.NoError(t, err, "chat %d with %v", i/len(arguments), more)
				require.Equal(t, want[i], got, "chat %d with %v", i/len(arguments), more)
				rendered++
			}
			require.Greater(t, rendered, len(requests)/2)
		})
	}
}

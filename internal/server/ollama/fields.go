// Package ollama translates Ollama's API, so that its clients and the editors that know it can connect.
package ollama

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

const (
	elsehow = "models are loaded as the server's flags say"
	echoed  = "what other servers put into a message, given back"
)

func options() []turn.Field {
	var names []string
	for _, name := range []string{"temperature", "top_p", "top_k", "min_p", "seed", "num_predict", "stop", "repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty"} {
		names = append(names, "options."+name)
	}
	const noSuch = "this server has no such sampler"
	out := append(turn.Honour("options"), turn.Honour(names...)...)
	out = append(out, turn.NoEffect(elsehow, "options.*")...)
	out = append(out, turn.OnlyAt("options.mirostat", noSuch, "0")...)
	out = append(out, turn.OnlyAt("options.typical_p", noSuch, "1")...)
	return append(out, turn.OnlyAt("options.tfs_z", noSuch, "1")...)
}

// shortening are fields about chats that are too long, which are an error here, and about more beside the answer.
func shortening() []turn.Field {
	return slices.Concat(turn.Default("truncate", elsehow, "true"), turn.Default("shift", elsehow, "true"), turn.NoEffect(elsehow, "logprobs"),
		turn.Default("top_logprobs", elsehow, "0"))
}

// Tables of fields.
var (
	ChatFields = turn.NewTable("POST /api/chat",
		turn.Honour("model", "messages", "messages[].role", "messages[].content", "messages[].thinking", "messages[].tool_calls", "messages[].tool_calls[].id",
			"messages[].tool_calls[].function", "messages[].tool_calls[].function.name", "messages[].tool_calls[].function.arguments",
			"messages[].tool_name", "messages[].tool_call_id"),
		turn.NoEffect(echoed, "messages[].*", "messages[].tool_calls[].*", "messages[].tool_calls[].function.*"),
		turn.OnlyAt("messages[].images", "there is text only", "[]"),
		turn.OnlyTypes("tools[]", "tools of other types are left out of the prompt", "function"),
		turn.Honour("tools", "tools[].type", "tools[].function", "tools[].function.name", "tools[].function.description", "tools[].function.parameters"),
		turn.NoEffect("a tool is its name, description and schema", "tools[].*", "tools[].function.*"),
		turn.Honour("format", "stream", "think", "keep_alive"), shortening(), options())

	GenerateFields = turn.NewTable("POST /api/generate",
		turn.Honour("model", "prompt", "system", "raw", "format", "stream", "think", "keep_alive"),
		shortening(), turn.NoEffect(elsehow, "template"),
		turn.NoEffect("the messages of /api/chat are the way to go on", "context"),
		turn.OnlyAt("images", "there is text only", "[]"), turn.OnlyAt("suffix", "the models go on from a prompt only", `""`), options())

	EmbedFields = turn.NewTable("POST /api/embed",
		turn.Honour("model", "input", "dimensions"), turn.NoEffect(elsehow, "keep_alive", "options"), turn.Default("truncate", elsehow, "true"))
)

// Package anthropic translates Anthropic's messages API.
package anthropic

import "forge.lthn.ai/core/go-mlx/internal/server/turn"

const (
	elsehow    = "it is about how a vendor's own servers work"
	echoed     = "what other servers put into a message, given back"
	otherTools = "tools that a vendor's servers run are left out of the prompt"
)

// fields are those of both routes; generates are about an answer, and refusing about what would be another one.
func fields(route string, generates func(...string) []turn.Field, refusing func(why string, names ...string) []turn.Field) *turn.Table {
	return turn.NewTable(route,
		turn.Honour("model", "messages", "messages[].role", "messages[].content", "messages[].content[].type", "messages[].content[].text",
			"messages[].content[].thinking", "messages[].content[].id", "messages[].content[].name", "messages[].content[].input",
			"messages[].content[].tool_use_id", "messages[].content[].content", "messages[].content[].content[].type", "messages[].content[].content[].text",
			"messages[].content[].content[].title", "messages[].content[].content[].context", "messages[].content[].content[].content",
			"messages[].content[].content[].source", "messages[].content[].content[].source.type", "messages[].content[].content[].source.data",
			"messages[].content[].content[].source.content", "messages[].content[].source.content", "messages[].content[].is_error", "messages[].content[].source", "messages[].content[].source.type",
			"messages[].content[].source.data", "messages[].content[].title", "messages[].content[].context"),
		turn.NoEffect(echoed, "messages[].*", "messages[].content[].*", "messages[].content[].content[].*", "messages[].content[].source.*",
			"messages[].content[].content[].source.*",
			"messages[].content[].content.*", "messages[].content[].content[].content.*"),
		turn.Honour("system", "system[].type", "system[].text"), turn.NoEffect(elsehow, "system[].*"),
		generates("max_tokens", "stop_sequences", "stream", "temperature", "top_p", "top_k"),
		turn.OnlyTypes("tools[]", otherTools, "custom"),
		turn.Honour("tools", "tools[].type", "tools[].name", "tools[].description", "tools[].input_schema", "tools[].strict"),
		turn.NoEffect("a tool is its name, description and schema", "tools[].*"),
		turn.Honour("tool_choice", "tool_choice.type", "tool_choice.name", "tool_choice.disable_parallel_tool_use"), turn.NoEffect(elsehow, "tool_choice.*"),
		turn.Honour("thinking", "thinking.type", "thinking.budget_tokens"), turn.NoEffect("thoughts are given whole", "thinking.*"),
		turn.Honour("output_config", "output_config.format", "output_config.format.type", "output_config.format.schema"),
		turn.NoEffect("no model here has degrees of it", "output_config.*", "output_config.format.*"),
		turn.Honour("output_format", "output_format.type", "output_format.schema"), turn.NoEffect(elsehow, "output_format.*"),
		turn.NoEffect("it names a request and changes nothing", "metadata"),
		turn.Default("service_tier", elsehow, `"auto"`, `"standard_only"`), turn.Default("speed", elsehow, `"standard"`),
		turn.NoEffect(elsehow, "context_management", "cache_control", "inference_geo", "betas", "anthropic_beta", "diagnostics", "context_hint", "fallbacks",
			"billing_policy", "fallback_credit_token", "user_profile_id", "workspace_id"),
		refusing("this server keeps no conversations of this API", "thread"), refusing("this server makes no summaries of its own", "compaction"),
		turn.OnlyAt("mcp_servers", "this server asks no others", "[]"), turn.Refuse("there are no containers here", "container"),
	)
}

// Tables of fields.
var (
	MessageFields = fields("POST /v1/messages", turn.Honour, turn.Refuse)
	CountFields   = fields("POST /v1/messages/count_tokens", func(names ...string) []turn.Field {
		return turn.NoEffect("tokens are counted, and nothing is generated", names...)
	}, turn.NoEffect)
)

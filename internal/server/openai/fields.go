// Package openai translates OpenAI's APIs: chats, completions, responses and embeddings.
package openai

import "forge.lthn.ai/core/go-mlx/internal/server/turn"

// Reasons that several rows share.
const (
	label    = "it names a request and changes nothing"
	elsehow  = "it is about how a vendor's own servers work"
	aside    = "it asks for more beside the answer"
	textOnly = "there is text only"
	noSuch   = "this server has no such sampler"
)

// requestMetadata are fields that may be given with every request and change nothing in its answer.
func requestMetadata() []turn.Field {
	return join(
		turn.NoEffect(label, "user", "safety_identifier", "metadata", "client_metadata"), tier(), turn.Default("verbosity", elsehow, `"medium"`),
		turn.NoEffect(elsehow, "store", "prompt_cache_retention", "prompt_cache_options", "moderation", "extra_headers", "provider",
			"keep_alive", "cache_prompt", "id_slot", "num_ctx", "caching", "litellm_metadata", "timings_per_token", "return_progress"))
}

// tier is the vendor's class of service.
func tier() []turn.Field { return turn.Default("service_tier", elsehow, `"auto"`, `"default"`) }

// otherSamplers are those of other servers, at the values at which they do nothing.
func otherSamplers() []turn.Field {
	return join(
		turn.OnlyAt("mirostat", noSuch, "0"), turn.OnlyAt("typical_p", noSuch, "1"), turn.OnlyAt("dry_multiplier", noSuch, "0"),
		turn.OnlyAt("tfs_z", noSuch, "1"), turn.OnlyAt("top_a", noSuch, "0"), turn.OnlyAt("min_tokens", noSuch, "0"),
		turn.OnlyAt("ignore_eos", "an answer ends where the model ends it", "false"), turn.OnlyAt("use_beam_search", noSuch, "false"),
		turn.OnlyAt("length_penalty", noSuch, "1"), turn.OnlyAt("skip_special_tokens", "special tokens are no text", "true"),
		turn.OnlyAt("spaces_between_special_tokens", "special tokens are no text", "true", "false"),
		turn.OnlyAt("include_stop_str_in_output", "a stop string is no part of the answer", "false"),
		turn.OnlyAt("repeat_penalty", "it is repetition_penalty here", "1"), turn.OnlyAt("n_probs", "use top_logprobs", "0"),
		turn.OnlyAt("add_special_tokens", "the chat template writes them", "false"), turn.OnlyAt("return_tokens_as_token_ids", "tokens are texts", "false"),
		turn.OnlyAt("dynatemp_range", noSuch, "0"), turn.OnlyAt("top_n_sigma", noSuch, "-1", "0"), turn.OnlyAt("min_keep", noSuch, "0"),
		turn.NoEffect("there are no such samplers, or they are at nothing", "repeat_last_n", "samplers", "mirostat_tau", "mirostat_eta", "dry_base",
			"dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "dynatemp_exponent", "n_keep"),
		turn.OnlyAt("stop_token_ids", "name the end as a stop string", "[]"), turn.OnlyAt("bad_words", "use logit_bias", "[]"),
	)
}

func join(groups ...[]turn.Field) (out []turn.Field) {
	for _, g := range groups {
		out = append(out, g...)
	}
	return out
}

const otherTools = "tools that a vendor's servers run are left out of the prompt"

// Tables of fields.
var (
	ChatFields = turn.NewTable("POST /v1/chat/completions", turn.OnlyAt("echo", "an answer is what follows the messages", "false"),
		turn.Honour("model", "messages", "messages[].role", "messages[].content", "messages[].content[].type", "messages[].content[].text",
			"messages[].content[].refusal", "messages[].name", "messages[].tool_call_id", "messages[].tool_calls", "messages[].tool_calls[].id",
			"messages[].tool_calls[].type", "messages[].tool_calls[].index", "messages[].tool_calls[].function", "messages[].tool_calls[].function.name",
			"messages[].tool_calls[].function.arguments", "messages[].tool_calls[].custom", "messages[].reasoning_content", "messages[].reasoning",
			"messages[].refusal", "messages[].prefix", "messages[].function_call", "messages[].function_call.name", "messages[].function_call.arguments"),
		turn.NoEffect("what other servers put into a message, given back", "messages[].*", "messages[].content[].*", "messages[].tool_calls[].*",
			"messages[].tool_calls[].function.*"),
		turn.Honour("stream", "stream_options", "stream_options.include_usage"), turn.NoEffect(elsehow, "stream_options.*"),
		turn.Honour("max_tokens", "max_completion_tokens", "n", "stop", "logprobs", "top_logprobs"),
		turn.OnlyTypes("tools[]", otherTools, "function"),
		turn.Honour("tools", "tools[].type", "tools[].function", "tools[].function.name", "tools[].function.description", "tools[].function.parameters",
			"tools[].function.strict"),
		turn.NoEffect("a tool is its name, description and schema", "tools[].*", "tools[].function.*"),
		turn.Honour("tool_choice", "parallel_tool_calls", "response_format", "response_format.type", "response_format.json_schema",
			"response_format.json_schema.schema", "response_format.json_schema.name", "response_format.json_schema.description",
			"response_format.json_schema.strict"),
		turn.NoEffect("the schema counts", "response_format.*", "response_format.json_schema.*"),
		turn.Honour("reasoning", "reasoning.effort", "reasoning.enabled", "reasoning.max_tokens", "thinking", "thinking.type", "thinking.budget_tokens",
			"enable_thinking", "thinking_budget", "thinking_token_budget", "thinking_budget_tokens"),
		turn.OnlyAt("reasoning_format", "a thought is reasoning_content", `"auto"`, `"parsed"`, `"deepseek"`),
		turn.NoEffect("thoughts are given whole", "reasoning.*", "thinking.*", "include_reasoning"),
		turn.Honour("reasoning_effort", "prompt_cache_key", "chat_template_kwargs", "continue_final_message", "add_generation_prompt"),
		turn.SamplingFields(), requestMetadata(), otherSamplers(),
		turn.OnlyAt("modalities", textOnly, `["text"]`), turn.OnlyAt("best_of", "ask for n answers", "1"),
		turn.NoEffect("a model that runs here predicts by its draft model", "prediction"),
		turn.Refuse(textOnly, "audio"), turn.Refuse("this server looks nothing up", "web_search_options"),
		turn.OnlyAt("functions", "give them as tools", "[]"), turn.OnlyAt("function_call", "use tool_choice", `"none"`, `"auto"`),
	)

	CompletionFields = turn.NewTable("POST /v1/completions",
		turn.Honour("model", "prompt", "stream", "stream_options", "stream_options.include_usage"), turn.NoEffect(elsehow, "stream_options.*"),
		turn.Honour("max_tokens", "n", "stop", "logprobs", "echo"),
		turn.SamplingFields(), requestMetadata(), otherSamplers(),
		turn.OnlyAt("best_of", "ask for n answers", "1"), turn.OnlyAt("suffix", "the models go on from a prompt only", `""`),
	)

	EmbeddingFields = turn.NewTable("POST /v1/embeddings",
		turn.Honour("model", "input", "encoding_format", "dimensions", "prompt_name"), turn.NoEffect(label, "user", "input_type", "truncate"))

	ResponseFields = turn.NewTable("POST /v1/responses",
		turn.Honour("model", "input", "input[].type", "input[].id", "input[].status", "input[].role", "input[].content", "input[].content[].type",
			"input[].content[].text", "input[].content[].refusal", "input[].call_id", "input[].name", "input[].arguments", "input[].input",
			"input[].output", "input[].output.*", "input[].output[].type", "input[].output[].text", "input[].summary", "input[].summary[].type", "input[].summary[].text",
			"input[].tools", "input[].tools[].type", "input[].tools[].name", "input[].tools[].description", "input[].tools[].parameters", "input[].tools[].strict",
			"input[].reasoning", "input[].text"),
		turn.OnlyTypes("input[].tools[]", otherTools, "function"),
		turn.NoEffect("what servers put into an item, given back", "input[].*", "input[].content[].*", "input[].output[].*", "input[].summary[].*", "input[].tools[].*"),
		turn.Honour("instructions", "previous_response_id", "max_output_tokens", "stop", "stream"),
		turn.SamplingFields(), turn.NoEffect(elsehow, "stream_options"),
		turn.OnlyTypes("tools[]", otherTools, "function"),
		turn.Honour("tools", "tools[].type", "tools[].name", "tools[].description", "tools[].parameters", "tools[].strict"),
		turn.NoEffect("a tool is its name, description and schema", "tools[].*"),
		turn.Honour("tool_choice", "parallel_tool_calls", "text", "text.format", "text.format.type", "text.format.name", "text.format.description",
			"text.format.schema", "text.format.strict"), turn.Default("text.verbosity", "no model here has degrees of it", `"medium"`), turn.NoEffect("no model here has degrees of it", "text.*", "text.format.*"),
		turn.Honour("reasoning", "reasoning.effort"), turn.NoEffect("thoughts are given whole", "reasoning.*"),
		turn.NoEffect(aside, "include"), turn.Default("top_logprobs", aside, "0"), turn.NoEffect("there are no tools of the server's own", "max_tool_calls"),
		turn.Default("truncation", "a conversation that is too long is an error", `"disabled"`),
		turn.Honour("store", "metadata", "prompt_cache_key"),
		turn.NoEffect(label, "user", "safety_identifier", "client_metadata"),
		tier(),
		turn.NoEffect(elsehow, "prompt_cache_retention", "prompt_cache_options", "moderation", "context_management", "access_programs", "background_options", "image",
			"extra_headers"),
		turn.OnlyAt("background", "a response ends with its request here", "false"),
		turn.Refuse("this server keeps responses (previous_response_id), no conversations", "conversation"),
		turn.Refuse("this server keeps no prompts", "prompt"),
	)
)

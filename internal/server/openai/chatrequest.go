package openai

import (
	"maps"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// ChatRequest is the body of /v1/chat/completions; ChatFields has what becomes of its fields.
type ChatRequest struct {
	turn.Sampling
	Model                string        `json:"model"`
	Messages             []chatMessage `json:"messages"`
	Stream               bool          `json:"stream"`
	StreamOptions        *usageOption  `json:"stream_options"`
	MaxTokens            *turn.Count   `json:"max_tokens"`
	MaxCompletionTokens  *turn.Count   `json:"max_completion_tokens"`
	N                    *turn.Count   `json:"n"`
	Stop                 turn.Strings  `json:"stop"`
	LogProbs             bool          `json:"logprobs"`
	TopLogProbs          *turn.Count   `json:"top_logprobs"`
	Tools                []chatTool    `json:"tools"`
	ToolChoice           toolChoice    `json:"tool_choice"`
	ParallelToolCalls    *bool         `json:"parallel_tool_calls"`
	ResponseFormat       chatFormat    `json:"response_format"`
	ReasoningEffort      *string       `json:"reasoning_effort"`
	Reasoning            *reasoning    `json:"reasoning"`
	Thinking             *thinking     `json:"thinking"`
	EnableThinking       *bool         `json:"enable_thinking"`
	ThinkingBudget       *turn.Count   `json:"thinking_budget"`        // as in Qwen's API
	ThinkingTokenBudget  *turn.Count   `json:"thinking_token_budget"`  // as in vLLM
	ThinkingBudgetTokens *turn.Count   `json:"thinking_budget_tokens"` // as in llama.cpp's server
	PromptCacheKey       string        `json:"prompt_cache_key"`
	ContinueFinalMessage bool          `json:"continue_final_message"` // as in vLLM
	AddGenerationPrompt  *bool         `json:"add_generation_prompt"`

	ChatTemplateKwargs map[string]any `json:"chat_template_kwargs"` // as in mlx_lm.server
}

// reasoning is how OpenRouter's clients say how much a model may think.
type reasoning struct {
	Effort    *string     `json:"effort"`
	Enabled   *bool       `json:"enabled"`
	MaxTokens *turn.Count `json:"max_tokens"`
}

// thinking is how Anthropic's, DeepSeek's and GLM's clients say it.
type thinking struct {
	Type         string      `json:"type"`
	BudgetTokens *turn.Count `json:"budget_tokens"`
}

// effort is how much the model may think, in whichever way the request says so; and how many tokens of it.
func (q *ChatRequest) effort(w *turn.Spec) error {
	say := func(field string, on bool, tokens *turn.Count) {
		degree := "medium"
		if !on {
			degree = "none"
		}
		w.Effort = &degree
		w.Names = turn.Names{"Effort": field, "Budget": field, "WithMaxTokens": w.Names.Of("WithMaxTokens")}
		if tokens != nil {
			w.Budget = int(*tokens)
		}
	}
	r, t := q.Reasoning, q.Thinking
	switch {
	case q.ReasoningEffort != nil:
		w.Effort = q.ReasoningEffort
	case r != nil && r.Effort != nil:
		say("reasoning", true, r.MaxTokens)
		w.Effort = r.Effort
	case r != nil && (r.Enabled != nil || r.MaxTokens != nil):
		say("reasoning", r.Enabled == nil || *r.Enabled, r.MaxTokens)
	case t != nil:
		switch t.Type {
		case "disabled":
			say("thinking", false, nil)
		case "enabled", "adaptive", "auto":
			say("thinking", true, t.BudgetTokens)
		default:
			return turn.Bad("thinking.type", "%q; there are enabled, disabled, adaptive and auto", t.Type)
		}
	case q.EnableThinking != nil:
		say("enable_thinking", *q.EnableThinking, nil)
	}
	q.limitThought(w)
	return nil
}

// limitThought takes a limit of the thought that has a field of its own: -1 is none, and 0 leaves no room to think.
func (q *ChatRequest) limitThought(w *turn.Spec) {
	field, budget := "thinking_budget", q.ThinkingBudget
	if budget == nil {
		field, budget = "thinking_token_budget", q.ThinkingTokenBudget
	}
	if budget == nil {
		field, budget = "thinking_budget_tokens", q.ThinkingBudgetTokens
	}
	if budget == nil || *budget == -1 || w.Effort != nil && *w.Effort == "none" {
		return
	}
	names := maps.Clone(w.Names)
	if names == nil {
		names = turn.Names{}
	}
	names["Budget"], w.Names, w.Budget = field, names, int(*budget)
	if *budget == 0 {
		none := "none"
		names["Effort"], w.Effort = field, &none
	}
}

type usageOption struct {
	IncludeUsage bool `json:"include_usage"`
}

type chatMessage struct {
	Role             string        `json:"role"`
	Content          textParts     `json:"content"`
	Name             string        `json:"name"`
	ToolCallID       string        `json:"tool_call_id"`
	ToolCalls        []sentCall    `json:"tool_calls"`
	ReasoningContent string        `json:"reasoning_content"`
	Reasoning        string        `json:"reasoning"`
	Refusal          string        `json:"refusal"`
	FunctionCall     *callFunction `json:"function_call"` // how calls were written before there were tools
	Prefix           bool          `json:"prefix"`        // the answer continues this message, as in Mistral's and DeepSeek's APIs
}

// sentCall is a call in an earlier message.
type sentCall struct {
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Index    *int         `json:"index"`
	Function callFunction `json:"function"`
	Custom   *struct {
		Name  string `json:"name"`
		Input string `json:"input"`
	} `json:"custom"`
}

type callFunction struct {
	Name      string     `json:"name,omitzero"`
	Arguments jsonString `json:"arguments"`
}

// jsonString is JSON in a string. Some programs send the JSON itself.
type jsonString string

func (a *jsonString) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '"' {
		value, err := d.ReadValue()
		*a = jsonString(value)
		return err
	}
	return json.UnmarshalDecode(d, (*string)(a))
}

type chatTool struct {
	Type     string       `json:"type"`
	Function functionSpec `json:"function"`
}

type chatFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Name        string         `json:"name"`
		Description string         `json:"description"`
		Schema      jsontext.Value `json:"schema"`
		Strict      bool           `json:"strict"` // what a grammar cannot keep is an error
	} `json:"json_schema"`
}

// ModelName is the model that the request names.
func (q *ChatRequest) ModelName() string { return q.Model }

// UseModel names the model of a request that names none.
func (q *ChatRequest) UseModel(name string) { q.Model = name }

// Streams says whether the answer is streamed.
func (q *ChatRequest) Streams() bool { return q.Stream }

// Named are the API's names of the fields that set options.
func (q *ChatRequest) Named() turn.Names {
	if q.MaxCompletionTokens != nil {
		return turn.Names{"WithMaxTokens": "max_completion_tokens"}
	}
	return nil
}

// Spec is the request in the form that all APIs share.
func (q *ChatRequest) Spec() (*turn.Spec, error) {
	messages, last, err := q.turnMessages()
	if err != nil {
		return nil, err
	}
	switch {
	case q.StreamOptions != nil && !q.Stream:
		return nil, turn.Bad("stream_options", "goes with stream")
	case q.TopLogProbs != nil && *q.TopLogProbs > 0 && !q.LogProbs:
		return nil, turn.Bad("top_logprobs", "goes with logprobs")
	case q.N != nil && *q.N < 1:
		return nil, turn.Bad("n", "%d is not between 1 and %d", *q.N, turn.MaxChoices)
	case q.AddGenerationPrompt != nil && !*q.AddGenerationPrompt && !q.ContinueFinalMessage:
		return nil, turn.Bad("add_generation_prompt", "without it the last message has to be continued: continue_final_message")
	}
	q.plainTemplateArguments()
	var list []turn.Tool
	for i, t := range q.Tools {
		if t.Type == "function" || t.Type == "" {
			list = append(list, t.Function.tool(turn.At("tools", i, "function")))
		}
	}
	w := &turn.Spec{
		Messages: messages, Continue: last, Tools: toolsOf(list, q.ToolChoice, q.ParallelToolCalls), Sampling: &q.Sampling, Stop: q.Stop,
		Format:    turn.Format{Type: q.ResponseFormat.Type, Schema: q.ResponseFormat.JSONSchema.Schema, Loose: !q.ResponseFormat.JSONSchema.Strict, Field: "response_format"},
		Arguments: q.ChatTemplateKwargs, MaxTokens: q.MaxTokens.Int(), Session: q.PromptCacheKey,
		LogProbs: q.LogProbs, Names: q.Named(),
	}
	if err := q.effort(w); err != nil {
		return nil, err
	}
	if q.MaxCompletionTokens != nil {
		w.MaxTokens = q.MaxCompletionTokens.Int()
	}
	if q.N != nil {
		w.Choices = int(*q.N)
	}
	if q.TopLogProbs != nil {
		w.TopLogProbs = int(*q.TopLogProbs)
	}
	return w, nil
}

// plainTemplateArguments leaves out what says nothing: null, and how chats are rendered anyway.
func (q *ChatRequest) plainTemplateArguments() {
	maps.DeleteFunc(q.ChatTemplateKwargs, func(name string, value any) bool {
		return value == nil || name == "add_generation_prompt" && value == true || name == "continue_final_message" && value == false
	})
}

// turnMessages gives the messages their form for the engines; last says that the answer continues the last one.
func (q *ChatRequest) turnMessages() (out []mlx.Message, last bool, err error) {
	if len(q.Messages) == 0 {
		return nil, false, turn.Bad("messages", "there are none")
	}
	last = q.ContinueFinalMessage
	for i, m := range q.Messages {
		role := m.Role
		switch role {
		case "developer":
			role = "system"
		case "function":
			role = "tool"
		case "system", "user", "assistant", "tool":
		default:
			return nil, false, wrongRole(turn.At("messages", i, "role"), m.Role)
		}
		message := mlx.Message{
			Role: role, Content: string(m.Content) + m.Refusal, Name: m.Name, ToolCallID: m.ToolCallID, Reasoning: m.ReasoningContent,
		}
		if message.Reasoning == "" {
			message.Reasoning = m.Reasoning
		}
		for _, call := range m.ToolCalls {
			if call.Custom != nil {
				c, err := customCall(call.ID, call.Custom.Name, call.Custom.Input)
				if err != nil {
					return nil, false, err
				}
				message.ToolCalls = append(message.ToolCalls, c)
				continue
			}
			message.ToolCalls = append(message.ToolCalls, mlx.ToolCall{ID: call.ID, Type: "function", Function: mlx.FunctionCall{Name: call.Function.Name, Arguments: arguments(string(call.Function.Arguments))}})
		}
		if m.FunctionCall != nil {
			message.ToolCalls = append(message.ToolCalls, mlx.ToolCall{ID: m.FunctionCall.Name, Type: "function", Function: mlx.FunctionCall{Name: m.FunctionCall.Name, Arguments: arguments(string(m.FunctionCall.Arguments))}})
		}
		if m.Role == "function" && message.ToolCallID == "" {
			message.ToolCallID = m.Name
		}
		out = append(out, message)
		last = last || m.Prefix && i == len(q.Messages)-1
	}
	return out, last, nil
}

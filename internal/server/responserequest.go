package server

import (
	"encoding/json"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	mlx "forge.lthn.ai/core/go-mlx"
)

// responseRequest is the body of /v1/responses.
type responseRequest struct {
	Model              string             `json:"model"`
	Input              responseInput      `json:"input"`
	Instructions       string             `json:"instructions"`
	PreviousResponseID string             `json:"previous_response_id"`
	MaxOutputTokens    *int               `json:"max_output_tokens"`
	Temperature        *float32           `json:"temperature"`
	TopP               *float32           `json:"top_p"`
	Stream             bool               `json:"stream"`
	StreamOptions      *streamOptions     `json:"stream_options"`
	Store              *bool              `json:"store"`
	Tools              []responseTool     `json:"tools"`
	ToolChoice         chatToolChoice     `json:"tool_choice"`
	ParallelToolCalls  *bool              `json:"parallel_tool_calls"`
	Text               responseText       `json:"text"`
	Reasoning          *responseReasoning `json:"reasoning"`
	PromptCacheKey     string             `json:"prompt_cache_key"`
	Truncation         string             `json:"truncation"`
	Background         bool               `json:"background"`
	ServiceTier        serviceTier        `json:"service_tier"`
	labels
}

type responseReasoning struct {
	Effort *string `json:"effort"`
}

type responseText struct {
	Format responseFormat `json:"format"`
}

type responseFormat struct {
	Type        string         `json:"type"`
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Schema      jsontext.Value `json:"schema"`
	Strict      *bool          `json:"strict"`
}

type responseTool struct {
	Type string `json:"type"`
	functionSpec
}

// responseInput is a text, or a list of items.
type responseInput []responseItem

func (in *responseInput) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '[' {
		return jsonv2.UnmarshalDecode(d, (*[]responseItem)(in))
	}
	var text string
	if err := jsonv2.UnmarshalDecode(d, &text); err != nil {
		return err
	}
	*in = responseInput{{Role: "user", Content: textParts(text)}}
	return nil
}

// responseItem is a message, a call, what it returned, or a thought.
type responseItem struct {
	Type      string         `json:"type"`
	ID        string         `json:"id"`
	Status    string         `json:"status"`
	Role      string         `json:"role"`
	Content   textParts      `json:"content"`
	CallID    string         `json:"call_id"`
	Name      string         `json:"name"`
	Arguments string         `json:"arguments"`
	Output    textParts      `json:"output"`
	Summary   jsontext.Value `json:"summary"`
	Encrypted *string        `json:"encrypted_content"`
}

// turnMessages gives the input its form for the engines, behind an earlier conversation.
func (q *responseRequest) turnMessages(earlier []mlx.Message) ([]mlx.Message, error) {
	var out []mlx.Message
	if q.Instructions != "" {
		out = append(out, mlx.Message{Role: "system", Content: q.Instructions})
	}
	out = append(out, earlier...)
	// Thought, text and calls of one answer are several items, and one message.
	assistant := func() *mlx.Message {
		if n := len(out); n > 0 && out[n-1].Role == "assistant" {
			return &out[n-1]
		}
		out = append(out, mlx.Message{Role: "assistant"})
		return &out[len(out)-1]
	}
	for i, item := range q.Input {
		switch item.Type {
		case "", "message":
			switch item.Role {
			case "system", "user":
				out = append(out, mlx.Message{Role: item.Role, Content: string(item.Content)})
			case "developer":
				out = append(out, mlx.Message{Role: "system", Content: string(item.Content)})
			case "assistant":
				assistant().Content += string(item.Content)
			default:
				return nil, wrongRole(atIndex("input", i, "role"), item.Role)
			}
		case "function_call":
			if !json.Valid([]byte(item.Arguments)) {
				return nil, badField(atIndex("input", i, "arguments"), "not JSON")
			}
			m := assistant()
			m.ToolCalls = append(m.ToolCalls, mlx.ToolCall{ID: item.CallID, Type: "function", Function: mlx.FunctionCall{Name: item.Name, Arguments: json.RawMessage(item.Arguments)}})
		case "function_call_output":
			out = append(out, mlx.Message{Role: "tool", ToolCallID: item.CallID, Content: string(item.Output)})
		case "reasoning":
			assistant().Reasoning += string(item.Content)
		default:
			return nil, badField(atIndex("input", i, "type"), "%q; there are message, function_call, function_call_output and reasoning", item.Type)
		}
	}
	if len(out) == 0 {
		return nil, badField("input", "there is none")
	}
	return out, nil
}

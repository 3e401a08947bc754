package openai

import (
	"net/url"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// inputItem is an item of the request, as it is given back.
type inputItem struct {
	Type      string         `json:"type"`
	ID        string         `json:"id"`
	Status    string         `json:"status,omitzero"`
	Role      string         `json:"role,omitzero"`
	Content   *[]contentPart `json:"content,omitzero"`
	CallID    string         `json:"call_id,omitzero"`
	Name      string         `json:"name,omitzero"`
	Arguments *string        `json:"arguments,omitzero"`
	Input     *string        `json:"input,omitzero"`
	Output    *string        `json:"output,omitzero"`
	Summary   *[]contentPart `json:"summary,omitzero"`
	Tools     jsontext.Value `json:"tools,omitzero"`
}

// partsOf is the only part of a text; none of an empty one.
func partsOf(kind, text string) *[]contentPart {
	parts := []contentPart{}
	if text != "" {
		parts = append(parts, contentPart{Type: kind, Text: text})
	}
	return &parts
}

func (q *ResponseRequest) inputItems() []inputItem {
	out := []inputItem{}
	for _, item := range q.Input {
		in := inputItem{Type: item.Type, ID: item.ID, Status: item.Status, Role: item.Role, CallID: item.CallID, Name: item.Name}
		if in.ID == "" {
			in.ID = turn.NewID("item_")
		}
		arguments, output := string(item.Arguments), string(item.Output)
		switch item.Type {
		case "", "message":
			in.Type, in.Status = "message", "completed"
			part := contentPart{Type: "input_text", Text: string(item.Content)}
			if item.Role == "assistant" {
				part = partOf(turn.Text, string(item.Content))
			}
			in.Content = &[]contentPart{part}
		case "reasoning":
			in.Summary, in.Content = partsOf("summary_text", string(item.Summary)), partsOf("reasoning_text", string(item.Content))
		case "agent_message":
			in.Content = partsOf("input_text", string(item.Content))
		case "additional_tools":
			in.Tools = item.Tools
		case "function_call":
			in.Arguments = &arguments
		case "custom_tool_call":
			in.Input = &item.Input
		case "function_call_output", "custom_tool_call_output":
			in.Output = &output
		}
		out = append(out, in)
	}
	return out
}

// itemPage is a page of items.
type itemPage struct {
	Object  string      `json:"object"`
	Data    []inputItem `json:"data"`
	FirstID string      `json:"first_id"`
	LastID  string      `json:"last_id"`
	HasMore bool        `json:"has_more"`
}

// InputItems are the items of the request of a response that is kept: the last one first, unless the query says otherwise.
func (s *ResponseStore) InputItems(id string, query url.Values) (any, error) {
	stored, ok := s.get(id)
	if !ok {
		return nil, noResponse(id)
	}
	items := slices.Clone(stored.input)
	switch order := query.Get("order"); order {
	case "asc":
	case "", "desc":
		slices.Reverse(items)
	default:
		return nil, turn.Bad("order", "%q; there are asc and desc", order)
	}
	if after := query.Get("after"); after != "" {
		at := slices.IndexFunc(items, func(item inputItem) bool { return item.ID == after })
		if at < 0 {
			return nil, turn.Bad("after", "there is no item %q", after)
		}
		items = items[at+1:]
	}
	limit := 20
	if given := query.Get("limit"); given != "" {
		var err error
		if limit, err = strconv.Atoi(given); err != nil || limit < 1 || limit > 100 {
			return nil, turn.Bad("limit", "%q is not between 1 and 100", given)
		}
	}
	page := itemPage{Object: "list", Data: items[:min(limit, len(items))], HasMore: len(items) > limit}
	if n := len(page.Data); n > 0 {
		page.FirstID, page.LastID = page.Data[0].ID, page.Data[n-1].ID
	}
	return page, nil
}

package turn

import (
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Mistral's templates refuse ids of calls that have not nine letters: whatever the client has, they get some, and calls keep their results.
func TestIDsThatATemplateTakes(t *testing.T) {
	strict := &Facts{Template: `{%- if tool_call.id is not defined or tool_call.id|length != 9 %}{{ raise_exception("length 9!") }}`}
	given := []mlx.ToolCall{{ID: "call_0123456789abcdef"}, {ID: "abcDEF123"}, {ID: ""}, {ID: "toolu_9$"}}
	messages := []mlx.Message{
		{Role: "user", Content: "x"}, {Role: "assistant", ToolCalls: given}, {Role: "tool", ToolCallID: "call_0123456789abcdef"},
		{Role: "tool", ToolCallID: "abcDEF123"}, {Role: "tool"}, {Role: "tool", ToolCallID: "toolu_9$"},
	}
	shortIDs(strict, messages)
	for i, call := range messages[1].ToolCalls {
		require.Regexp(t, "^[a-zA-Z0-9]{9}$", call.ID)
		require.Equal(t, call.ID, messages[2+i].ToolCallID)
	}
	require.Equal(t, "abcDEF123", messages[3].ToolCallID, "what it takes stays")
	require.Equal(t, "call_0123456789abcdef", given[0].ID, "the client's own list is left alone")
	free := []mlx.Message{{Role: "tool", ToolCallID: "call_1"}}
	shortIDs(&Facts{Template: "{{ tool_call.id }}"}, free)
	require.Equal(t, "call_1", free[0].ToolCallID)
}

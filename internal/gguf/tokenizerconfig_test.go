package gguf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATemplateForFunctionsIsKept(t *testing.T) {
	h := &Header{Metadata: map[string]any{"tokenizer.chat_template": "plain"}}
	require.Equal(t, "plain", h.TokenizerConfig()["chat_template"])
	h.Metadata["tokenizer.chat_template.tool_use"] = "with tools"
	require.Equal(t, []map[string]string{{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}}, h.TokenizerConfig()["chat_template"])
}

func TestATemplateOfAnotherKindIsNoText(t *testing.T) {
	for _, value := range []any{int64(3), []string{"{{ 1 }}"}, 0.5, true} {
		h := &Header{Metadata: map[string]any{"tokenizer.chat_template": value}}
		require.Equal(t, false, h.TokenizerConfig()["chat_template"], "so that chats name it")
	}
}

package native

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// RenderChat applies the chat template and opens the assistant's turn.
func (m *Model) RenderChat(_ context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	if err := (engine.Prompt{Messages: messages}).Validate(); err != nil {
		return "", err
	}
	return m.renderChat(messages, templateExtras(options))
}

// renderChat gives extras to the template by name.
func (m *Model) renderChat(messages any, extras map[string]any) (string, error) {
	switch {
	case m.templateErr != nil:
		return "", fmt.Errorf("%w that the native engine can read: %w; load the model with the python engine to chat", engine.ErrNoChatTemplate, m.templateErr)
	case m.template == nil:
		return "", engine.ErrNoChatTemplate
	}
	text, err := m.template.Render(messages, true, extras)
	return text, m.explain(err)
}

// encodePrompt turns any form of prompt into ids and checks them.
func (m *Model) encodePrompt(ctx context.Context, p engine.Prompt, extras map[string]any) ([]int32, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	ids := p.IDs
	var err error
	switch {
	case len(p.Messages) > 0:
		ids, err = m.encodeChatPrompt(ctx, p, extras)
	case p.Plain:
		ids, err = m.encodePlain(ctx, p.Text)
	case p.Text != "":
		// A text that was rendered by the template has <bos> already; as in mlx-lm.
		ids, err = m.Encode(ctx, p.Text, m.bos == "" || !strings.HasPrefix(p.Text, m.bos))
	}
	if err != nil {
		return nil, err
	}
	return ids, m.checkIDs(ids)
}

// encodeChatPrompt renders messages; the template writes <bos> itself.
func (m *Model) encodeChatPrompt(ctx context.Context, p engine.Prompt, extras map[string]any) ([]int32, error) {
	if !p.Plain {
		text, err := m.renderChat(p.Messages, extras)
		if err != nil {
			return nil, err
		}
		return m.Encode(ctx, text, false)
	}
	data, err := json.Marshal(map[string]any{"messages": p.Messages, "extras": extras})
	if err != nil {
		return nil, err
	}
	if data, err = m.plain.MarkJSON(data); err != nil {
		return nil, fmt.Errorf("messages: %w", err)
	}
	var marked struct {
		Messages json.RawMessage            `json:"messages"`
		Extras   map[string]json.RawMessage `json:"extras"`
	}
	if err := json.Unmarshal(data, &marked); err != nil {
		return nil, err
	}
	extras = map[string]any{}
	for name, value := range marked.Extras {
		extras[name] = value
	}
	text, err := m.renderChat(marked.Messages, extras)
	if err != nil {
		return nil, err
	}
	ids, err := m.plain.Encode(text)
	return ids, m.explain(err)
}

// encodePlain encodes a prompt for a model without a template, with what the tokenizer puts in front of every text.
func (m *Model) encodePlain(ctx context.Context, text string) ([]int32, error) {
	front, err := m.Encode(ctx, "", true)
	if err != nil {
		return nil, err
	}
	if n := len(front); n > 0 && front[n-1] == m.endToken {
		front = front[:n-1]
	}
	ids, err := m.plain.Encode(m.plain.Mark(text))
	return append(front, ids...), m.explain(err)
}

package prompt

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// RenderChat applies the chat template and opens the assistant's turn.
func (e *Encoder) RenderChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) (string, error) {
	if err := (engine.Prompt{Messages: messages}).Validate(); err != nil {
		return "", err
	}
	if err := options.ValidateTemplate(); err != nil {
		return "", err
	}
	return e.Render(ctx, messages, TemplateExtras(options))
}

// Render gives extras to the template by name.
func (e *Encoder) Render(ctx context.Context, messages any, extras map[string]any) (string, error) {
	switch {
	case e.templateErr != nil:
		return "", fmt.Errorf("%w that the native engine can read: %w; load the model with the python engine to chat", engine.ErrNoChatTemplate, e.templateErr)
	case e.Template == nil:
		return "", engine.ErrNoChatTemplate
	}
	text, err := e.Template.Render(ctx, messages, true, extras)
	return text, Explain(err)
}

// EncodePrompt turns any form of prompt into ids and checks them.
func (e *Encoder) EncodePrompt(ctx context.Context, p engine.Prompt, extras map[string]any) ([]int32, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	ids := p.IDs
	var err error
	switch {
	case len(p.Messages) > 0:
		ids, err = e.encodeChatPrompt(ctx, p, extras)
	case p.Plain:
		ids, err = e.EncodePlain(ctx, p.Text)
	case p.Text != "":
		// A text that was rendered by the template has <bos> already; as in mlx-lm.
		ids, err = e.Encode(ctx, p.Text, e.bos == "" || !strings.HasPrefix(p.Text, e.bos))
	}
	if err != nil {
		return nil, err
	}
	return ids, e.CheckIDs(ids)
}

// encodeChatPrompt renders messages; the template writes <bos> itself.
func (e *Encoder) encodeChatPrompt(ctx context.Context, p engine.Prompt, extras map[string]any) ([]int32, error) {
	if !p.Plain {
		text, err := e.Render(ctx, p.Messages, extras)
		if err != nil {
			return nil, err
		}
		return e.Encode(ctx, text, false)
	}
	data, err := json.Marshal(map[string]any{"messages": p.Messages, "extras": extras})
	if err != nil {
		return nil, err
	}
	if data, err = e.plain.MarkJSON(data); err != nil {
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
	text, err := e.Render(ctx, marked.Messages, extras)
	if err != nil {
		return nil, err
	}
	ids, err := e.plain.Encode(text)
	return ids, Explain(err)
}

// EncodePlain encodes a prompt for a model without a template, with what the tokenizer puts in front of every text.
func (e *Encoder) EncodePlain(ctx context.Context, text string) ([]int32, error) {
	front, err := e.Encode(ctx, "", true)
	if err != nil {
		return nil, err
	}
	if n := len(front); n > 0 && front[n-1] == e.EndToken {
		front = front[:n-1]
	}
	ids, err := e.plain.Encode(e.plain.Mark(text))
	return append(front, ids...), Explain(err)
}

// EncodeChat returns the ids of the prompt that Generate makes of messages, also of one that is too long for the model: they may
// be wanted to be counted.
func (e *Encoder) EncodeChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) ([]int32, error) {
	p := engine.Prompt{Messages: messages, Plain: options.PlainContent}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := options.ValidateTemplate(); err != nil {
		return nil, err
	}
	return e.encodeChatPrompt(ctx, p, TemplateExtras(options))
}

// TemplateExtras is what a request gives to the chat template besides its messages.
func TemplateExtras(o engine.GenerateOptions) map[string]any {
	extras := maps.Clone(o.TemplateArguments)
	if len(o.Tools) > 0 {
		if extras == nil {
			extras = map[string]any{}
		}
		extras["tools"] = o.Tools
	}
	return extras
}

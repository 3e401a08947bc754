package native

import (
	"context"

	"forge.lthn.ai/core/go-mlx/engine"
)

// EncodeChat returns the ids of the prompt that Generate makes of messages, also of one that is too long for the model: they may
// be wanted to be counted.
func (m *Model) EncodeChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) ([]int32, error) {
	p := engine.Prompt{Messages: messages, Plain: options.PlainContent}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return m.encodeChatPrompt(ctx, p, templateExtras(options))
}

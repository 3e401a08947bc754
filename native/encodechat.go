package native

import (
	"context"

	"forge.lthn.ai/core/go-mlx/internal/engine"
)

// EncodeChat returns the ids of the prompt that Generate makes of messages.
func (m *Model) EncodeChat(ctx context.Context, messages []engine.Message, options engine.GenerateOptions) ([]int32, error) {
	return m.encodePrompt(ctx, engine.Prompt{Messages: messages, Plain: options.PlainContent}, templateExtras(options))
}

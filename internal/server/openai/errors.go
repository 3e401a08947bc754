package openai

import (
	"fmt"

	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// ErrorBody is an error as OpenAI's clients expect it.
func ErrorBody(e *turn.Error) any {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	orNull := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	message := e.Message
	if e.Limit > 0 { // the words that clients look for
		message = fmt.Sprintf("This model's maximum context length is %d tokens. However, your messages resulted in %d tokens. Please reduce the length of the messages.", e.Limit, e.Tokens)
	}
	return struct {
		Error body `json:"error"`
	}{body{message, e.Kind.OpenAI(), orNull(e.Param), orNull(e.Code)}}
}

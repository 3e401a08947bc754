package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// ErrNoTemplate is returned for a model folder without a chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// Template is a chat template. It is safe for concurrent use.
type Template struct {
	mu      sync.RWMutex
	t       *C.gomlx_template
	source  string
	tools   *Template         // takes the chats in which functions can be called; nil: this one does
	special map[string]string // bos_token and the like, visible in the template
}

// Source is the Jinja source, that for chats with functions after it if it is another; "" without a template.
func (t *Template) Source() string {
	switch {
	case t == nil:
		return ""
	case t.tools != nil:
		return t.source + "\n" + t.tools.source
	}
	return t.source
}

// LoadTemplate compiles the chat template of a model.
func LoadTemplate(from *modelfiles.Source) (*Template, error) {
	special, err := from.SpecialTokens()
	if err != nil {
		return nil, err
	}
	sources, err := from.ChatTemplates()
	if err != nil {
		return nil, err
	}
	if sources["default"] == "" {
		return nil, ErrNoTemplate
	}
	t, err := NewTemplate(sources["default"], special)
	if err != nil || sources["tool_use"] == "" {
		return t, err
	}
	if t.tools, err = NewTemplate(sources["tool_use"], special); err != nil {
		t.Close()
		return nil, fmt.Errorf("tool_use: %w", err)
	}
	return t, nil
}

// NewTemplate compiles a Jinja chat template. The caller closes it.
func NewTemplate(source string, special map[string]string) (*Template, error) {
	var t *C.gomlx_template
	var e C.gomlx_bytes
	if C.gomlx_template_new(stringPtr(source), C.size_t(len(source)), &t, &e) != 0 {
		return nil, fmt.Errorf("chat template: %w", takeError(e))
	}
	return &Template{t: t, source: source, special: special}, nil
}

// Close frees the template; it may be called again.
func (t *Template) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	C.gomlx_template_free(t.t)
	t.t = nil
	if t.tools != nil {
		t.tools.Close()
	}
}

// Render renders messages, any value that encodes to the JSON list of {"role", "content", ...} objects
// that templates expect. extra adds variables (tools, enable_thinking, ...).
func (t *Template) Render(messages any, addGenerationPrompt bool, extra map[string]any) (string, error) {
	if t.tools != nil && extra["tools"] != nil {
		return t.tools.Render(messages, addGenerationPrompt, extra)
	}
	context := map[string]any{}
	for k, v := range t.special {
		context[k] = v
	}
	for k, v := range extra {
		context[k] = v
	}
	context["messages"] = messages
	context["add_generation_prompt"] = addGenerationPrompt
	data, err := json.Marshal(context)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.t == nil {
		return "", ErrClosed
	}
	var out, e C.gomlx_bytes
	if C.gomlx_template_render(t.t, bytesPtr(data), C.size_t(len(data)), &out, &e) != 0 {
		return "", fmt.Errorf("chat template: %w", takeError(e))
	}
	return takeString(out), nil
}

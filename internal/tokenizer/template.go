package tokenizer

/*
#include "gomlx_tokenizer.h"
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// ErrNoTemplate is returned for a model folder without a chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// Template is a chat template. It is safe for concurrent use.
type Template struct {
	mu      sync.RWMutex
	t       *C.gomlx_template
	special map[string]string // bos_token and the like, visible in the template
}

// specialNames are the tokens of tokenizer_config.json that templates may name.
var specialNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// SpecialTokens reads the named tokens (bos_token, eos_token, ...) of tokenizer_config.json. A folder
// without that file has none.
func SpecialTokens(dir string) (map[string]string, error) {
	config, err := readTokenizerConfig(dir)
	if err != nil {
		return nil, err
	}
	special := map[string]string{}
	for _, name := range specialNames {
		if token, ok := specialToken(config[name]); ok {
			special[name] = token
		}
	}
	return special, nil
}

func readTokenizerConfig(dir string) (map[string]json.RawMessage, error) {
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var config map[string]json.RawMessage
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return config, nil
}

// LoadTemplate reads the chat template of a model folder: chat_template.jinja, or chat_template in
// tokenizer_config.json (a string, or a list of named ones of which "default" is used).
func LoadTemplate(dir string) (*Template, error) {
	special, err := SpecialTokens(dir)
	if err != nil {
		return nil, err
	}
	source, err := os.ReadFile(filepath.Join(dir, "chat_template.jinja"))
	if err == nil {
		return NewTemplate(string(source), special)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	config, err := readTokenizerConfig(dir)
	if err != nil {
		return nil, err
	}
	text, ok := templateSource(config["chat_template"])
	if !ok {
		return nil, ErrNoTemplate
	}
	return NewTemplate(text, special)
}

// specialToken reads a token given as a string or as an AddedToken object.
func specialToken(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil && len(raw) > 0 {
		return text, text != ""
	}
	var added struct{ Content string }
	if json.Unmarshal(raw, &added) == nil {
		return added.Content, added.Content != ""
	}
	return "", false
}

func templateSource(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return text, true
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(raw, &named) == nil {
		for _, t := range named {
			if t.Name == "default" {
				return t.Template, true
			}
		}
	}
	return "", false
}

// NewTemplate compiles a Jinja chat template. The caller closes it.
func NewTemplate(source string, special map[string]string) (*Template, error) {
	var t *C.gomlx_template
	var e C.gomlx_bytes
	if C.gomlx_template_new(stringPtr(source), C.size_t(len(source)), &t, &e) != 0 {
		return nil, fmt.Errorf("chat template: %w", takeError(e))
	}
	return &Template{t: t, special: special}, nil
}

// Close frees the template; it may be called again.
func (t *Template) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	C.gomlx_template_free(t.t)
	t.t = nil
}

// Render renders messages, any value that encodes to the JSON list of {"role", "content", ...} objects
// that templates expect. extra adds variables (tools, enable_thinking, ...).
func (t *Template) Render(messages any, addGenerationPrompt bool, extra map[string]any) (string, error) {
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

// Package modelfiles reads the small text files of a model folder.
package modelfiles

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// specialNames are the tokens of tokenizer_config.json that templates may name.
var specialNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// SpecialTokens reads the named tokens (bos_token, eos_token, ...) of tokenizer_config.json. A model
// without that file has none.
func (s *Source) SpecialTokens() (map[string]string, error) {
	config, err := s.tokenizerConfig()
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

func (s *Source) tokenizerConfig() (map[string]json.RawMessage, error) {
	data, err := s.Read("tokenizer_config.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var config map[string]json.RawMessage
	if err := Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return config, nil
}

// ChatTemplate reads the Jinja source of a model's chat template; see Source.ChatTemplate.
func ChatTemplate(path string) (string, error) {
	s, err := Find(path)
	if err != nil {
		return "", err
	}
	return s.ChatTemplate()
}

// ChatTemplate reads the Jinja source of the chat template: chat_template.jinja, or chat_template in tokenizer_config.json (a
// string, or a list of named ones of which "default" is used). A model without one has "".
func (s *Source) ChatTemplate() (string, error) {
	source, err := s.Read("chat_template.jinja")
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return string(source), err
	}
	config, err := s.tokenizerConfig()
	if err != nil {
		return "", err
	}
	return templateSource(config["chat_template"]), nil
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

func templateSource(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil && text != "" {
		return text
	}
	var named []struct{ Name, Template string }
	if json.Unmarshal(raw, &named) == nil {
		for _, t := range named {
			if t.Name == "default" {
				return t.Template
			}
		}
	}
	return ""
}

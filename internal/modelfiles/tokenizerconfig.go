// Package modelfiles reads the small text files of a model folder.
package modelfiles

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// specialNames are the tokens of tokenizer_config.json that templates may name.
var specialNames = []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}

// SpecialTokens reads the named tokens (bos_token, eos_token, ...) of tokenizer_config.json, and in older models those of
// special_tokens_map.json, which then count first. A model without these files has none.
func (s *Source) SpecialTokens() (map[string]string, error) {
	config, err := s.tokenizerConfig()
	if err != nil {
		return nil, err
	}
	if err := s.addOlderTokens(&config); err != nil {
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

// ControlTokens are the added tokens that tokenizer_config.json lists as controlling chats; nil without such a list, which may be empty.
func (s *Source) ControlTokens() ([]string, error) {
	config, err := s.tokenizerConfig()
	if err != nil || config["chat_control_tokens"] == nil {
		return nil, err
	}
	var listed []string
	if err := Unmarshal(config["chat_control_tokens"], &listed); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: chat_control_tokens: %w", err)
	}
	return listed, nil
}

// addOlderTokens puts what special_tokens_map.json names into a config. As in transformers, a config that lists the added tokens needs
// no such file.
func (s *Source) addOlderTokens(config *map[string]json.RawMessage) error {
	const name = "special_tokens_map.json"
	if (*config)["added_tokens_decoder"] != nil || s.GGUF != "" {
		return nil
	}
	data, err := s.Read(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var older map[string]json.RawMessage
	if err := Unmarshal(data, &older); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if *config == nil {
		*config = map[string]json.RawMessage{}
	}
	for _, name := range specialNames {
		if _, ok := specialToken(older[name]); ok {
			(*config)[name] = older[name]
		}
	}
	return nil
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

// ErrTemplate is wrapped by errors about settings that are no chat template. Like a file that cannot be read they cost chats, and nothing else.
var ErrTemplate = errors.New("not a chat template")

// readable passes over errors of templates alone.
func readable(templates map[string]string, err error) (map[string]string, error) {
	if unread := (*fs.PathError)(nil); errors.Is(err, ErrTemplate) || errors.As(err, &unread) {
		return nil, nil
	}
	return templates, err
}

// AllTemplates reads the Jinja sources of a model's chat templates, one after the other: what a chat may be rendered with. Of one that
// cannot be read there is none.
func AllTemplates(path string) (string, error) {
	s, err := Find(path)
	if err != nil {
		return "", err
	}
	templates, err := readable(s.ChatTemplates())
	if more := templates["tool_use"]; more != "" {
		return templates["default"] + "\n" + more, err
	}
	return templates["default"], err
}

// ChatTemplate reads the Jinja source of the chat template, the one named default if there are several. A model without one has "".
func (s *Source) ChatTemplate() (string, error) {
	templates, err := s.ChatTemplates()
	return templates["default"], err
}

// HasTemplate reports whether the model has a chat template. One that cannot be read is none.
func (s *Source) HasTemplate() (bool, error) {
	templates, err := readable(s.ChatTemplates())
	return templates["default"] != "", err
}

// ChatTemplates reads the model's chat templates by name: chat_template.jinja, which is the default, and those in the folder
// additional_chat_templates; or chat_template in tokenizer_config.json, a string or several with names. A model without any has
// none.
func (s *Source) ChatTemplates() (map[string]string, error) {
	const name, folder = "chat_template.jinja", "additional_chat_templates"
	templates := map[string]string{}
	source, err := s.Read(name)
	switch {
	case err == nil:
		templates["default"] = string(source)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !s.alone {
		more, err := Files(filepath.Join(s.Dir, folder), "*.jinja")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, path := range more {
			source, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", folder, err)
			}
			templates[strings.TrimSuffix(filepath.Base(path), ".jinja")] = string(bytes.TrimPrefix(source, []byte("\ufeff")))
		}
	}
	if len(templates) > 0 {
		return templates, nil
	}
	config, err := s.tokenizerConfig()
	if err != nil {
		return nil, err
	}
	return namedTemplates(config["chat_template"])
}

// specialToken reads a token given as a string or as an AddedToken object.
func specialToken(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil && len(raw) > 0 {
		return text, text != ""
	}
	var added struct {
		Content string `json:"content"`
	}
	if Unmarshal(raw, &added) == nil {
		return added.Content, added.Content != ""
	}
	return "", false
}

// namedTemplates reads a string, a list of {"name", "template"}, or an object with the names as keys, as transformers takes them.
func namedTemplates(raw json.RawMessage) (map[string]string, error) {
	var text *string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		if text == nil || *text == "" {
			return nil, nil
		}
		return map[string]string{"default": *text}, nil
	}
	var templates map[string]string
	if json.Unmarshal(raw, &templates) == nil {
		return templates, nil
	}
	var list []struct {
		Name     *string `json:"name"`
		Template *string `json:"template"`
	}
	if err := Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("the model's chat_template is %w: it should be a text, or a list of texts with names", ErrTemplate)
	}
	templates = map[string]string{}
	for i, t := range list {
		if t.Name == nil || t.Template == nil {
			return nil, fmt.Errorf("the model's chat_template: entry %d is %w: it has no name or no template", i, ErrTemplate)
		}
		templates[*t.Name] = *t.Template
	}
	return templates, nil
}

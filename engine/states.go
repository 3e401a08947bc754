package engine

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// StatesOptions say which hidden states are wanted.
type StatesOptions struct {
	// Layers are the numbers of layers, 1 for what the first puts out.
	Layers []int
	// Prompt, which has {text} once, makes the vector the hidden state of the prompt's last token: what the model is about to say of the
	// text. Without a prompt it is the mean over the text's tokens.
	Prompt string
}

// CheckStatesPrompt refuses a prompt that does not have {text} exactly once.
func CheckStatesPrompt(prompt string) error {
	switch {
	case prompt == "":
		return nil
	case !utf8.ValidString(prompt):
		return fmt.Errorf("option StatesPrompt: %w", ErrInvalidUTF8)
	case strings.Count(prompt, "{text}") != 1:
		return &OptionError{Option: "StatesPrompt", Reason: fmt.Sprintf("%q must hold {text} exactly once", prompt)}
	}
	return nil
}

// Validate checks the options against a model, and the texts.
func (o StatesOptions) Validate(layers int, texts []string) error {
	if len(o.Layers) == 0 {
		return &OptionError{Option: "Layers", Reason: "no layer was named"}
	}
	for _, l := range o.Layers {
		if l < 1 || l > layers {
			return &OptionError{Option: "Layers", Reason: fmt.Sprintf("the model has layers 1 to %d and no layer %d", layers, l)}
		}
	}
	if err := CheckStatesPrompt(o.Prompt); err != nil {
		return err
	}
	return checkTexts(texts)
}

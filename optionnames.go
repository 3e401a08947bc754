package mlx

import (
	"errors"
	"iter"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// publicNames are the functions of this package that set an option of the engines, where they have another name.
var publicNames = map[string]string{
	"MaxTokens": "WithMaxTokens", "Temperature": "WithTemperature", "Stop": "WithStop", "Tools": "WithTools",
	"StatesPrompt": "Prompt", "PromptName": "WithPromptName", "Dimensions": "WithDimensions", "TokenIDs": "WithTokenIDs",
	"Calibration": "WithCalibration", "Abstain": "WithAbstain", "Prior": "LabelPrior",
	"Messages": "messages",
	"Batch":    "WithBatch", "PromptCache": "WithPromptCache", "MemoryBudget": "WithMemoryBudget",
	"Adapter": "WithAdapter", "DraftModel": "WithDraftModel",
	"Python": "Interpreter", "Dir": "WorkerDir", "Environment": "WorkerEnv",
}

// named gives the option that an engine's error is about the name that the caller wrote.
func named(err error) error {
	var option *engine.OptionError
	if !errors.As(err, &option) {
		return err
	}
	public, ok := publicNames[option.Option]
	if !ok {
		return err
	}
	renamed := *option
	renamed.Option = public
	if err == error(option) {
		return &renamed
	}
	return &renamedError{option: &renamed, text: strings.Replace(err.Error(), option.Error(), renamed.Error(), 1), err: err}
}

// renamedError is an error around an OptionError that has another name now.
type renamedError struct {
	option *OptionError
	text   string
	err    error
}

func (e *renamedError) Error() string { return e.text }

// Unwrap has the renamed option first, which errors.As finds.
func (e *renamedError) Unwrap() []error { return []error{e.option, e.err} }

// namedStream is named for the error of a stream.
func namedStream(stream iter.Seq2[Token, error]) iter.Seq2[Token, error] {
	return func(yield func(Token, error) bool) {
		for tok, err := range stream {
			if err != nil {
				err = named(err)
			}
			if !yield(tok, err) {
				return
			}
		}
	}
}

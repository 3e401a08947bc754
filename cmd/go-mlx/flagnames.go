package main

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/spf13/pflag"

	mlx "forge.lthn.ai/core/go-mlx"
)

// flagNames are the flags that set an option of package mlx, where the flag's name is not that of the option.
var flagNames = map[string]string{
	"WithDraftModel": "draft", "Choices": "choice", "QuantizedKV": "kv-bits", "Interpreter": "python", "TemplateArguments": "template-arguments",
	"LabelPrompt": "prompt", "LabelPrior": "prior", "LabelDescriptions": "labels", "Layers": "layer", "WithCalibration": "calibrate",
	"TopLogProbs": "top-logprobs", "JSONSchema": "json-schema", "XTC": "xtc", "MaxKVSize": "max-kv-size",
}

// flagName is the flag of a command that set an option; empty if none has.
func flagName(flags *pflag.FlagSet, option string) string {
	name, ok := flagNames[option]
	if !ok {
		name = dashed(strings.TrimPrefix(option, "With"))
	}
	if flags.Lookup(name) == nil {
		return ""
	}
	return "--" + name
}

// dashed writes TopP as top-p.
func dashed(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// byFlags gives an option in an error the name of the flag that set it: whoever types a command has never heard of the option.
func byFlags(flags *pflag.FlagSet, err error) error {
	var option *mlx.OptionError
	if !errors.As(err, &option) {
		return err
	}
	flag := flagName(flags, option.Option)
	if flag == "" {
		return err
	}
	reason := strings.TrimSuffix(option.Reason, "; leave the option out for the default")
	return &flagError{text: strings.Replace(err.Error(), option.Error(), fmt.Sprintf("%s: %s", flag, reason), 1), err: err}
}

type flagError struct {
	text string
	err  error
}

func (e *flagError) Error() string { return e.text }

func (e *flagError) Unwrap() error { return e.err }

package server

import (
	"maps"
	"strings"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// thinkingFor says whether the model may think: OpenAI's reasoning_effort knows degrees, which most models do not.
func thinkingFor(field string, effort *string, template string, arguments map[string]any) (*bool, map[string]any, error) {
	if effort == nil {
		return nil, arguments, nil
	}
	if strings.Contains(template, "reasoning_effort") {
		return nil, withDefault(arguments, "reasoning_effort", *effort), nil
	}
	if *effort != "none" {
		return nil, nil, badField(field, "the model knows no degrees of effort; leave the field out, or say none")
	}
	if !strings.Contains(template, "enable_thinking") {
		return nil, nil, badField(field, "the model's chat template has no switch for reasoning")
	}
	off := false
	return &off, arguments, nil
}

// wish is what all chat APIs have in common. Fields go by the API's own names.
type wish struct {
	messages    []mlx.Message
	tools       tools
	format      []mlx.GenerateOption // of the text; nil for any
	formatField string
	sampling    *sampling
	arguments   map[string]any // for the chat template
	effort      *string        // of reasoning; nil for not said
	effortField string
}

// prepare makes a turn of a wish.
func (s *Server) prepare(l *registry.Lease, w wish) (*turn, error) {
	facts, err := s.facts.of(l.Path)
	if err != nil {
		return nil, err
	}
	t := &turn{lease: l, template: facts.template, messages: w.messages, tools: w.tools, format: len(w.format) > 0}
	switch {
	case t.format && w.tools.mode == choiceRequired:
		return nil, badField(w.formatField, "does not go with a required tool call")
	case t.format && len(w.tools.list) > 0 && w.tools.mode != choiceNone:
		return nil, badField(w.formatField, "does not go with tools, whose calls are no such text; set tool_choice to none")
	}
	thinking, arguments, err := thinkingFor(w.effortField, w.effort, t.template, w.arguments)
	if err != nil {
		return nil, err
	}
	t.thinking = thinking
	if t.options, err = t.templateOptions(arguments); err != nil {
		return nil, err
	}
	drawing, err := w.sampling.options(facts.defaults)
	if err != nil {
		return nil, err
	}
	t.options = append(append(t.options, drawing...), w.format...)
	return t, nil
}

// templateOptions are the options that go into the prompt.
func (t *turn) templateOptions(arguments map[string]any) ([]mlx.GenerateOption, error) {
	thinking := t.thinking
	if (t.format || t.tools.mode == choiceRequired) && thinking == nil { // a grammar leaves no room for a thought
		off := false
		thinking = &off
	}
	if thinking != nil && strings.Contains(t.template, "enable_thinking") {
		arguments = withDefault(arguments, "enable_thinking", *thinking)
	}
	var out []mlx.GenerateOption
	if len(arguments) > 0 {
		out = append(out, mlx.WithTemplateArguments(arguments))
	}
	tools, err := t.tools.option(t.template)
	if err != nil {
		return nil, err
	}
	return append(out, tools...), nil
}

// withDefault is a map with one more value, unless it has one of that name.
func withDefault(arguments map[string]any, name string, value any) map[string]any {
	merged := map[string]any{name: value}
	maps.Copy(merged, arguments)
	return merged
}

// Package segment splits generated text into reasoning, tool calls and the rest, by the marks that mlx-lm knows for a
// model. The native engine uses it; the python engine has mlx-lm's own.
package segment

import (
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Marks are the texts around reasoning and around tool calls; the zero Marks divide nothing.
type Marks struct {
	ThinkStart, ThinkEnd string // both empty for a model that does not reason
	ToolStart, ToolEnd   string // both empty for a model whose template knows no calls

	// bare says that a text that begins with { may be a call, without marks. A call ends with the text if it has no end mark.
	bare  bool
	parse func(text string) ([]engine.ToolCall, error)
}

// thinking are marks that are single tokens of a vocabulary, as in mlx-lm's tokenizer_utils.py.
var thinking = [][2]string{
	{"<think>", "</think>"},
	{"<longcat_think>", "</longcat_think>"},
	{"<|think:start|>", "<|think:end|>"},
}

// notations are the tool calls that this package can read.
var notations = map[string]Marks{
	"json_tools":     {ToolStart: "<tool_call>", ToolEnd: "</tool_call>", parse: parseJSON},
	"function_gemma": {ToolStart: "<start_function_call>", ToolEnd: "<end_function_call>", parse: parseFunctionGemma},
	"mistral":        {ToolStart: "[TOOL_CALLS]", parse: parseMistral},
	"llama3":         {ToolStart: "<|python_tag|>", bare: true, parse: parseLlama},
}

// Infer finds the marks of a model in its chat template and vocabulary. It fails for a notation of tool calls that
// mlx-lm can read and this package cannot.
func Infer(template string, inVocabulary func(token string) bool) (Marks, error) {
	var marks Marks
	if name := notation(template); name != "" {
		var known bool
		if marks, known = notations[name]; !known {
			return Marks{}, fmt.Errorf("the native engine cannot read tool calls in the notation %q of this model's chat template; the python engine can", name)
		}
	}
	thought := Thinking(inVocabulary)
	marks.ThinkStart, marks.ThinkEnd = thought.ThinkStart, thought.ThinkEnd
	return marks, nil
}

// Thinking finds the marks around reasoning in a vocabulary.
func Thinking(inVocabulary func(token string) bool) (marks Marks) {
	for _, t := range thinking {
		if inVocabulary(t[0]) && inVocabulary(t[1]) {
			marks.ThinkStart, marks.ThinkEnd = t[0], t[1]
			break
		}
	}
	return marks
}

// toolMarks are the marks around calls in each notation that mlx-lm knows.
var toolMarks = map[string][2]string{
	"minimax_m2": {"<minimax:tool_call>", "</minimax:tool_call>"}, "gemma4": {"<|tool_call>", "<tool_call|>"},
	"function_gemma": {"<start_function_call>", "<end_function_call>"}, "longcat": {"<longcat_tool_call>", "</longcat_tool_call>"},
	"glm47": {"<tool_call>", "</tool_call>"}, "pythonic": {"<|tool_call_start|>", "<|tool_call_end|>"},
	"qwen3_coder": {"<tool_call>", "</tool_call>"}, "kimi_k2": {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"},
	"minicpm5": {"<function name=", "</function>"}, "mistral": {"[TOOL_CALLS]", ""},
	"muse_spark": {"<atem:function_calls>", "</atem:function_calls>"}, "json_tools": {"<tool_call>", "</tool_call>"},
	"llama3": {"", ""},
}

// ToolMarks are the marks around calls in a template's notation, for calls that are shown as text; empty for none.
func ToolMarks(template string) (start, end string) {
	marks := toolMarks[notation(template)]
	return marks[0], marks[1]
}

// notation names a template's notation of tool calls as mlx-lm does; "" for none.
func notation(template string) string {
	has := func(text string) bool { return strings.Contains(template, text) }
	switch {
	case has("<minimax:tool_call>"):
		return "minimax_m2"
	case has("<|tool_call>") && has("<tool_call|>"):
		return "gemma4"
	case has("<start_function_call>"):
		return "function_gemma"
	case has("<longcat_tool_call>"):
		return "longcat"
	case has("<arg_key>"):
		return "glm47"
	case has("<|tool_list_start|>") || has("<|tool_call_start|>"):
		return "pythonic"
	case has(`<tool_call>\n<function=`) || has("<tool_call>\n<function="):
		return "qwen3_coder"
	case has("<|tool_calls_section_begin|>"):
		return "kimi_k2"
	case has(`<function name="`) && has(`<param name="`):
		return "minicpm5"
	case has("[TOOL_CALLS]"):
		return "mistral"
	case has("<atem:function_calls>"):
		return "muse_spark"
	case has("<tool_call>") && has("tool_call.name"):
		return "json_tools"
	}
	// mlx-lm leaves these calls in the text.
	if has("<|python_tag|>") || has("Environment: ipython") {
		return "llama3"
	}
	return ""
}

// Bare reports whether a template's calls have no marks: without tools, a text is then better left as it is.
func Bare(template string) bool { return notations[notation(template)].bare }

package server

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// clientCase is a request as a program that people use sends it, cut down to what it was refused for.
type clientCase struct {
	Path    string
	Headers map[string]string
	Body    json.RawMessage
}

// caseWant is what has to come of a case.
type caseWant struct {
	status  int    // 0 is 200
	ignored string // X-Go-MLX-Ignored
	has     string // in the body
	lacks   string
}

var caseWants = map[string]caseWant{
	"01-strict-tool-auto":             {},
	"02-strict-tool-auto-responses":   {},
	"03-responses-include-empty":      {},
	"04-responses-own-reasoning-item": {},
	"05-claude-code":                  {ignored: "context_management, output_config.effort"},
	"05a-context-management":          {ignored: "context_management"},
	"05c-mid-system":                  {},
	"06-thinking-budget":              {has: `"type":"thinking"`},
	"07-codex":                        {ignored: "reasoning.summary, include, client_metadata, tools[1] (namespace), tools[2] (web_search)", has: "response.incomplete"},
	"07a-reasoning-summary":           {ignored: "reasoning.summary"},
	"07b-client-metadata":             {ignored: "client_metadata"},
	"08-item-reference":               {status: 404, has: `"param":"input[1].id"`},
	"09-format-with-tools":            {},
	"10-format-with-required-call":    {has: `"type":"function_call"`},
	"11-tool-choice-none-still-calls": {has: `"content":"<tool_call>`, lacks: `"tool_calls"`},
	"12-calls-without-tools":          {has: `"content":"<tool_call>`, lacks: `"tool_calls"`},
	"13-two-user-messages-gemma":      {},
	"13a-two-user-messages-anthropic": {},
	"14-token-id-out-of-vocabulary":   {status: 400, has: `"param":"prompt"`},
	"15-logprobs-without-top":         {has: `"logprobs":{"content":[]`},
	"16-assistant-dump-fields":        {},
	"17-parsed-arguments":             {ignored: "messages[].tool_calls[].function.parsed_arguments"},
	"19-eager-input-streaming":        {ignored: "tools[].eager_input_streaming"},
	"20-tool-strict-false-anthropic":  {},
	"21-reasoning-effort":             {has: `"reasoning_content"`},
	"24-anthropic-prefill":            {has: `"text":" five six seven eight nine ten`},
	"25-embedding-tokens":             {has: `"total_tokens":3`},
	"26-seed-negative":                {},

	"40-arguments-object":              {},
	"41-arguments-cut-off":             {},
	"42-tool-choice-objects":           {},
	"43-tool-choice-any":               {has: `"name":"get_weather"`},
	"44-numbers-with-points":           {},
	"45-top-k-minus-one":               {},
	"46-thinking-disabled":             {lacks: "reasoning_content"},
	"47-reasoning-effort-object":       {ignored: "include_reasoning", has: "reasoning_content"},
	"48-enable-thinking":               {lacks: "reasoning_content"},
	"49-schema-beyond-grammars":        {ignored: "response_format (uniqueItems)", has: `{\"tags\":`},
	"50-schema-beyond-grammars-strict": {status: 400, has: `a grammar cannot keep \"uniqueItems\"`},
	"51-zod-email-strict":              {},
	"52-zod-record-strict":             {},
	"53-one-of":                        {has: `"content":"{`},
	"54-responses-sampling":            {},
	"55-responses-others-items":        {ignored: "input[].operation, input[].action"},
	"56-responses-output-object":       {},
	"57-anthropic-document-content":    {},
	"58-anthropic-result-blocks":       {ignored: "messages[].content[].content[].source.media_type"},
	"59-anthropic-server-tools":        {ignored: "messages[].content[].server_name"},
	"60-ollama-developer":              {},
	"61-bad-pattern":                   {status: 400, has: `"message":"tools: regex parse error: [ ^ error: unclosed character class`, lacks: `\n`},
	"62-echo-logprobs":                 {has: `"token_logprobs":[null`},
}

func TestWhatClientsSend(t *testing.T) {
	s := serve(t, Config{})
	strict := serve(t, Config{Strict: true})
	files, err := filepath.Glob("testdata/cases/*.json")
	require.NoError(t, err)
	require.Len(t, files, len(caseWants))
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			want, known := caseWants[name]
			require.True(t, known)
			var c clientCase
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &c))
			var headers []string
			for key, value := range c.Headers {
				headers = append(headers, key, value)
			}
			a := s.do("POST", c.Path, string(c.Body), headers...)
			status := want.status
			if status == 0 {
				status = 200
			}
			require.Equal(t, status, a.StatusCode, a.body)
			require.Equal(t, want.ignored, a.Header.Get(headerIgnored))
			require.Contains(t, a.body, want.has)
			if want.lacks != "" {
				require.NotContains(t, a.body, want.lacks)
			}
			if want.ignored != "" {
				refused := strict.do("POST", c.Path, string(c.Body), headers...)
				require.Equal(t, 400, refused.StatusCode, "a strict server takes nothing without effect: %s", refused.body)
			}
		})
	}
}

//go:build unix

package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
)

// noContentEndsAWorker sends what no program should: whatever is in a request, its answer comes, and the worker serves the next one.
func noContentEndsAWorker(t *testing.T, m *Model) {
	want, err := collect(t.Context(), m, "Please", longOptions(5))
	require.NoError(t, err)
	half := `"\ud800"` // valid JSON for half of a surrogate pair
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	digits := strings.Repeat("9", 5000)
	chat := []engine.Message{{Role: "user", Content: "hi"}}
	with := func(change func(*engine.GenerateOptions)) engine.GenerateOptions {
		o := engine.DefaultGenerateOptions()
		o.MaxTokens = 3
		change(&o)
		return o
	}
	const most = math.MaxInt
	generate := map[string]engine.GenerateOptions{
		"bytes in stop strings":  with(func(o *engine.GenerateOptions) { o.Stop = []string{"\xff", "\xed\xa0\x80"} }),
		"nothing as stop string": with(func(o *engine.GenerateOptions) { o.Stop = []string{""} }),
		"long stop strings":      with(func(o *engine.GenerateOptions) { o.Stop = []string{strings.Repeat("x", 1<<20), "\x00"} }),
		"bytes in a session":     with(func(o *engine.GenerateOptions) { o.Session = "\xff\x00" }),
		"NaN as temperature":     with(func(o *engine.GenerateOptions) { o.Temperature = float32(math.NaN()) }),
		"a tiny temperature":     with(func(o *engine.GenerateOptions) { o.Temperature = math.SmallestNonzeroFloat32 }),
		"a huge temperature":     with(func(o *engine.GenerateOptions) { o.Temperature = math.MaxFloat32 }),
		"a huge top-k":           with(func(o *engine.GenerateOptions) { o.Temperature, o.TopK = 1, most }),
		"a huge limit":           with(func(o *engine.GenerateOptions) { o.MaxTokens, o.Stop = most, []string{"e"} }),
		"a huge penalty context": with(func(o *engine.GenerateOptions) { o.RepetitionContext, o.RepetitionPenalty = most, 2 }),
		"the least penalty":      with(func(o *engine.GenerateOptions) { o.RepetitionPenalty = math.SmallestNonzeroFloat32 }),
		"the largest penalty":    with(func(o *engine.GenerateOptions) { o.RepetitionPenalty = math.MaxFloat32 }),
		"an infinite bias":       with(func(o *engine.GenerateOptions) { o.LogitBias = map[int32]float32{5: float32(math.Inf(1))} }),
		"biases that exclude all": with(func(o *engine.GenerateOptions) {
			o.LogitBias = map[int32]float32{0: -math.MaxFloat32, 5: math.MaxFloat32}
		}),
		"bias of no token":           with(func(o *engine.GenerateOptions) { o.LogitBias = map[int32]float32{math.MaxInt32: 1} }),
		"no token as stop token":     with(func(o *engine.GenerateOptions) { o.StopTokens = []int32{math.MaxInt32, math.MinInt32} }),
		"the largest seed":           with(func(o *engine.GenerateOptions) { o.Temperature, o.Seed, o.HasSeed = 1, math.MaxUint64, true }),
		"a huge start of quantising": with(func(o *engine.GenerateOptions) { o.KVBits, o.KVGroupSize, o.KVStart = 4, 64, most }),
		"a huge KV bound":            with(func(o *engine.GenerateOptions) { o.MaxKVSize = most }),
		"half a pair in a schema": with(func(o *engine.GenerateOptions) {
			o.Grammar = engine.Grammar{Kind: "json_schema", Text: `{"const":` + half + `}`}
		}),
		"half a pair in choices": with(func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: "choices", Text: `[` + half + `]`} }),
		"a schema in itself":     with(func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: "json_schema", Text: `{"$ref":"#"}`} }),
		"a deep schema": with(func(o *engine.GenerateOptions) {
			o.Grammar = engine.Grammar{Kind: "json_schema", Text: `{"const":` + deep + `}`}
		}),
		"a broken regex": with(func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: "regex", Text: `((((` + "\x00"} }),
		"a nested regex": with(func(o *engine.GenerateOptions) {
			o.Grammar = engine.Grammar{Kind: "regex", Text: strings.Repeat("(", 5000) + "a" + strings.Repeat(")", 5000)}
		}),
		"a regex of many states": with(func(o *engine.GenerateOptions) {
			o.Grammar = engine.Grammar{Kind: "regex", Text: `((a{1,1000}){1,1000}){1,1000}`}
		}),
		"a grammar in itself":    with(func(o *engine.GenerateOptions) { o.Grammar = engine.Grammar{Kind: "lark", Text: "start: start"} }),
		"half a pair in tools":   with(func(o *engine.GenerateOptions) { o.Tools = json.RawMessage(`[{"x":` + half + `}]`) }),
		"deep tools":             with(func(o *engine.GenerateOptions) { o.Tools = json.RawMessage(deep) }),
		"tools that are no list": with(func(o *engine.GenerateOptions) { o.Tools = json.RawMessage(`"x"`) }),
		"half a pair as an argument": with(func(o *engine.GenerateOptions) {
			o.TemplateArguments = map[string]any{"x": json.RawMessage(half), "messages": json.RawMessage(half)}
		}),
		"names that a template has": with(func(o *engine.GenerateOptions) {
			o.TemplateArguments = map[string]any{"tokenize": true, "conversation": 1, "chat_template": "{{ 1/0 }}", "self": 1, "": 1, "range": 1}
		}),
		"a template of the request's own": with(func(o *engine.GenerateOptions) {
			o.TemplateArguments = map[string]any{"chat_template": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"}
		}),
		"a filled up prompt": with(func(o *engine.GenerateOptions) {
			o.TemplateArguments, o.PlainContent = map[string]any{"padding": "max_length", "max_length": 1 << 30}, true
		}),
		"a number of many digits in an argument": with(func(o *engine.GenerateOptions) {
			o.TemplateArguments = map[string]any{"x": json.RawMessage(digits)}
		}),
		"a number of many digits in tools": with(func(o *engine.GenerateOptions) {
			o.Tools, o.Segments = json.RawMessage(`[{"x":`+digits+`}]`), true
		}),
		"NaN as an argument": with(func(o *engine.GenerateOptions) { o.TemplateArguments = map[string]any{"x": math.NaN()} }),
	}
	prompts := map[string]engine.Prompt{
		"bytes":               {Text: "\xff\xed\xa0\x80"},
		"zero bytes":          {Text: strings.Repeat("\x00", 1000)},
		"no role":             {Messages: []engine.Message{{Content: "x"}}},
		"a role of bytes":     {Messages: []engine.Message{{Role: "\xff", Content: "x"}}},
		"half a pair in call": {Messages: []engine.Message{{Role: "assistant", ToolCalls: []engine.ToolCall{{Type: "function", Function: engine.FunctionCall{Name: "f", Arguments: []byte(`{"a":` + half + `}`)}}}}}},
		"no tokens":           {IDs: []int32{math.MinInt32, math.MaxInt32}},
		"too long a text":     {Text: strings.Repeat("word ", 1<<16)},
		"more than a frame":   {Text: strings.Repeat("x", +1)},
	}
	// Every answer is the result or one of this module's errors, within a generous time.
	check := func(name string, err error) {
		t.Helper()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrWorkerStopped) || errors.Is(err, ErrQuarantined) {
			t.Errorf("%s: %v", name, err)
		}
		var remote *RemoteError
		if errors.As(err, &remote) && remote.Code == "internal" {
			t.Errorf("%s is an internal error: %.300v", name, err)
		}
	}
	within := func(name string, do func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), aWhile)
		defer cancel()
		check(name, do(ctx))
	}
	for name, o := range generate {
		within(name, func(ctx context.Context) error {
			_, err := drain(ctx, m, engine.Prompt{Messages: chat}, o)
			return err
		})
	}
	for name, prompt := range prompts {
		within(name, func(ctx context.Context) error {
			_, err := drain(ctx, m, prompt, longOptions(2))
			return err
		})
		within(name+", rendered", func(ctx context.Context) error {
			_, err := m.RenderChat(ctx, prompt.Messages, engine.DefaultGenerateOptions())
			return err
		})
		within(name+", encoded", func(ctx context.Context) error {
			_, err := m.Encode(ctx, prompt.Text, true)
			return err
		})
	}
	within("a number of many digits in tools, and no chat", func(ctx context.Context) error {
		_, err := drain(ctx, m, engine.Prompt{Text: "x"}, generate["a number of many digits in tools"])
		return err
	})
	for name, labels := range map[string][]string{
		"bytes in labels": {"a", "\xff"}, "empty labels": {"", " "}, "equal labels": {"a", "a"}, "a label of zeros": {"\x00", "b"},
		"a long label": {strings.Repeat("a", 1<<16), "b"},
	} {
		within(name, func(ctx context.Context) error {
			_, err := m.Classify(ctx, []string{"x", "\x00"}, engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt})
			return err
		})
	}
	within("a long text to classify", func(ctx context.Context) error {
		_, err := m.Classify(ctx, []string{strings.Repeat("word ", 1<<15)}, engine.ClassifyOptions{Labels: []string{"a", "b"}, Prompt: engine.DefaultLabelPrompt})
		return err
	})
	within("ids that are none", func(ctx context.Context) error {
		_, err := m.Decode(ctx, []int32{math.MaxInt32})
		return err
	})
	got, err := collect(t.Context(), m, "Please", longOptions(5))
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Zero(t, m.Stat().Crashes)
	require.Zero(t, m.Stat().Quarantined)
}

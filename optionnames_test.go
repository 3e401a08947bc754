package mlx_test

import (
	"context"
	"errors"
	"iter"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// noBadValue are the options that every value of their type is good for.
var noBadValue = []string{
	"WithSeed", "WithSampling", "WithConstraint", "WithKV", "WithTemplate", "WithOutput", "WithScheduling", "WithLabels", "WithEvents",
	"Segments", // of models whose notation of calls is unknown: see TestNativeRefusesWhatOnlyPythonHas
	"IgnoreEOS", "PlainContent", "LogProbs", "Solo", "Session", "WorkerLog", "QuarantineDir", "Online", "TrustRemoteCode", "OnWait",
}

// Every function that returns an option is in a table of bad values below, or in noBadValue.
func TestEveryOptionIsTriedWithABadValue(t *testing.T) {
	api, err := os.ReadFile("docs/api.txt")
	require.NoError(t, err)
	tested, err := os.ReadFile("optionnames_test.go")
	require.NoError(t, err)
	root, _, _ := strings.Cut(string(api), "core/go-mlx/bridge\n")
	found := regexp.MustCompile(`(?m)^func (\w+)\(.*\) (?:\w+Option|Constraint)$`).FindAllStringSubmatch(root, -1)
	require.Greater(t, len(found), 50)
	for _, m := range found {
		if !slices.Contains(noBadValue, m[1]) {
			require.Contains(t, string(tested), `"`+m[1]+`": `, "no bad value of %s", m[1])
		}
	}
}

// Whichever engine, and wherever a value is checked, the error names the function that the caller called.
func TestErrorsNameTheOptionThatTheCallerWrote(t *testing.T) {
	for _, engine := range []mlx.LoadOption{mlx.WithEngine(mlx.EngineNative), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))} {
		m := load(t, testenv.Model(t), engine)
		t.Run(string(m.Info().Engine), func(t *testing.T) {
			t.Run("bad values", func(t *testing.T) { badValuesAreNamed(t, m) })
			t.Run("not UTF-8", func(t *testing.T) { optionsThatAreNotUTF8AreNamed(t, m) })
			t.Run("arguments and ids", func(t *testing.T) { templateArgumentsAndIDsAreChecked(t, m) })
		})
	}
}

func badValuesAreNamed(t *testing.T, m mlx.TextModel) {
	nan := float32(math.NaN())
	generate := map[string]mlx.GenerateOption{
		"WithMaxTokens": mlx.WithMaxTokens(0), "WithTemperature": mlx.WithTemperature(-1), "WithStop": mlx.WithStop(""),
		"WithTools": mlx.WithTools([]byte("{")),
		"TopK":      mlx.WithSampling(mlx.TopK(-1)), "TopP": mlx.WithSampling(mlx.TopP(0)), "MinP": mlx.WithSampling(mlx.MinP(2)),
		"XTC":               mlx.WithSampling(mlx.XTC(2, 0)),
		"RepetitionPenalty": mlx.WithSampling(mlx.RepetitionPenalty(0)), "RepetitionContext": mlx.WithSampling(mlx.RepetitionContext(0)),
		"PresencePenalty": mlx.WithSampling(mlx.PresencePenalty(nan)), "FrequencyPenalty": mlx.WithSampling(mlx.FrequencyPenalty(nan)),
		"LogitBias": mlx.WithSampling(mlx.LogitBias(map[int32]float32{1 << 30: 1})), "StopTokens": mlx.WithSampling(mlx.StopTokens(1 << 30)),
		"JSONSchema": mlx.WithConstraint(mlx.JSONSchema([]byte("{"))), "Regex": mlx.WithConstraint(mlx.Regex("(")),
		"Choices": mlx.WithConstraint(mlx.Choices()), "Grammar": mlx.WithConstraint(mlx.Grammar("\xff")),
		"QuantizedKV": mlx.WithKV(mlx.QuantizedKV(5, 64, 0)), "MaxKVSize": mlx.WithKV(mlx.MaxKVSize(3)),
		"TemplateArguments": mlx.WithTemplate(mlx.TemplateArguments(map[string]any{"f": func() {}})),
		"TopLogProbs":       mlx.WithOutput(mlx.TopLogProbs(1000)), "DraftTokens": mlx.WithScheduling(mlx.DraftTokens(-1)),
	}
	classify := map[string]mlx.ClassifyOption{
		"WithClassifier": mlx.WithClassifier(nil), "WithCalibration": mlx.WithCalibration(mlx.Calibration{}), "WithAbstain": mlx.WithAbstain(2),
		"LabelPrompt": mlx.WithLabels(mlx.LabelPrompt("no place")), "LabelPrior": mlx.WithLabels(mlx.LabelPrior("best")),
		"LabelDescriptions": mlx.WithLabels(mlx.LabelDescriptions(map[string]mlx.LabelDetails{"other": {}})),
	}
	for name, option := range generate {
		_, err := mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "x"}}, option))
		requireOption(t, err, name)
		require.ErrorContains(t, err, "option "+name+": ")
	}
	for name, option := range classify {
		_, err := m.Classify(t.Context(), []string{"x"}, []string{"a", "b"}, option)
		requireOption(t, err, name)
	}
	_, err := m.Tokenizer().RenderChat(t.Context(), []mlx.Message{{Role: "user", Content: "x"}}, mlx.WithTools([]byte("{")))
	requireOption(t, err, "WithTools")
	_, err = mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Content: "x"}}))
	requireOption(t, err, "messages")
	if m.Info().Engine == mlx.EngineNative {
		for name, option := range map[string]mlx.EmbedOption{"WithPromptName": mlx.WithPromptName("query"), "WithDimensions": mlx.WithDimensions(-1), "WithTokenIDs": mlx.WithTokenIDs([][]int32{{1}, {2}})} {
			_, err = m.Embed(t.Context(), []string{"x"}, option)
			requireOption(t, err, name)
		}
	}
}

// JSON would replace what is not UTF-8 silently; neither engine may get it, or answer to it.
func optionsThatAreNotUTF8AreNamed(t *testing.T, m mlx.TextModel) {
	const bad = "\xff"
	generate := map[string]mlx.GenerateOption{
		"WithStop": mlx.WithStop(bad), "WithTools": mlx.WithTools([]byte(`[{"name": "` + bad + `"}]`)),
		"TemplateArguments": mlx.WithTemplate(mlx.TemplateArguments(map[string]any{"x": []any{bad}})),
		"Choices":           mlx.WithConstraint(mlx.Choices("good", bad)), "Regex": mlx.WithConstraint(mlx.Regex(bad)),
		"JSONSchema": mlx.WithConstraint(mlx.JSONSchema([]byte(`{"const": "` + bad + `"}`))), "Grammar": mlx.WithConstraint(mlx.Grammar(bad)),
	}
	classify := map[string]mlx.LabelOption{
		"LabelPrompt":       mlx.LabelPrompt(bad + "{text}"),
		"LabelDescriptions": mlx.LabelDescriptions(map[string]mlx.LabelDetails{"a": {Examples: []string{bad}}}),
	}
	messages := []mlx.Message{{Role: "user", Content: "x"}}
	check := func(name string, err error) {
		t.Helper()
		requireOption(t, err, name)
		require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
	}
	for name, option := range generate {
		_, err := mlx.Collect(m.Chat(t.Context(), messages, option))
		check(name, err)
	}
	for _, name := range []string{"WithTools", "TemplateArguments"} {
		_, err := m.Tokenizer().RenderChat(t.Context(), messages, generate[name])
		check(name, err)
		_, err = m.Tokenizer().EncodeChat(t.Context(), messages, generate[name])
		check(name, err)
	}
	for name, option := range classify {
		_, err := m.Classify(t.Context(), []string{"x"}, []string{"a", "b"}, mlx.WithLabels(option))
		check(name, err)
	}
	_, err := m.Classify(t.Context(), []string{"x"}, []string{"a", bad})
	check("labels", err)
	_, err = mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "x", Reasoning: bad}}))
	require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
}

// What the engines set themselves cannot be a template's argument, and ids that the model has not are named alike by both engines.
func templateArgumentsAndIDsAreChecked(t *testing.T, m mlx.TextModel) {
	for _, name := range []string{"messages", "tools", "add_generation_prompt", "chat_template", "tokenize"} {
		_, err := mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "x"}}, mlx.WithTemplate(mlx.TemplateArguments(map[string]any{name: nil}))))
		requireOption(t, err, "TemplateArguments")
		require.ErrorContains(t, err, name)
	}
	ids := []int32{2, 1 << 30}
	var token *mlx.TokenError
	_, err := mlx.Collect(m.GenerateIDs(t.Context(), ids))
	require.ErrorAs(t, err, &token, "Generate")
	require.Equal(t, mlx.TokenError{ID: 1 << 30, VocabSize: m.Info().VocabSize}, *token)
	_, err = m.PromptLogProbs(t.Context(), ids, 0)
	require.ErrorAs(t, err, &token, "PromptLogProbs")
	_, err = m.Tokenizer().Decode(t.Context(), ids)
	require.ErrorAs(t, err, &token, "Decode")
}

func TestErrorsOfLoadingNameTheOptionToo(t *testing.T) {
	python := mlx.WithPython(mlx.Interpreter(testenv.Python(t)))
	for name, options := range map[string][]mlx.LoadOption{
		"WithEngine": {mlx.WithEngine("fast")}, "WithMemoryBudget": {mlx.WithMemoryBudget(0)}, "WithBatch": {mlx.WithBatch(0)},
		"WithPromptCache": {mlx.WithPromptCache(-1)}, "Threads": {mlx.WithNative(mlx.Threads(0))},
		"Workers": {python, mlx.WithPython(mlx.Workers(0))}, "MinWorkers": {python, mlx.WithPython(mlx.MinWorkers(2))},
		"Queue": {python, mlx.WithPython(mlx.Queue(-1))}, "IdleTTL": {python, mlx.WithPython(mlx.IdleTTL(-1))},
		"StallTimeout": {python, mlx.WithPython(mlx.StallTimeout(0))}, "Devices": {python, mlx.WithPython(mlx.Devices("tpu"))},
		"WorkerDir": {python, mlx.WithPython(mlx.WorkerDir("/no/such"))}, "WorkerEnv": {python, mlx.WithPython(mlx.WorkerEnv("x"))},
		"Exact": {python, mlx.WithNative(mlx.Exact())}, "WithNative": {python, mlx.WithNative()},
		"WithPython": {mlx.WithEngine(mlx.EngineNative), mlx.WithPython()}, "QuantizedGGUF": {python, mlx.WithNative(mlx.QuantizedGGUF())},
		"Interpreter": {mlx.WithPython(mlx.Interpreter("/no/such"))}, "WithHost": {mlx.WithHost(nil)}, "WithShadow": {mlx.WithShadow(2)},
		"WithAdapter": {mlx.WithAdapter("/no/such")}, "WithDraftModel": {mlx.WithDraftModel("/no/such")},
	} {
		_, err := mlx.LoadModel(testenv.Model(t), options...)
		requireOption(t, err, name)
	}
	damaged := testenv.CopyModel(t)
	require.NoError(t, os.WriteFile(filepath.Join(damaged, "adapter_config.json"), []byte(`{"fine_tune_type": "lora", "lora_parameters": {"rank": 0}}`), 0o600))
	require.NoError(t, os.Rename(filepath.Join(damaged, "model.safetensors"), filepath.Join(damaged, "adapters.safetensors")))
	native := mlx.WithEngine(mlx.EngineNative)
	for name, each := range map[string][][]mlx.LoadOption{
		"WithPromptCache": {{python, mlx.WithPromptCache(-1)}}, "WithBatch": {{python, mlx.WithBatch(5000)}},
		"WithDraftModel": {{python, mlx.WithDraftModel("/no/such")}, {native, mlx.WithDraftModel(assistant)}, {python, mlx.WithDraftModel(assistant)}},
		"WithAdapter":    {{python, mlx.WithAdapter("/no/such")}, {native, mlx.WithAdapter(damaged)}},
	} {
		for _, options := range each {
			_, err := mlx.LoadModel(testenv.Model(t), options...)
			requireOption(t, err, name)
		}
	}
	requireOption(t, mlx.Verify(testenv.Model(t), mlx.WithDraftModel("/no/such")), "WithDraftModel")
	requireOption(t, mlx.Verify(testenv.Model(t), mlx.WithAdapter("/no/such")), "WithAdapter")
	_, err := mlx.NewHost(mlx.HostOptions{}, mlx.HostedModel{Name: "x", Options: []mlx.LoadOption{mlx.WithBatch(0)}})
	requireOption(t, err, "WithBatch")
	requireOption(t, mlx.Verify(testenv.Model(t), mlx.WithBatch(0)), "WithBatch")
}

// Zero values of options, and no options at all, change nothing and crash nothing.
func TestZeroOptionsChangeNothing(t *testing.T) {
	m := load(t, testenv.Model(t), nil, mlx.EventsOption{}, mlx.WithNative(mlx.NativeOption{}), mlx.WithEvents(nil))
	want, err := mlx.Collect(m.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(4)))
	require.NoError(t, err)
	got, err := mlx.Collect(m.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(4), nil, mlx.WithSampling(mlx.SamplingOption{}), mlx.WithSampling(),
		mlx.WithConstraint(mlx.Constraint{}), mlx.WithKV(mlx.KVOption{}, mlx.QuantizedKV(0, 0, 0), mlx.MaxKVSize(0)), mlx.WithTemplate(mlx.TemplateOption{}),
		mlx.WithOutput(mlx.OutputOption{}), mlx.WithScheduling(mlx.SchedulingOption{}), mlx.WithEvents(nil), mlx.WithStop(), mlx.EventsOption{}))
	require.NoError(t, err)
	require.Equal(t, want, got)
	a, err := m.Classify(t.Context(), []string{"goal"}, []string{"sport", "food"})
	require.NoError(t, err)
	b, err := m.Classify(t.Context(), []string{"goal"}, []string{"sport", "food"}, mlx.ClassifyOption{}, mlx.WithLabels(mlx.LabelOption{}), mlx.WithAbstain(0))
	require.NoError(t, err)
	require.Equal(t, a, b)
	_, err = m.Embed(t.Context(), []string{"x"}, mlx.EmbedOption{}, mlx.WithDimensions(0))
	requireOption(t, err, "WithDimensions")
}

// A zero that was written is a zero, where the default is another number.
func TestAZeroThatWasWrittenIsAZero(t *testing.T) {
	python := mlx.WithPython(mlx.Interpreter(testenv.Python(t)), mlx.Workers(2), mlx.MinWorkers(0), mlx.Queue(0))
	m := load(t, testenv.Model(t), python, mlx.WithBatch(1), mlx.WithDraftModel(testenv.Model(t)))
	pool := m.(mlx.Supervised)
	require.Len(t, pool.Stat().Workers, 1, "MinWorkers")
	options := []mlx.GenerateOption{mlx.WithMaxTokens(2000), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithScheduling(mlx.DraftTokens(0))}
	// A worker of one request and no queue: the second request is refused while the first is under way.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next, stop := iter.Pull2(m.Generate(ctx, "Where can I", options...))
	defer stop()
	_, err, ok := next()
	require.True(t, ok)
	require.NoError(t, err)
	_, err = mlx.Collect(m.Generate(ctx, "Where can I", options...))
	require.ErrorIs(t, err, mlx.ErrBusy)

	native := load(t, testenv.Model(t), mlx.WithDraftModel(testenv.Model(t)))
	_, err = mlx.Collect(native.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(8), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithScheduling(mlx.DraftTokens(0))))
	require.NoError(t, err)
	metrics, err := native.Metrics(t.Context())
	require.NoError(t, err)
	require.Zero(t, metrics.DraftedTokens)
	plain := load(t, testenv.Model(t))
	_, err = mlx.Collect(plain.Generate(t.Context(), "x", mlx.WithMaxTokens(1), mlx.WithScheduling(mlx.DraftTokens(0))))
	require.NoError(t, err, "a model without a draft model drafts nothing already")

	idle := load(t, testenv.Model(t), mlx.WithPython(mlx.Interpreter(testenv.Python(t)), mlx.IdleTTL(0)))
	require.Eventually(t, func() bool { return len(idle.(mlx.Supervised).Stat().Workers) == 0 }, 2*time.Minute, 10*time.Millisecond)
}

func TestCollectKeepsSegmentsAndCalls(t *testing.T) {
	call := mlx.ToolCall{Type: "function", Function: mlx.FunctionCall{Name: "weather", Arguments: []byte("{}")}}
	stream := func(yield func(mlx.Token, error) bool) {
		segment := func(kind mlx.SegmentKind, text string, calls ...mlx.ToolCall) mlx.Segment {
			return mlx.Segment{Kind: kind, Text: text, Calls: calls}
		}
		_ = yield(mlx.Token{Text: "<think>h", Segments: []mlx.Segment{segment(mlx.SegmentReasoning, "h")}}, nil) &&
			yield(mlx.Token{Text: "m</think>A", Segments: []mlx.Segment{segment(mlx.SegmentReasoning, "m"), segment(mlx.SegmentNormal, "A")}}, nil) &&
			yield(mlx.Token{Text: "<call>..</call>", Segments: []mlx.Segment{segment(mlx.SegmentTool, "..", call)}}, nil) &&
			yield(mlx.Token{Text: "<call>..</call>", FinishReason: mlx.FinishStop, StopString: "x", PromptTokens: 3, CachedTokens: 2, Segments: []mlx.Segment{segment(mlx.SegmentTool, "..", call)}}, nil)
	}
	c, err := mlx.Collect(stream)
	require.NoError(t, err)
	require.Equal(t, "<think>hm</think>A<call>..</call><call>..</call>", c.Text)
	require.Equal(t, []mlx.Segment{
		{Kind: mlx.SegmentReasoning, Text: "hm"}, {Kind: mlx.SegmentNormal, Text: "A"},
		{Kind: mlx.SegmentTool, Text: "..", Calls: []mlx.ToolCall{call}}, {Kind: mlx.SegmentTool, Text: "..", Calls: []mlx.ToolCall{call}},
	}, c.Segments)
	require.Equal(t, []mlx.ToolCall{call, call}, c.ToolCalls)
	require.Equal(t, []any{"x", 3, 2, mlx.FinishStop}, []any{c.StopString, c.PromptTokens, c.CachedTokens, c.FinishReason})

	broken := errors.New("broken")
	c, err = mlx.Collect(func(yield func(mlx.Token, error) bool) {
		_ = yield(mlx.Token{Text: "a"}, nil) && yield(mlx.Token{}, broken)
	})
	require.ErrorIs(t, err, broken)
	require.Equal(t, "a", c.Text)
	require.Len(t, c.Tokens, 1)
}

// What a caller may pass by mistake, such as nil or a zero value, is an error or does nothing.
func TestZeroValuesOfPublicTypesAreNoPanics(t *testing.T) {
	m := load(t, testenv.Model(t))
	_, err := m.Classify(t.Context(), []string{"x"}, nil, mlx.WithClassifier(&mlx.Classifier{}))
	requireOption(t, err, "WithClassifier")
	empty := &mlx.Classifier{}
	require.Zero(t, empty.Info())
	require.ErrorIs(t, empty.Save(filepath.Join(t.TempDir(), "c.safetensors")), mlx.ErrClassifierFile)
	_, err = empty.AbstainBy(mlx.AbstainByEnergy)
	require.Error(t, err)
	_, err = mlx.LoadModel(testenv.Model(t), mlx.WithHost(&mlx.Host{}))
	requireOption(t, err, "WithHost")
	c, err := mlx.Collect(nil)
	require.NoError(t, err)
	require.Empty(t, c)
	for range mlx.ClassifyAll(t.Context(), m, nil, []string{"a"}) {
		t.Fatal("there are no texts")
	}
	(&mlx.Lease{}).Release()
	h, err := mlx.NewHost(mlx.HostOptions{}, mlx.HostedModel{Name: "m", Path: testenv.Model(t), Options: []mlx.LoadOption{nil}})
	require.NoError(t, err)
	defer h.Close()
	lease, err := h.Acquire(t.Context(), "m", nil, mlx.OnWait(nil))
	require.NoError(t, err)
	lease.Release()
}

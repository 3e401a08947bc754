package mlx_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestNativeRefusesWhatOnlyPythonHas(t *testing.T) {
	m := load(t, testenv.Model(t))
	_, err := mlx.Collect(m.Generate(t.Context(), "x", mlx.WithScheduling(mlx.DraftTokens(2))))
	requireOption(t, err, "DraftTokens")
	// Tool calls in a notation that only mlx-lm can read.
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(testenv.Model(t))))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte("<minimax:tool_call>{{ messages[0].content }}"), 0o600))
	other := load(t, dir)
	_, err = mlx.Collect(other.Generate(t.Context(), "x", mlx.WithOutput(mlx.Segments())))
	requireOption(t, err, "Segments")
	require.ErrorContains(t, err, "minimax")
	_, err = mlx.Collect(other.Generate(t.Context(), "x", mlx.WithMaxTokens(2)))
	require.NoError(t, err, "without segments it does not matter")
	for name, option := range map[string]mlx.LoadOption{
		"IdleTTL": mlx.WithPython(mlx.IdleTTL(time.Second)),
		"Workers": mlx.WithPython(mlx.Workers(2)),
	} {
		_, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EngineNative), option)
		requireOption(t, err, name)
	}
	_, ok := m.(mlx.Supervised)
	require.False(t, ok)
}

func TestPythonRefusesWhatOnlyNativeHas(t *testing.T) {
	exact := mlx.WithNative(mlx.Exact())
	_, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EnginePython), exact)
	requireOption(t, err, "Exact")
	_, err = mlx.LoadModel(testenv.Model(t), mlx.WithPython(mlx.Workers(2)), exact)
	requireOption(t, err, "Exact")
	_, err = mlx.LoadModel(testenv.Model(t), mlx.WithMemoryBudget(-1))
	requireOption(t, err, "WithMemoryBudget")
	m := load(t, testenv.Model(t), mlx.WithMemoryBudget(1<<40), mlx.WithBatch(4), mlx.WithPromptCache(1<<20))
	require.Equal(t, mlx.EngineNative, m.Info().Engine)
	_, err = mlx.Collect(m.Generate(t.Context(), "Where can I find", mlx.WithMaxTokens(3), mlx.WithSampling(mlx.IgnoreEOS())))
	require.NoError(t, err)
	file := t.TempDir() + "/prompts.safetensors"
	require.NoError(t, m.(mlx.PromptCacheFiles).SavePromptCache(t.Context(), file))
	again := load(t, testenv.Model(t), mlx.WithPromptCache(1<<20))
	require.NoError(t, again.(mlx.PromptCacheFiles).LoadPromptCache(t.Context(), file))
	requireOption(t, load(t, testenv.Model(t)).(mlx.PromptCacheFiles).SavePromptCache(t.Context(), file), "WithPromptCache")
}

func TestGrammarsAndDraftsReachTheNativeEngine(t *testing.T) {
	m := load(t, testenv.Model(t))
	c, err := mlx.Collect(m.Generate(t.Context(), "x", mlx.WithConstraint(mlx.Choices("left", "right"))))
	require.NoError(t, err)
	require.Contains(t, []string{"left", "right"}, c.Text)
	c, err = mlx.Collect(m.Generate(t.Context(), "x", mlx.WithConstraint(mlx.JSONSchema([]byte(`{"const": {"a": [1]}}`)))))
	require.NoError(t, err)
	require.Equal(t, `{"a":[1]}`, c.Text)
	c, err = mlx.Collect(m.Generate(t.Context(), "x", mlx.WithConstraint(mlx.Regex("(ab){3}"))))
	require.NoError(t, err)
	require.Equal(t, "ababab", c.Text)
	_, err = mlx.Collect(m.Generate(t.Context(), "x", mlx.WithConstraint(mlx.Regex("a")), mlx.WithSampling(mlx.IgnoreEOS())))
	requireOption(t, err, "Regex")

	drafted := load(t, testenv.Model(t), mlx.WithDraftModel(testenv.Model(t)))
	require.Equal(t, mlx.EngineNative, drafted.Info().Engine)
	options := []mlx.GenerateOption{mlx.WithMaxTokens(20), mlx.WithSampling(mlx.IgnoreEOS())}
	want, err := mlx.Collect(m.Generate(t.Context(), "Where can I", options...))
	require.NoError(t, err)
	got, err := mlx.Collect(drafted.Generate(t.Context(), "Where can I", append(options, mlx.WithScheduling(mlx.DraftTokens(5)))...))
	require.NoError(t, err)
	require.Equal(t, want, got)
	metrics, err := drafted.Metrics(t.Context())
	require.NoError(t, err)
	require.Positive(t, metrics.AcceptedTokens)
}

func requireOption(t *testing.T, err error, name string) {
	t.Helper()
	var option *mlx.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, name, option.Option)
}

func TestOptionsReachThePythonEngine(t *testing.T) {
	host, err := mlx.NewHost(mlx.HostOptions{Budget: 1 << 30})
	require.NoError(t, err)
	defer host.Close()
	m := load(t, testenv.Model(t), mlx.WithPython(mlx.Interpreter(testenv.Python(t)), mlx.Workers(2), mlx.MinWorkers(1), mlx.Queue(5), mlx.IdleTTL(time.Hour)), mlx.WithPromptCache(1<<20), mlx.WithPython(mlx.StallTimeout(time.Minute)), mlx.WithHost(host))
	python, ok := m.(mlx.Supervised)
	require.True(t, ok)
	require.Len(t, python.Stat().Workers, 1)
	require.Positive(t, host.State().Used)
	var prefilled int64
	c, err := mlx.Collect(m.Generate(t.Context(), "Where can I", mlx.WithMaxTokens(4), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithScheduling(mlx.Session("a")),
		mlx.WithSampling(mlx.LogitBias(map[int32]float32{4100: 1e6})), mlx.WithEvents(func(e mlx.Event) { prefilled = e.Done })))
	require.NoError(t, err)
	require.EqualValues(t, c.PromptTokens, prefilled)
	for _, tok := range c.Tokens {
		require.EqualValues(t, 4100, tok.ID)
	}
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Positive(t, metrics.PromptCacheBytes)
	_, ok = m.(mlx.PromptCacheFiles)
	require.False(t, ok)
	_, ok = m.(mlx.HiddenStates)
	require.False(t, ok)
	for name, option := range map[string]mlx.GenerateOption{
		"JSONSchema": mlx.WithConstraint(mlx.JSONSchema([]byte("{"))), "Regex": mlx.WithConstraint(mlx.Regex("(")), "Grammar": mlx.WithConstraint(mlx.Grammar("start: nothing")),
	} {
		_, err := mlx.Collect(m.Generate(t.Context(), "x", option))
		requireOption(t, err, name)
	}
	c, err = mlx.Collect(m.Generate(t.Context(), "x", mlx.WithConstraint(mlx.Choices("red", "blue"))))
	require.NoError(t, err)
	require.Contains(t, []string{"red", "blue"}, c.Text)
	require.NoError(t, python.Reset(t.Context()))
	require.EqualValues(t, 1, slices.MaxFunc(python.Stat().Workers, func(a, b bridge.WorkerStat) int { return a.Generation - b.Generation }).Generation)
	require.NoError(t, m.Close())
	require.Zero(t, host.State().Used)
	bad := []byte(`[{"type":`)
	m = load(t, testenv.Model(t))
	_, err = mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "x"}}, mlx.WithTools(bad)))
	requireOption(t, err, "WithTools")
}

// Both engines give tools and arguments to the template alike.
func TestTemplatesSeeTheSameInBothEngines(t *testing.T) {
	dir := testenv.CopyModel(t)
	template := `{{ bos_token }}{{ messages[0].content }} {{ tools | tojson }} {{ enable_thinking }}{% for c in messages[1].tool_calls %} {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}`
	require.NoError(t, os.WriteFile(dir+"/chat_template.jinja", []byte(template), 0o644))
	call := mlx.ToolCall{Type: "function", Function: mlx.FunctionCall{Name: "weather", Arguments: []byte(`{"z":1,"city":"Lisbon \ud83d"}`)}} // half an emoji, as of a call that was cut off
	messages := []mlx.Message{{Role: "user", Content: "hi"}, {Role: "assistant", ToolCalls: []mlx.ToolCall{call}}}
	options := []mlx.GenerateOption{
		mlx.WithTools([]byte(`[{"type":"function","function":{"name":"weather","b":1,"a":[2,3]}}]`)),
		mlx.WithTemplate(mlx.TemplateArguments(map[string]any{"enable_thinking": false})), mlx.WithMaxTokens(30), mlx.WithSampling(mlx.IgnoreEOS()), mlx.WithOutput(mlx.LogProbs()),
	}
	native, err := mlx.Collect(load(t, dir, mlx.WithNative(mlx.Exact())).Chat(t.Context(), messages, options...))
	require.NoError(t, err)
	python, err := mlx.Collect(load(t, dir, mlx.WithPython(mlx.Interpreter(testenv.Python(t)))).Chat(t.Context(), messages, options...))
	require.NoError(t, err)
	require.Equal(t, native, python)
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := rootCommand()
	var out, errOut bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errOut)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), errOut.String(), err
}

func labels() string { return filepath.Join(testenv.Root(), "tests", "corpus", "labels.txt") }

func TestBothEnginesPrintTheSameClassification(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	input := strings.Join(testenv.Texts(t)[:30], "\n") + "\n\n"
	outputs := map[string]string{}
	for _, engine := range []string{"native", "python"} {
		args := []string{"classify", "--model", testenv.Model(t), "--labels", labels(), "--engine", engine}
		if engine == "native" {
			args = append(args, "--exact") // its own kernels round less often than mlx-lm
		}
		out, errOut, err := run(t, input, args...)
		require.NoError(t, err)
		require.Contains(t, errOut, engine+" engine")
		require.Contains(t, errOut, "30 texts")
		outputs[engine] = out
	}
	require.Equal(t, outputs["python"], outputs["native"])
	lines := strings.Split(strings.TrimSpace(outputs["native"]), "\n")
	require.Len(t, lines, 30)
	require.Regexp(t, `^commerce +[01]\.\d{3}  [01]\.\d{3}  Sold out: this colour`, lines[1])
}

func TestClassifyJSON(t *testing.T) {
	out, _, err := run(t, "sport\tThe goalkeeper saved a penalty\nfood\tBake the cake\n",
		"classify", "-q", "-m", testenv.Model(t), "-l", labels(), "--json", "--scores", "--labelled")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	var first struct {
		Line                  int
		Text, Expected, Label string
		Probability, Margin   float64
		Scores                []mlx.LabelScore
	}
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
	require.Equal(t, "sport", first.Label)
	require.Equal(t, "sport", first.Expected)
	require.Equal(t, "The goalkeeper saved a penalty", first.Text)
	require.Equal(t, 1, first.Line)
	require.Len(t, first.Scores, 8)
	require.Greater(t, first.Probability, first.Margin)
}

func TestLabelledInputGivesTheAccuracy(t *testing.T) {
	_, errOut, err := run(t, "sport\tThe goalkeeper saved a penalty\nlegal\tBake the chocolate cake\n",
		"classify", "-m", testenv.Model(t), "-l", labels(), "--labelled")
	require.NoError(t, err)
	require.Contains(t, errOut, "accuracy 50.0% (1 of 2)")
}

func TestClassifyCalibratesAndAbstains(t *testing.T) {
	heldout := filepath.Join(t.TempDir(), "labelled.tsv")
	var lines []string
	for _, l := range testenv.Heldout(t) {
		lines = append(lines, l.Domain+"\t"+l.Text+"\n")
	}
	require.NoError(t, os.WriteFile(heldout, []byte(strings.Join(lines, "")), 0o644))
	out, errOut, err := run(t, "The goalkeeper saved a penalty\nqqq\n",
		"classify", "-m", testenv.Model(t), "-l", labels(), "--calibrate", heldout, "--abstain", "0.7")
	require.NoError(t, err)
	require.Contains(t, errOut, "calibrated on 160 texts: temperature")
	lines = strings.Split(strings.TrimSpace(out), "\n")
	require.Regexp(t, "^sport ", lines[0])
	require.Regexp(t, "^- ", lines[1])
	_, _, err = run(t, "x", "classify", "-m", testenv.Model(t), "-l", labels(), "--calibrate", "/no/such/file")
	require.ErrorContains(t, err, "calibrate")
}

func TestGenerate(t *testing.T) {
	out, errOut, err := run(t, "", "generate", "-m", testenv.Model(t), "-n", "5", "Where can I find")
	require.NoError(t, err)
	require.NotEmpty(t, strings.TrimSpace(out))
	require.Contains(t, errOut, "ended by")
	out, _, err = run(t, "Classify the text. Answer with one of: sport, food.\n\nText: Bake the cake\n", "generate", "-q", "-m", testenv.Model(t), "--chat")
	require.NoError(t, err)
	require.Equal(t, "food\n", out)
	out, _, err = run(t, "", "generate", "-q", "-m", testenv.Model(t), "-n", "3", "--json", "--top-logprobs", "2", "Where")
	require.NoError(t, err)
	for line := range strings.Lines(out) {
		var token struct {
			ID  int
			Top []struct{ ID int }
		}
		require.NoError(t, json.Unmarshal([]byte(line), &token))
		require.Len(t, token.Top, 2)
		require.Equal(t, token.ID, token.Top[0].ID)
	}
}

func TestInfo(t *testing.T) {
	out, _, err := run(t, "", "info", "-m", testenv.Model(t))
	require.NoError(t, err)
	require.Contains(t, out, "gemma3_text")
	require.Contains(t, out, "native (the native engine supports this architecture)")
}

func TestMistakesGetClearErrors(t *testing.T) {
	model := testenv.Model(t)
	empty := filepath.Join(t.TempDir(), "labels")
	require.NoError(t, os.WriteFile(empty, nil, 0o644))
	for name, c := range map[string]struct {
		stdin string
		args  []string
		want  string
		usage bool
	}{
		"no model":       {"", []string{"info", "-m", "/no/such"}, "not a model folder", false},
		"no labels":      {"x\n", []string{"classify", "-m", model, "-l", "/no/such"}, "--labels: open", false},
		"no number":      {"", []string{"generate", "-m", model, "--temperature", "hot", "x"}, "flag: invalid syntax", true},
		"no name":        {"", []string{"pull"}, "as ORG/NAME", true},
		"two names":      {"", []string{"pull", "a/b", "c/d"}, "name one model, and not 2", true},
		"none to delete": {"", []string{"rm"}, "as ORG/NAME", true},
		"no data":        {"", []string{"train", model, "--data", "/none", "--out", filepath.Join(t.TempDir(), "out")}, "train.jsonl: no such file", false},
		"no schema":      {"", []string{"generate", "-m", "/no/such", "--json-schema", "/none", "x"}, "open /none", true},
		"empty labels":   {"x\n", []string{"classify", "-m", model, "-l", empty}, "no labels", false},
		"bad UTF-8":      {"ok\n\xff\n", []string{"classify", "-m", model, "-l", labels()}, "line 2", false},
		"no tab":         {"sport\n", []string{"classify", "-m", model, "-l", labels(), "--labelled"}, "line 1: no tab", false},
		"endless line":   {strings.Repeat("x", maxLine+1), []string{"classify", "-m", model, "-l", labels()}, "too long", false},
		"huge text":      {"ok\n" + strings.Repeat("word ", 3000) + "\n", []string{"classify", "-m", model, "-l", labels()}, "fewer than", false},
		"unknown flag":   {"", []string{"info", "-m", model, "--what"}, "unknown flag", true},
		"no labels flag": {"", []string{"classify", "-m", model}, "give --labels or --classifier", true},
		"too many words": {"", []string{"info", "-m", model, "x"}, "unknown argument", true},
		"no command":     {"", []string{"what"}, "unknown command", true},
		"scores alone":   {"", []string{"classify", "-m", model, "-l", labels(), "--scores"}, "--json", true},
		"system alone":   {"", []string{"generate", "-m", model, "--system", "x", "y"}, "--chat", true},
		"bad top-p":      {"", []string{"generate", "-m", model, "--top-p", "3", "y"}, "--top-p: 3", false},
		"native option":  {"", []string{"generate", "-m", model, "-e", "native", "--workers", "2", "x"}, "--workers: only", false},
	} {
		_, _, err := run(t, c.stdin, c.args...)
		require.ErrorContains(t, err, c.want, name)
		require.Equal(t, c.usage, isUsage(err), name)
	}
}

func TestEmbedPrintsAVectorForEachLine(t *testing.T) {
	out, _, err := run(t, "one\n\ntwo\n", "embed", "-q", "-m", testenv.Model(t), "--dimensions", "16")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 2)
	for _, line := range lines {
		var v []float32
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		require.Len(t, v, 16)
	}
	_, _, err = run(t, "one\n", "embed", "-q", "-m", testenv.Model(t), "--prompt-name", "query")
	require.ErrorContains(t, err, "--prompt-name")
}

func TestGenerateFollowsAGrammar(t *testing.T) {
	schema := filepath.Join(t.TempDir(), "schema.json")
	require.NoError(t, os.WriteFile(schema, []byte(`{"enum": ["red", "blue"]}`), 0o644))
	for _, flags := range [][]string{{"--json-schema", schema}, {"--choice", `"red"`, "--choice", `"blue"`}, {"--regex", `"(red|blue)"`}} {
		out, _, err := run(t, "", append([]string{"generate", "-q", "-m", testenv.Model(t), "The colour is"}, flags...)...)
		require.NoError(t, err)
		require.Contains(t, []string{`"red"`, `"blue"`}, strings.TrimSpace(out))
	}
	_, _, err := run(t, "", "generate", "-q", "-m", testenv.Model(t), "--regex", "a", "--choice", "b", "x")
	require.Error(t, err)
}

// Editors on Windows put a byte order mark in front of a text. It is no part of the first label, text or anything else.
func TestAByteOrderMarkIsNoText(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte("\ufeff"+text), 0o644))
		return path
	}
	marked := write("labels.txt", "sport\r\nfood\r\n")
	const input = "\ufeffsport\tThe goalkeeper saved a penalty\n"
	out, errOut, err := run(t, input, "classify", "-m", testenv.Model(t), "-l", marked, "--labelled", "--json", "--scores")
	require.NoError(t, err)
	require.NotContains(t, out, "\ufeff")
	require.Contains(t, out, `"label":"sport"`)
	require.Contains(t, errOut, "accuracy 100.0% (1 of 1)")

	labelled := write("labelled.tsv", "sport\tThe goalkeeper saved a penalty\nfood\tBake the cake\n")
	_, errOut, err = run(t, "x\n", "classify", "-m", testenv.Model(t), "-l", marked, "--calibrate", labelled)
	require.NoError(t, err)
	require.Contains(t, errOut, "calibrated on 2 texts")

	schema := write("schema.json", `{"enum": ["red"]}`)
	out, _, err = run(t, "\ufeffThe colour is", "generate", "-q", "-m", testenv.Model(t), "--json-schema", schema)
	require.NoError(t, err)
	require.Equal(t, `"red"`, strings.TrimSpace(out))
}

func TestLinesBeforeABadOneAreClassified(t *testing.T) {
	for name, bad := range map[string]string{"UTF-8": "\xff\n", "length": strings.Repeat("x", maxLine+1), "no tab": "sport\n"} {
		args := []string{"classify", "-q", "-m", testenv.Model(t), "-l", labels()}
		good := "The goalkeeper saved a penalty\n"
		if name == "no tab" {
			args, good = append(args, "--labelled"), "sport\t"+good
		}
		out, _, err := run(t, good+good+bad+good, args...)
		require.ErrorContains(t, err, "line 3", name)
		require.Equal(t, 2, strings.Count(out, "goalkeeper"), name)
	}
	bad := filepath.Join(t.TempDir(), "labels")
	require.NoError(t, os.WriteFile(bad, []byte("sport\nfoo\xffd\n"), 0o644))
	_, _, err := run(t, "x\n", "classify", "-m", testenv.Model(t), "-l", bad)
	require.ErrorContains(t, err, "line 2")
	require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
}

func TestAClassifierIsTrainedMeasuredAndCompared(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	var lines []string
	for i, l := range testenv.Heldout(t) {
		if i%4 != 0 {
			lines = append(lines, l.Domain+"\t"+l.Text+"\t"+l.Language+"\r\n")
		}
	}
	require.NoError(t, os.WriteFile(in("data.tsv"), []byte("\ufeff"+strings.Join(lines, "\n")), 0o644))
	model := testenv.Model(t)
	out, errOut, err := run(t, "", "classifier", "train", model, "--data", in("data.tsv"), "--out", in("c.safetensors"), "--validation", "0.2")
	require.NoError(t, err)
	require.Contains(t, errOut, "fitted to")
	require.Regexp(t, `commerce +\d+ +\d+\.\d`, out)
	out, _, err = run(t, "", "classifier", "eval", model, "--classifier", in("c.safetensors"), "--data", in("data.tsv"), "--results", in("a.json"), "--html", in("a.html"))
	require.NoError(t, err)
	require.Contains(t, out, "120 texts")
	require.Regexp(t, `\nde +30 `, out)
	page, err := os.ReadFile(in("a.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), "<polyline points=")
	require.NotContains(t, string(page), "http", "it needs nothing else")
	_, _, err = run(t, "", "classifier", "eval", model, "--labels", labels(), "--data", in("data.tsv"), "--results", in("b.json"))
	require.NoError(t, err)
	out, _, err = run(t, "", "classifier", "compare", in("a.json"), in("b.json"))
	require.NoError(t, err)
	require.Regexp(t, `^120 texts: A is right on .*\nMcNemar's exact test: p = `, out)
	out, _, err = run(t, "The goalkeeper saved a penalty\n", "classify", "-q", model, "--classifier", in("c.safetensors"))
	require.NoError(t, err)
	require.Contains(t, out, "The goalkeeper")

	for want, args := range map[string][]string{
		"give --labels or --classifier": {"classify", model},
		"give --classifier or --labels": {"classifier", "eval", model, "--data", in("data.tsv")},
		"not a classifier file":         {"classify", model, "--classifier", in("a.json")},
		"no predictions":                {"classifier", "compare", in("none.json"), in("a.json")},
		"fields; want LABEL<tab>TEXT":   {"classifier", "train", model, "--data", in("a.html"), "--out", in("x")},
		"say train, eval or compare":    {"classifier"},
	} {
		require.NoError(t, os.WriteFile(in("none.json"), []byte("{}"), 0o644))
		_, _, err := run(t, "", args...)
		require.ErrorContains(t, err, want)
	}
}

func TestLabelsFilesHaveDescriptionsAndExamples(t *testing.T) {
	path := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(path, []byte("\ufefffinance: invoices, accounts\n  e.g. Pay the invoice: now\n\te.g. Open an account\n\nnight life\r\n"), 0o644))
	names, details, err := readLabels(path)
	require.NoError(t, err)
	require.Equal(t, []string{"finance", "night life"}, names)
	require.Equal(t, map[string]mlx.LabelDetails{"finance": {Description: "invoices, accounts", Examples: []string{"Pay the invoice: now", "Open an account"}}}, details)
	require.NoError(t, os.WriteFile(path, []byte(" e.g. nothing\n"), 0o644))
	_, _, err = readLabels(path)
	require.ErrorContains(t, err, "line 1")
}

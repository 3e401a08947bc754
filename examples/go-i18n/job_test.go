package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func newJob(t *testing.T, sentences int) job {
	var b strings.Builder
	heldout := testenv.Heldout(t)
	for i := range sentences {
		data, err := json.Marshal(map[string]any{"prompt": heldout[i%len(heldout)].Text, "id": i})
		require.NoError(t, err)
		b.Write(data)
		b.WriteByte('\n')
		if i%100 == 7 {
			b.WriteString("\n") // an empty line means nothing
		}
	}
	dir := t.TempDir()
	j := job{in: filepath.Join(dir, "in.jsonl"), out: filepath.Join(dir, "out.jsonl"), field: "prompt", labels: testenv.Labels(t)}
	require.NoError(t, os.WriteFile(j.in, []byte(b.String()), 0o600))
	return j
}

func model(t *testing.T) mlx.TextModel {
	m, err := mlx.LoadModel(testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// However often a run is broken off, and wherever, the file is in the end what one run makes.
func TestAnInterruptedRunIsResumed(t *testing.T) {
	const n = 620
	m, j := model(t), newJob(t, n)
	s, err := j.run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, n, s.Done)
	require.Equal(t, s.TotalBytes, s.Bytes)
	want, err := os.ReadFile(j.out)
	require.NoError(t, err)
	require.Equal(t, n, strings.Count(string(want), "\n"))

	j.out += ".again"
	for first := true; ; first = false {
		ctx, cancel := context.WithCancel(t.Context())
		j.progress = func(stats) { cancel() } // after a window
		_, err = j.run(ctx, m)
		if first {
			require.ErrorIs(t, err, context.Canceled)
		}
		// And as if the machine had stopped in the middle of a line.
		data, err := os.ReadFile(j.out)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(j.out, data[:len(data)-17], 0o600))
		if !first {
			break
		}
	}
	j.progress = nil
	s, err = j.run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, n, s.Done)
	require.Positive(t, s.Before)
	got, err := os.ReadFile(j.out)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
	total := 0
	for _, count := range s.ByDomain {
		total += count
	}
	require.Equal(t, n, total)

	s, err = j.run(t.Context(), m)
	require.NoError(t, err, "a finished file stays as it is")
	require.Equal(t, n, s.Before)
}

func TestFieldsAreKeptAndUnsureOnesUnknown(t *testing.T) {
	m, j := model(t), newJob(t, 20)
	j.abstain = 0.9999
	s, err := j.run(t.Context(), m)
	require.NoError(t, err)
	require.Positive(t, s.ByDomain[unknown])
	data, err := os.ReadFile(j.out)
	require.NoError(t, err)
	var first map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(string(data), "\n", 2)[0]), &first))
	require.Equal(t, 0.0, first["id"])
	require.Contains(t, first, "domain_margin")
}

func TestABadInputOrOutputFileIsAnError(t *testing.T) {
	m, j := model(t), newJob(t, 5)
	require.NoError(t, os.WriteFile(j.out, []byte(`{"prompt": "another file", "domain": "x"}`+"\n"), 0o600))
	_, err := j.run(t.Context(), m)
	require.ErrorContains(t, err, "give another output file")
	require.NoError(t, os.WriteFile(j.out, []byte("what is this\n"), 0o600))
	_, err = j.run(t.Context(), m)
	require.ErrorContains(t, err, "not of this program")
	require.NoError(t, os.Remove(j.out))
	require.NoError(t, os.WriteFile(j.in, []byte("{\"prompt\": \"ok\"}\n{\"text\": 1}\n"), 0o600))
	s, err := j.run(t.Context(), m)
	require.ErrorContains(t, err, `sentence 2 has no text in "prompt"`)
	require.Equal(t, 1, s.Done, "what came before is sorted")
	j.in = "/none"
	_, err = j.run(t.Context(), m)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLabelsAreLines(t *testing.T) {
	require.Equal(t, []string{"night life", "sport"}, readLabels("\ufeffnight life\r\n\n sport "))
}

const poFile = `msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"

msgid "Save the goal"
msgstr "Das Tor halten"

msgctxt "kitchen"
msgid "Bake"
msgstr ""

#, fuzzy
msgid "%d match"
msgid_plural "%d matches"
msgstr[0] "%d Spiel"
msgstr[1] "%d Spiele"
`

// Strings of catalogues come with their keys, and such a run goes on as well.
func TestCataloguesAreSorted(t *testing.T) {
	m, j := model(t), newJob(t, 1)
	dir := t.TempDir()
	for name, want := range map[string][][2]string{
		"de.po":   {{"%d match", "%d Spiel"}, {"Bake", "Bake"}, {"Save the goal", "Das Tor halten"}},
		"en.json": {{"menu.cook.eggs", "Fry the eggs"}, {"menu.goals.0", "One goal"}, {"menu.goals.1", "Goals"}, {"title", "The match"}},
	} {
		text := poFile
		if name == "en.json" {
			text = `{"title": "The match", "menu": {"cook": {"eggs": "Fry the eggs", "empty": " "}, "goals": ["One goal", "Goals"]}}`
		}
		j.in, j.out = filepath.Join(dir, name), filepath.Join(dir, name+".jsonl")
		require.NoError(t, os.WriteFile(j.in, []byte(text), 0o600))
		s, err := j.run(t.Context(), m)
		require.NoError(t, err)
		require.Equal(t, len(want), s.Done)
		data, err := os.ReadFile(j.out)
		require.NoError(t, err)
		var got [][2]string
		for line := range strings.Lines(string(data)) {
			var fields struct{ Key, Prompt, Domain string }
			require.NoError(t, json.Unmarshal([]byte(line), &fields))
			require.Contains(t, j.labels, fields.Domain)
			got = append(got, [2]string{fields.Key, fields.Prompt})
		}
		require.Equal(t, want, got)
		require.NoError(t, os.WriteFile(j.out, data[:len(data)-9], 0o600))
		_, err = j.run(t.Context(), m)
		require.NoError(t, err)
		again, err := os.ReadFile(j.out)
		require.NoError(t, err)
		require.Equal(t, string(data), string(again))
	}
	for name, text := range map[string]string{
		"bad.json": `{"a": 1}`, "bad.po": "nothing", "empty.json": "{}", "text.json": "a text", "latin.json": "{\"a\": \"\xe4\"}",
		"latin.po": "msgid \"\"\nmsgstr \"\"\n\"Content-Type: text/plain; charset=UTF-8\\n\"\n\nmsgid \"a\"\nmsgstr \"\xe4\"\n",
		"other.po": "msgid \"\"\nmsgstr \"\"\n\"Content-Type: text/plain; charset=none\\n\"\n\nmsgid \"a\"\nmsgstr \"\xe4\"\n",
	} {
		j.in, j.out = filepath.Join(dir, name), filepath.Join(dir, name+".jsonl")
		require.NoError(t, os.WriteFile(j.in, []byte(text), 0o600))
		_, err := j.run(t.Context(), m)
		require.ErrorContains(t, err, name)
		require.NoFileExists(t, j.out)
	}
}

// What an output line looks like is the encoder's choice: a run is resumed by what the line says.
func TestARunIsResumedWhateverItsInputLooksLike(t *testing.T) {
	m, j := model(t), newJob(t, 1)
	lines := "\ufeff{\"prompt\": \"Save the <b>goal</b> & win\", \"n\": 12345678901234567890}\r\n{\"prompt\":\"Caf\\u00e9\\/bar\"}\n{\"prompt\": \"\u2028\\u2028\"}\n"
	catalogue := `{"a.b": "Bake the <i>cake</i>", "a": {"b": "The match", "c": null, "d": 3, "e": true}, "l": [{"m": "Pay"}]}`
	for name, text := range map[string]string{"in.jsonl": lines, "in.json": catalogue, "list.json": "[" + catalogue + "]"} {
		for range 8 { // the order of an object's keys is chance
			j.in, j.out = filepath.Join(t.TempDir(), name), filepath.Join(t.TempDir(), "out.jsonl")
			require.NoError(t, os.WriteFile(j.in, []byte(text), 0o600))
			s, err := j.run(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, 3, s.Done)
			want, err := os.ReadFile(j.out)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(j.out, want[:len(want)-9], 0o600))
			s, err = j.run(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, 2, s.Before)
			got, err := os.ReadFile(j.out)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
			require.NotContains(t, string(got), "u003c", "it can be read")
		}
	}
	for text, want := range map[string]string{`{"prompt": null}`: "has no text", "null": "has no text", "{\"prompt\": \"\xff\"}": "UTF-8"} {
		j.in = filepath.Join(t.TempDir(), "in.jsonl")
		require.NoError(t, os.WriteFile(j.in, []byte(text), 0o600))
		j.out = j.in + ".out"
		_, err := j.run(t.Context(), m)
		require.ErrorContains(t, err, want)
	}
	for field, name := range map[string]string{"domain": "in.jsonl", "key": "in.json"} {
		j.field, j.in = field, filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(j.in, []byte(catalogue), 0o600))
		_, err := j.run(t.Context(), m)
		require.ErrorContains(t, err, "-field "+field)
	}
}

// Catalogues of other encodings say so in their header.
func TestACatalogueIsReadInItsOwnEncoding(t *testing.T) {
	header := func(charset string) string {
		return "msgid \"\"\nmsgstr \"\"\n\"MIME-Version: 1.0\\n\"\n\"Content-Type: text/plain; charset=" + charset + "\\n\"\n\nmsgid \"key\"\nmsgstr "
	}
	for _, text := range []string{
		header("ISO-8859-1") + "\"K\xfcche\"\n", header("iso-8859-15") + "\"K\xfcche\"\n", header("UTF-8") + "\"Küche\"\n", header("CHARSET") + "\"Küche\"\n", "\ufeff" + header("utf-8") + "\"Küche\"\n",
		strings.ReplaceAll(header("windows-1252")+"\"K\xfcche\"\n", "\n", "\r\n"),
	} {
		entries, err := readPO([]byte(text))
		require.NoError(t, err)
		require.Equal(t, []entry{{"key", "", "Küche"}}, entries)
	}
	entries, err := readPO([]byte(header("KOI8-R") + "\"\xeb\xd5\xc8\xce\xd1\"\n"))
	require.NoError(t, err)
	require.Equal(t, "Кухня", entries[0].Text)
}

func TestAgreementOfTwoModels(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, domains ...string) string {
		var b strings.Builder
		for i, d := range domains {
			fmt.Fprintf(&b, `{"prompt": "text %d", "domain": %q}`+"\n", i, d)
		}
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o600))
		return path
	}
	a, b := write("a", "x", "x", "y", "y"), write("b", "x", "y", "y", "y")
	var out strings.Builder
	require.NoError(t, agreement(&out, a, b, "prompt"))
	require.Equal(t, "4 sentences, the same domain for 75.0 %, kappa 0.50\n       1  x / y\n", out.String())
	require.ErrorContains(t, agreement(&out, a, write("c", "x"), "prompt"), "of the same file")
}

func TestATrainedClassifierSorts(t *testing.T) {
	m, j := model(t), newJob(t, 40)
	var texts []mlx.LabelledText
	for _, s := range testenv.Heldout(t) {
		texts = append(texts, mlx.LabelledText{Text: s.Text, Label: strings.ToUpper(s.Domain)})
	}
	var err error
	j.use, err = mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{})
	require.NoError(t, err)
	j.labels = j.use.Info().Labels
	s, err := j.run(t.Context(), m)
	require.NoError(t, err)
	require.Equal(t, 40, s.Done)
	for domain := range s.ByDomain {
		require.Contains(t, append(j.labels, unknown), domain, "the classifier's own labels")
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// labelledFile is a data file of the held-out sentences.
func labelledFile(t *testing.T) string {
	var b strings.Builder
	for _, l := range testenv.Heldout(t) {
		b.WriteString(l.Domain + "\t" + l.Text + "\t" + l.Language + "\n")
	}
	path := filepath.Join(t.TempDir(), "data.tsv")
	require.NoError(t, os.WriteFile(path, []byte(b.String()), 0o644))
	return path
}

// Work that takes minutes does not begin if its result has no place to go.
func TestResultsWithoutAPlaceAreRefusedFirst(t *testing.T) {
	data, dir, none := labelledFile(t), t.TempDir(), filepath.Join(t.TempDir(), "none", "file")
	missing := filepath.Join(t.TempDir(), "no model") // which would be the error if the work had begun
	for flag, command := range map[string][]string{
		"--out":     {"classifier", "train", missing, "--data", data},
		"--results": {"classifier", "eval", missing, "--labels", labels(), "--data", data},
		"--html":    {"classifier", "eval", missing, "--labels", labels(), "--data", data},
	} {
		for path, want := range map[string]string{dir: "is a folder", none: "no such file or directory"} {
			_, _, err := run(t, "", append(command, flag, path)...)
			require.ErrorContains(t, err, flag+": ")
			require.ErrorContains(t, err, want)
		}
	}
	for _, command := range [][]string{{"parity", missing}, {"selftest"}} {
		_, _, err := run(t, "", append(command, "--html", dir)...)
		require.ErrorContains(t, err, "--html: "+dir+" is a folder")
	}
	_, _, err := run(t, "", "classifier", "train", missing, "--data", data, "--out", "")
	require.ErrorContains(t, err, "--out: it is empty")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)

	// A file that can be written is as it was until the work is done.
	out := filepath.Join(dir, "out")
	require.NoError(t, os.WriteFile(out, []byte("before"), 0o644))
	_, _, err = run(t, "", "classifier", "train", missing, "--data", data, "--out", out)
	require.ErrorContains(t, err, "no model")
	before, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "before", string(before))
}

func TestMistakesInDataAndFlagsOfAClassifierAreNamed(t *testing.T) {
	data, model, dir := labelledFile(t), testenv.Model(t), t.TempDir()
	out := filepath.Join(dir, "c.safetensors")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	small := write("small.tsv", "a\tone\n\nb\ttwo\n")
	for want, args := range map[string][]string{
		"line 3 has no text":                       {"train", model, "--data", write("empty.tsv", "\na\tone\nb\t \n"), "--out", out},
		"line 4: text is not valid UTF-8":          {"train", model, "--data", write("latin.tsv", "\n\na\tone\nb\t\xff\n"), "--out", out},
		"--validation: a share of 0.1 keeps none":  {"train", model, "--data", small, "--out", out},
		"the texts have 1":                         {"train", model, "--data", write("one.tsv", "a\tone\na\ttwo\n"), "--out", out},
		"--abstain-by goes with --classifier":      {"eval", model, "--labels", labels(), "--data", data, "--abstain-by", "energy"},
		"small.tsv: it holds no predictions":       {"compare", small, small},
		"open " + filepath.Join(dir, "none.json"):  {"compare", filepath.Join(dir, "none.json"), small},
		"--prompt: \"no place\" must hold {text}":  {"train", model, "--data", data, "--out", out, "--prompt", "no place"},
		"go-mlx classifier train`, from the label": {"eval", model, "--classifier", filepath.Join(model, "model.safetensors"), "--data", data},
	} {
		_, _, err := run(t, "", append([]string{"classifier"}, args...)...)
		require.ErrorContains(t, err, want)
		require.NoFileExists(t, out)
	}
	_, _, err := run(t, "a text\n", "classify", model, "--labels", labels(), "--abstain", "2")
	require.EqualError(t, err, "--abstain: probability 2 is not between 0 and 1", "no line is to blame")
}

// A label whose description is not written yet is no label that ends with a colon.
func TestALabelWithoutItsDescriptionIsALabel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(path, []byte("finance:\nsport: \nnight:life\nfood: eating: cooking\n"), 0o644))
	names, details, err := readLabels(path)
	require.NoError(t, err)
	require.Equal(t, []string{"finance", "sport", "night:life", "food"}, names)
	require.Equal(t, map[string]mlx.LabelDetails{"food": {Description: "eating: cooking"}}, details)
	require.NoError(t, os.WriteFile(path, []byte("\n: eating\n"), 0o644))
	_, _, err = readLabels(path)
	require.ErrorContains(t, err, "line 2: there is no label before the colon")
	require.NoError(t, os.WriteFile(path, []byte("sport\n  e.g. \n"), 0o644))
	_, _, err = readLabels(path)
	require.ErrorContains(t, err, "line 2: an example without a text", "it is no label that is called e.g.")
}

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
)

func TestAByteOrderMarkIsNoPartOfALabel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels.txt")
	require.NoError(t, os.WriteFile(file, []byte("\ufeffsport\r\n\r\nnight life\n"), 0o600))
	labels, err := readLines(file)
	require.NoError(t, err)
	require.Equal(t, []string{"sport", "night life"}, labels)
	var got []line
	require.NoError(t, eachBatch(strings.NewReader("\ufeffsport\tgoal\nfood\tsoup\n"), true, func(batch []line) error {
		got = append(got, batch...)
		return nil
	}))
	require.Equal(t, []line{{1, "sport", "goal"}, {2, "food", "soup"}}, got)
}

// PowerShell writes UTF-16. Whatever reads a text says so, and names the line.
func TestUTF16IsNamed(t *testing.T) {
	for _, text := range []string{"\xff\xfes\x00p\x00", "\xfe\xff\x00s\x00p", "sport\nf\x00o\x00\n"} {
		file := filepath.Join(t.TempDir(), "file.txt")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := readLines(file)
		_, labelled := readLabelled(file)
		batch := eachBatch(strings.NewReader(text), false, func([]line) error { return nil })
		lines := newLineSource(strings.NewReader(text), io.Discard)
		var chat error
		for chat == nil {
			_, chat = lines.line("")
		}
		for _, err := range []error{err, labelled, batch, chat} {
			if text[0] == 's' && err == labelled { //nolint:errorlint // the very error
				continue // of its first line, which has no tab
			}
			require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
			require.ErrorContains(t, err, "save it as UTF-8")
			require.ErrorContains(t, err, "line ")
		}
	}
}

func TestAByteOrderMarkIsNoPartOfAMessage(t *testing.T) {
	lines := newLineSource(strings.NewReader("\ufeff/help\r\n\ufeffx\n"), io.Discard)
	first, err := lines.line("")
	require.NoError(t, err)
	require.Equal(t, "/help", first)
	second, err := lines.line("")
	require.NoError(t, err)
	require.Equal(t, "\ufeffx", second, "only the file's first character is a mark")
}

// Files as editors, spreadsheets and `cat` leave them: whatever reads labels or labelled texts reads the same from all.
func TestLinesOfEveryKind(t *testing.T) {
	for name, text := range map[string]string{
		"plain":              "sport\tgoal\nfood\tsoup\n",
		"Windows":            "\ufeffsport\tgoal\r\nfood\tsoup\r\n",
		"old Macs":           "sport\tgoal\rfood\tsoup\r",
		"old Macs, marked":   "\ufeffsport\tgoal\r\rfood\tsoup",
		"put together":       "\ufeffsport\tgoal\n\ufefffood\tsoup",
		"marked twice":       "\ufeff\ufeffsport\tgoal\n\n\ufeff\nfood\tsoup\n",
		"spaces at the tab":  " sport \tgoal\nfood\u00a0\tsoup\n",
		"no end, blank ends": "\r\n\r\nsport\tgoal\r\nfood\tsoup\r\n \t \r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			require.NoError(t, eachBatch(strings.NewReader(text), true, func(batch []line) error {
				for _, l := range batch {
					got = append(got, l.label+"="+l.text)
				}
				return nil
			}))
			require.Equal(t, []string{"sport=goal", "food=soup"}, got)
			file := filepath.Join(t.TempDir(), "labelled.tsv")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			labelled, err := readLabelled(file)
			require.NoError(t, err)
			require.Equal(t, []labelledLine{{"sport", "goal", "", ""}, {"food", "soup", "", ""}}, labelled)

			only := strings.NewReplacer("\tgoal", "", "\tsoup", ": meals").Replace(text)
			require.NoError(t, os.WriteFile(file, []byte(only), 0o600))
			labels, details, err := readLabels(file)
			require.NoError(t, err)
			require.Equal(t, []string{"sport", "food"}, labels)
			require.Equal(t, "meals", details["food"].Description)
			lines, err := readLines(file)
			require.NoError(t, err)
			require.Len(t, lines, 2)
		})
	}
}

// A line of input is a line of output: a \r in the middle is part of a text.
func TestACarriageReturnAmidLinesEndsNone(t *testing.T) {
	count := 0
	require.NoError(t, eachBatch(strings.NewReader("progress 1\rprogress 2\nnext\n"), false, func(batch []line) error {
		count += len(batch)
		return nil
	}))
	require.Equal(t, 2, count)
}

// A bad line in the middle is named, and those before it are done.
func TestABadLineIsNamed(t *testing.T) {
	for name, bad := range map[string]string{
		"Latin-1": "caf\xe9\tx", "a cut character": "x\ty\xe2\x82", "half a pair": "\xed\xa0\x80\tx", "a NUL": "a\x00b\tx", "no tab": "food", "no label": "\tsoup", "only a mark": "\ufeff\tsoup",
	} {
		t.Run(name, func(t *testing.T) {
			text := "\ufeffsport\tgoal\r\n\r\n" + bad + "\r\nfood\tsoup\r\n"
			done := 0
			err := eachBatch(strings.NewReader(text), true, func(batch []line) error {
				done += len(batch)
				return nil
			})
			require.ErrorContains(t, err, "line 3")
			require.Equal(t, 1, done)
			file := filepath.Join(t.TempDir(), "labelled.tsv")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			_, err = readLabelled(file)
			require.ErrorContains(t, err, "line 3")
			require.ErrorContains(t, err, file)
		})
	}
}

// Where one text of a batch cannot be computed, those before it are answered, and the error names its line.
func TestTextsBeforeABadOneAreAnswered(t *testing.T) {
	bad := errors.New("too long")
	batch := []line{{1, "", "a"}, {2, "", "b"}, {4, "", "bad"}, {5, "", "c"}}
	var used []string
	err := answer(t.Context(), batch, func(texts []string) (string, error) {
		if slices.Contains(texts, "bad") {
			return "", bad
		}
		return strings.Join(texts, "+"), nil
	}, func(_ []line, result string) error {
		used = append(used, result)
		return nil
	})
	require.ErrorIs(t, err, bad)
	require.ErrorContains(t, err, "line 4")
	require.Equal(t, []string{"a", "b"}, used)
	broken := errors.New("broken pipe")
	calls := 0
	err = answer(t.Context(), batch[:2], func(texts []string) (int, error) { return len(texts), nil }, func([]line, int) error { calls++; return broken })
	require.Same(t, broken, err)
	require.Equal(t, 1, calls, "what was not the texts' fault is not tried again")
}

// Names of tensors come from files that anybody may have made.
func TestMessagesDoNotSteerTheTerminal(t *testing.T) {
	require.Equal(t, "unknown tensor a\\x1b[2Jb\\x00\\xff \\u009b é日🦊\ufffd\n\tnext", printable("unknown tensor a\x1b[2Jb\x00\xff \u009b é日🦊\ufffd\n\tnext"))
}

// Two files and the input can be bad: the error says which is.
func TestABadLineToCalibrateWithNamesItsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.tsv")
	require.NoError(t, os.WriteFile(file, []byte("sport\tgoal\nfood\n"), 0o600))
	_, err := (&classifyRun{calibrate: file}).fit(t.Context(), nil, nil, nil)
	require.ErrorContains(t, err, file+": line 2: no tab")
}

// What is wrong with a line is said as what it is.
func TestWhatIsWrongWithALineIsNamed(t *testing.T) {
	write := func(text string) string {
		file := filepath.Join(t.TempDir(), "file.txt")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return file
	}
	_, err := readLines(write("one\ntwo\x00three\x00\n")) // as of find -print0
	require.ErrorContains(t, err, "line 2: a byte is zero")
	require.NotErrorIs(t, err, mlx.ErrInvalidUTF8)
	_, err = readLines(write("a\x00b\n"))
	require.ErrorContains(t, err, "line 1: a byte is zero", "one is not UTF-16 yet")
	empty := write("\ufeff\n\n")
	_, err = readLabelled(empty)
	require.ErrorContains(t, err, empty+": it has no texts")
	_, err = readLines(write("one\n" + strings.Repeat("x", maxLine+1)))
	require.ErrorContains(t, err, "line 2: it is too long, more than 1048576 bytes")
	require.NotContains(t, err.Error(), "bufio")
	_, _, err = readLabels(write("sport\nfood: meals\n e.g. Soup\nsport: games\n"))
	require.ErrorContains(t, err, `line 4: label "sport" is given twice`)
	file := write("\ufeff\n \n")
	_, _, err = readLabels(file)
	require.ErrorContains(t, err, file+": it has no labels")
}

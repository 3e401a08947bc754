package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	mlx "forge.lthn.ai/core/go-mlx"
)

// Text that users give is read here: a byte order mark, which editors on Windows put in front, is no part of it, and what is not
// UTF-8 is an error that names the line.

var byteOrderMark = []byte("\ufeff")

// counted is a number of things of a name, such as "1 text" or "2 texts".
func counted(n int, name string) string {
	if n != 1 {
		name += "s"
	}
	return fmt.Sprintf("%d %s", n, name)
}

// checkLine refuses a line that is not UTF-8. Every second byte of UTF-16 in Latin letters is zero, and the rest is UTF-8.
func checkLine(number int, text []byte) error {
	utf16 := number == 1 && (bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}))
	switch {
	case utf16 || bytes.IndexByte(text, 0) >= 0:
		return fmt.Errorf("line %d: %w, it looks like UTF-16: save it as UTF-8", number, mlx.ErrInvalidUTF8)
	case !utf8.Valid(text):
		return fmt.Errorf("line %d: %w", number, mlx.ErrInvalidUTF8)
	}
	return nil
}

// readText is a whole text.
func readText(from io.Reader) (string, error) {
	data, err := io.ReadAll(from)
	if err != nil {
		return "", err
	}
	data = bytes.TrimPrefix(data, byteOrderMark)
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if err := checkLine(number, line); err != nil {
			return "", err
		}
	}
	return string(data), nil
}

// readTextFile is the text of a file.
func readTextFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := readText(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return text, nil
}

// readLines are a file's lines that are not empty.
func readLines(path string) ([]string, error) {
	text, err := readTextFile(path)
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// line is one input line with a text.
type line struct {
	number int
	label  string // with --labelled
	text   string
}

func texts(batch []line) []string {
	out := make([]string, len(batch))
	for i, l := range batch {
		out[i] = l.text
	}
	return out
}

// lineReader reads lines, leaving out empty ones.
type lineReader struct {
	scanner  *bufio.Scanner
	number   int
	labelled bool
}

// eachBatch gives the input's lines to do, as many at a time as make good batches. What precedes a line that cannot be
// read is still done.
func eachBatch(in io.Reader, labelled bool, do func(batch []line) error) error {
	lines := &lineReader{scanner: bufio.NewScanner(in), labelled: labelled}
	lines.scanner.Buffer(nil, maxLine)
	for {
		batch, err := lines.next(classifyBatch)
		if len(batch) > 0 {
			if failed := do(batch); failed != nil {
				return failed
			}
		}
		if err != nil || len(batch) == 0 {
			return err
		}
	}
}

// inLines says which lines an error is about.
func inLines(batch []line, err error) error {
	return fmt.Errorf("lines %d to %d: %w", batch[0].number, batch[len(batch)-1].number, err)
}

// next returns at most n lines, none at the end of the input; beside an error, those before it.
func (r *lineReader) next(n int) ([]line, error) {
	var batch []line
	for len(batch) < n && r.scanner.Scan() {
		r.number++
		text := r.scanner.Bytes()
		if r.number == 1 {
			text = bytes.TrimPrefix(text, byteOrderMark)
		}
		if err := checkLine(r.number, text); err != nil {
			return batch, err
		}
		l := line{number: r.number, text: strings.TrimRight(string(text), "\r")}
		if strings.TrimSpace(l.text) == "" {
			continue
		}
		if r.labelled {
			var found bool
			if l.label, l.text, found = strings.Cut(l.text, "\t"); !found {
				return batch, fmt.Errorf("line %d: no tab between label and text", l.number)
			}
		}
		batch = append(batch, l)
	}
	if err := r.scanner.Err(); err != nil {
		return batch, fmt.Errorf("line %d: %w", r.number+1, err)
	}
	return batch, nil
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
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

// checkLine refuses a line that is not UTF-8.
func checkLine(number int, text []byte) error {
	utf16 := number == 1 && (bytes.HasPrefix(text, []byte{0xff, 0xfe}) || bytes.HasPrefix(text, []byte{0xfe, 0xff}))
	switch {
	case utf16 || everySecondIsZero(text):
		return fmt.Errorf("line %d: %w, it looks like UTF-16: save it as UTF-8", number, mlx.ErrInvalidUTF8)
	case bytes.IndexByte(text, 0) >= 0:
		return fmt.Errorf("line %d: a byte is zero, so that it is no text: turn such bytes into line ends (tr '\\0' '\\n') or leave them out", number)
	case !utf8.Valid(text):
		return fmt.Errorf("line %d: %w", number, mlx.ErrInvalidUTF8)
	}
	return nil
}

// everySecondIsZero tells UTF-16: there every second byte of Latin letters is zero, and the rest is UTF-8.
func everySecondIsZero(text []byte) bool {
	var zeros [2]int // at even places and at odd ones
	for i, b := range text {
		if b == 0 {
			zeros[i%2]++
		}
	}
	return max(zeros[0], zeros[1]) > max(1, len(text)/4) // one alone may be a stray
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
	var lines []string
	err := eachLine(path, func(_ int, text string) error {
		if text = strings.TrimSpace(text); text != "" {
			lines = append(lines, text)
		}
		return nil
	})
	return lines, err
}

// eachLine gives the lines of a file to do, with their numbers. Errors name the file.
func eachLine(path string, do func(number int, text string) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := newLineScanner(file)
	for {
		text, err := lines.next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = do(lines.number, dropMarks(text))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
}

// dropMarks takes byte order marks off a line: files that were put together have them in the middle, too.
func dropMarks(text string) string { return strings.TrimLeft(text, string(byteOrderMark)) }

// lineScanner reads lines, whatever they end with.
type lineScanner struct {
	scanner *bufio.Scanner
	number  int  // of the line that was read last
	old     bool // lines end with \r alone, as on Macs of the last century
}

func newLineScanner(in io.Reader) *lineScanner {
	s := &lineScanner{scanner: bufio.NewScanner(in)}
	s.scanner.Buffer(nil, maxLine)
	s.scanner.Split(s.split)
	return s
}

// split is bufio.ScanLines, but for input that has no \n at all. A \r amid other lines is part of its line: for every line of input
// there is one of output.
func (s *lineScanner) split(data []byte, atEOF bool) (int, []byte, error) {
	if !s.old && atEOF && s.number == 0 && bytes.IndexByte(data, '\n') < 0 {
		s.old = bytes.IndexByte(bytes.TrimRight(data, "\r"), '\r') >= 0
	}
	if i := bytes.IndexByte(data, '\r'); s.old && i >= 0 {
		return i + 1, data[:i], nil
	}
	return bufio.ScanLines(data, atEOF)
}

// next is the next line without its end, io.EOF after the last one.
func (s *lineScanner) next() (string, error) {
	if !s.scanner.Scan() {
		switch err := s.scanner.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return "", fmt.Errorf("line %d: it is too long, more than %d bytes: divide it into lines", s.number+1, maxLine)
		case err != nil:
			return "", fmt.Errorf("line %d: %w", s.number+1, err)
		}
		return "", io.EOF
	}
	s.number++
	text := s.scanner.Bytes()
	if s.number == 1 {
		text = bytes.TrimPrefix(text, byteOrderMark)
	}
	if err := checkLine(s.number, text); err != nil {
		return "", err
	}
	return strings.TrimRight(string(text), "\r"), nil
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
	lines    *lineScanner
	labelled bool
}

// eachBatch gives the input's lines to do, as many at a time as make good batches. What precedes a line that cannot be
// read is still done.
func eachBatch(in io.Reader, labelled bool, do func(batch []line) error) error {
	lines := &lineReader{lines: newLineScanner(in), labelled: labelled}
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

// answer computes something for every text of a batch and uses it. Where that fails, it is computed line by line: those before the one
// that is to blame are still answered, and the error names it.
func answer[T any](ctx context.Context, batch []line, compute func(texts []string) (T, error), use func(batch []line, result T) error) error {
	result, err := compute(texts(batch))
	if err == nil {
		return use(batch, result)
	}
	if option := (*mlx.OptionError)(nil); errors.As(err, &option) || errors.Is(err, mlx.ErrOtherModel) || errors.Is(err, mlx.ErrClassifierFile) {
		return err // no line is to blame
	}
	if len(batch) == 1 || ctx.Err() != nil {
		return inLines(batch, err)
	}
	for i := range batch {
		if err := answer(ctx, batch[i:i+1], compute, use); err != nil {
			return err
		}
	}
	return nil
}

// inLines says which lines an error is about.
func inLines(batch []line, err error) error {
	first, last := batch[0].number, batch[len(batch)-1].number
	if first == last {
		return fmt.Errorf("line %d: %w", first, err)
	}
	return fmt.Errorf("lines %d to %d: %w", first, last, err)
}

// next returns at most n lines, none at the end of the input; beside an error, those before it.
func (r *lineReader) next(n int) ([]line, error) {
	var batch []line
	for len(batch) < n {
		text, err := r.lines.next()
		if err == io.EOF {
			return batch, nil
		}
		if err != nil {
			return batch, err
		}
		l := line{number: r.lines.number, text: dropMarks(text)}
		if strings.TrimSpace(l.text) == "" {
			continue
		}
		if r.labelled {
			label, text, found := strings.Cut(l.text, "\t")
			switch l.label, l.text = strings.TrimSpace(label), text; {
			case !found:
				return batch, fmt.Errorf("line %d: no tab between label and text", l.number)
			case l.label == "":
				return batch, fmt.Errorf("line %d: no label before the tab", l.number)
			}
		}
		batch = append(batch, l)
	}
	return batch, nil
}

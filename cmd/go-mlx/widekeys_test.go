package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// emulator is a terminal as far as the line editor uses one: rows of cells, of which a wide character takes two.
type emulator struct {
	columns, row, column int
	rows                 map[int][]rune // 0 is the second cell of a wide character
	rest                 []byte         // the beginning of an escape sequence or a character
}

func (e *emulator) Write(p []byte) (int, error) {
	e.rest = append(e.rest, p...)
	for len(e.rest) > 0 {
		n := keyIn(e.rest)
		if n == 0 {
			break
		}
		e.draw(string(e.rest[:n]))
		e.rest = e.rest[n:]
	}
	return len(p), nil
}

func (e *emulator) draw(piece string) {
	switch {
	case piece == "\r":
		e.column = 0
	case piece == "\n":
		e.row++
	case strings.HasPrefix(piece, "\x1b["):
		n, err := strconv.Atoi(piece[2 : len(piece)-1])
		if err != nil {
			n = 1
		}
		switch piece[len(piece)-1] {
		case 'A':
			e.row = max(0, e.row-n)
		case 'B':
			e.row += n
		case 'C':
			e.column = min(e.columns-1, min(e.column, e.columns-1)+n)
		case 'D':
			e.column = max(0, min(e.column, e.columns-1)-n)
		case 'K':
			clear(e.cells()[min(e.column, e.columns):])
		}
	default:
		for _, r := range piece {
			e.put(r)
		}
	}
}

func (e *emulator) cells() []rune {
	if e.rows == nil {
		e.rows = map[int][]rune{}
	}
	if e.rows[e.row] == nil {
		e.rows[e.row] = []rune(strings.Repeat(" ", e.columns))
	}
	return e.rows[e.row]
}

func (e *emulator) put(r rune) {
	width := columnsOf.RuneWidth(r)
	if e.column+width > e.columns { // terminals wrap when the next character comes
		e.row, e.column = e.row+1, 0
	}
	cells := e.cells()
	cells[e.column] = r
	if width == 2 {
		cells[e.column+1] = 0
	}
	e.column += width
}

// text is what stands on the screen, row by row without spaces at the end.
func (e *emulator) text() string {
	var rows []string
	for i := range len(e.rows) {
		rows = append(rows, strings.TrimRight(strings.ReplaceAll(string(e.rows[i]), "\x00", ""), " "))
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n")
}

// reference is the same line in an editor that nobody sees.
type reference struct {
	line []rune
	at   int
}

func (r *reference) press(key string) {
	switch {
	case key == "\x01" || key == "\x1b[1~":
		r.at = 0
	case key == "\x05" || key == "\x1b[4~":
		r.at = len(r.line)
	case edits[key] != nil:
		r.line, r.at = edits[key](r.line, r.at)
	default:
		c, _ := utf8.DecodeRuneInString(key)
		r.line, r.at = insertion(c)(r.line, r.at)
	}
}

// want is what the screen should show, and where the cursor should be.
func (r *reference) want(columns int) (text string, row, column int) {
	e := &emulator{columns: columns}
	fmt.Fprint(e, mainPrompt+string(r.line[:r.at]))
	row, column = e.row, e.column
	fmt.Fprint(e, string(r.line[r.at:]))
	if r.at < len(r.line) && column+columnsOf.RuneWidth(r.line[r.at]) > columns && column < columns {
		column = columns - 1 // before the end of the row, where the character did not fit
	}
	if column == columns {
		row, column = row+1, 0
	}
	return e.text(), row, column
}

// Whatever is typed among wide and other characters, the terminal shows the line that is sent, and the cursor is where it is edited.
func TestWideCharactersAreEditedWhereTheyAreSeen(t *testing.T) {
	keys := []string{"日", "本", "🦊", "a", "b", " ", "é", "日", "本", "\x7f", "\x7f", "\x1b[D", "\x1b[D", "\x1b[C", "\x01", "\x05", "\x1b[1~", "\x1b[4~", "\x04", "\x1b[3~", "\x17", "\x0b", "\x15", "ｗ", "z"}
	random := rand.New(rand.NewPCG(1, 2))
	for try := range 300 {
		columns := []int{7, 10, 11, 40}[try%4]
		r := &reference{line: []rune{}}
		r.press("語") // or it is the editor's own line
		sent := []string{"語"}
		e := &emulator{columns: columns}
		for range 1 + random.IntN(60) {
			key := keys[random.IntN(len(keys))]
			if len(r.line) < 3 && edits[key] != nil {
				key = "世"
			}
			r.press(key)
			sent = append(sent, key)
		}
		var seen string
		var row, column int
		before := func() { seen, row, column = e.text(), e.row, e.column } // when all keys but Enter have come
		in := io.MultiReader(strings.NewReader(strings.Join(sent, "")), &hook{then: before}, strings.NewReader("\r"))
		s := newTerminalSource(iotest.OneByteReader(in), e)
		s.setSize(columns, 24)
		text, err := s.message()
		require.NoError(t, err)
		require.Equal(t, string(r.line), text, "%q", sent)
		wanted, wantedRow, wantedColumn := r.want(columns)
		require.Equal(t, wanted, seen, "%d columns: %q", columns, sent)
		require.Equal(t, []int{wantedRow, wantedColumn}, []int{row, column}, "cursor in %d columns: %q", columns, sent)
	}
}

// hook calls a function when it is read, and is empty.
type hook struct{ then func() }

func (h *hook) Read([]byte) (int, error) {
	h.then()
	return 0, io.EOF
}

func TestWideCharactersComeAsTheyWereTyped(t *testing.T) {
	for keys, want := range map[string]string{
		"日本語\r":           "日本語",
		"日本語\x7f\x7fx\r":  "日x",
		"日本\x1b[D\x04語\r": "日語",
		"a日\x01b\r":       "ba日",
		"日 本語\x17x\r":     "日 x",
		"日" + pasteStart + "本x" + pasteEnd + "\r": "日本x",
		"日本\x03x\r":                     "x",
		"a\U0010fffdb\U0010fffc\r":      "ab",
		strings.Repeat("世", 600) + "\r": strings.Repeat("世", 600),
	} {
		require.Equal(t, []string{want}, typed(t, keys), "%.40q", keys)
	}
	require.Equal(t, []string{"日本", "日本x"}, typed(t, "日本\r\x1b[Ax\r"), "of the history")
	var out bytes.Buffer
	s := newTerminalSource(strings.NewReader("日\x04\x7f\x04"), &out)
	_, err := s.message()
	require.Equal(t, io.EOF, err, "Ctrl-D on an empty line ends, after the line was not empty")
	require.NotContains(t, out.String(), string(secondHalf))
}

// Terminals send different things for one key.
func TestKeysOfOtherTerminals(t *testing.T) {
	for keys, want := range map[string]string{
		"bc\x1b[1~a\x1b[4~d\r": "abcd", "bc\x1b[7~a\x1b[8~d\r": "abcd", "bc\x1bOHa\x1bOFd\r": "abcd", "ac\x1bODb\x1bOCd\r": "abcd",
		"one two\x1b[1;5Dx\r": "one xtwo", "one two\x1b[1~\x1b[1;5Cx\r": "one xtwo", "ab\x1b[11~c\r": "abc",
		"日\x1b[[Ax\r": "日x", "日\x1béx\r": "日x", // F1 of Linux' console, Alt with é
	} {
		require.Equal(t, []string{want}, typed(t, keys), "%q", keys)
	}
	require.Equal(t, []string{"one", "one!"}, typed(t, "one\r\x1bOA!\r"))
}

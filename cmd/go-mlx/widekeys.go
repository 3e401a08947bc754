package main

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

// The line editor takes every character for one column wide. Chinese, Japanese and Korean ones and emoji are two columns wide, and its cursor
// would be elsewhere than the terminal's. So the editor's line has a second character behind every wide one, which is never written out, and
// one before it where a row's last column is too narrow for it, which is written as a space. Lines with wide characters are edited here;
// the editor draws them.
const (
	secondHalf = '\U0010fffd'
	rowEnd     = '\U0010fffc'
	editKey    = 0x1d // what the editor is told to press; it then asks edited for the line
)

var columnsOf = &runewidth.Condition{StrictEmojiNeutral: true}

func isWide(r rune) bool { return columnsOf.RuneWidth(r) == 2 }

// withoutHalves is an editor's line as the user typed it.
var withoutHalves = strings.NewReplacer(string(secondHalf), "", string(rowEnd), "")

// screen writes what the editor draws to a terminal.
type screen struct{ terminal io.Writer }

func (s screen) Write(p []byte) (int, error) {
	drawn := bytes.ReplaceAll(bytes.ReplaceAll(p, []byte(string(secondHalf)), nil), []byte(string(rowEnd)), []byte(" "))
	if _, err := s.terminal.Write(drawn); err != nil {
		return 0, err
	}
	return len(p), nil
}

// edit changes a line and the place of the cursor in it.
type edit func(line []rune, at int) ([]rune, int)

func insertion(r rune) edit {
	return func(line []rune, at int) ([]rune, int) { return slices.Insert(line, at, r), at + 1 }
}

// edits are the keys that change a line, or step over a character of it.
var edits = map[string]edit{
	"\x7f": deleteBefore, "\x08": deleteBefore, "\x04": deleteAt, "\x1b[3~": deleteAt,
	"\x1b[D": stepLeft, "\x02": stepLeft, "\x1b[C": stepRight, "\x06": stepRight,
	"\x15": func(line []rune, at int) ([]rune, int) { return line[at:], 0 },
	"\x0b": func(line []rune, at int) ([]rune, int) { return line[:at], at },
	"\x17": func(line []rune, at int) ([]rune, int) { // the word before the cursor
		from := at
		for from > 0 && line[from-1] == ' ' {
			from--
		}
		for from > 0 && line[from-1] != ' ' {
			from--
		}
		return slices.Delete(line, from, at), from
	},
}

func deleteBefore(line []rune, at int) ([]rune, int) {
	if at == 0 {
		return line, at
	}
	return slices.Delete(line, at-1, at), at - 1
}

func deleteAt(line []rune, at int) ([]rune, int) {
	if at == len(line) {
		return line, at
	}
	return slices.Delete(line, at, at+1), at
}

func stepLeft(line []rune, at int) ([]rune, int) { return line, max(at-1, 0) }

func stepRight(line []rune, at int) ([]rune, int) { return line, min(at+1, len(line)) }

func nothing(line []rune, at int) ([]rune, int) { return line, at }

// sameKeys are what terminals send for keys that the editor knows by another name: Home and End within tmux, screen and on Linux' console, the
// arrows of a terminal whose cursor keys are in application mode, and Ctrl with an arrow.
var sameKeys = map[string]string{
	"\x1b[1~": "\x1b[H", "\x1b[7~": "\x1b[H", "\x1bOH": "\x1b[H", "\x1b[4~": "\x1b[F", "\x1b[8~": "\x1b[F", "\x1bOF": "\x1b[F",
	"\x1bOA": "\x1b[A", "\x1bOB": "\x1b[B", "\x1bOC": "\x1b[C", "\x1bOD": "\x1b[D",
	"\x1b[1;5C": "\x1b[1;3C", "\x1b[1;5D": "\x1b[1;3D",
}

// keyIn is the length of the first key in what a terminal sent; 0 where its rest may follow.
func keyIn(raw []byte) int {
	const longest = 16
	switch {
	case raw[0] >= utf8.RuneSelf:
		if !utf8.FullRune(raw) {
			return 0
		}
		_, n := utf8.DecodeRune(raw)
		return n
	case raw[0] != '\x1b':
		return 1
	case len(raw) < 2:
		return 0
	case raw[1] >= utf8.RuneSelf: // Alt with a character
		if !utf8.FullRune(raw[1:]) {
			return 0
		}
		_, n := utf8.DecodeRune(raw[1:])
		return 1 + n
	case raw[1] == '[' && len(raw) > 2 && raw[2] == '[': // a function key of Linux' console
		if len(raw) < 4 {
			return 0
		}
		return 4
	case raw[1] == '[':
		end := slices.IndexFunc(raw[2:], func(b byte) bool { return b >= 0x40 && b <= 0x7e })
		if end < 0 && len(raw) < longest {
			return 0
		}
		return max(end, 0) + 3
	case raw[1] == 'O':
		if len(raw) < 3 {
			return 0
		}
		return 3
	}
	return 2
}

// press gives the editor a key, and is true if the editor must have done it before it may have the next one.
func (k *keyReader) press(key string) bool {
	if same, known := sameKeys[key]; known {
		key = same
	}
	r, _ := utf8.DecodeRuneInString(key)
	if r == secondHalf || r == rowEnd || len(key) > 1 && key[0] == '\x1b' && key[1] >= utf8.RuneSelf { // the editor would wait for more of the last
		return false
	}
	change := edits[key]
	if isWide(r) || change == nil && unicode.IsPrint(r) {
		change = insertion(r)
	}
	if change != nil && (k.wide || isWide(r)) {
		k.change = change
		k.ready = append(k.ready, editKey)
		return true
	}
	k.ready = append(k.ready, key...)
	if earlier := key == "\x1b[A" || key == "\x1b[B" || key == "\x10" || key == "\x0e"; !earlier && !k.wide { // a line of the history may have wide ones
		return false
	}
	k.change = nothing
	k.ready = append(k.ready, editKey)
	return true
}

// edited is asked by the editor at every key: for the line and the cursor after it, in bytes. It is in the goroutine that reads.
func (k *keyReader) edited(line string, at int, key rune) (string, int, bool) {
	if key != editKey || k.change == nil {
		return "", 0, false
	}
	typed, cursor := k.change([]rune(withoutHalves.Replace(line)), utf8.RuneCountInString(withoutHalves.Replace(line[:at])))
	k.change = nil
	k.wide = slices.ContainsFunc(typed, isWide)
	drawn, place := k.lay(typed, cursor)
	return drawn, place, true
}

// lay puts second halves and ends of rows into a line, which begins after the prompt.
func (k *keyReader) lay(typed []rune, cursor int) (drawn string, place int) {
	var out strings.Builder
	column := len(mainPrompt) % k.columns
	for i, r := range typed {
		if i == cursor {
			place = out.Len()
		}
		if !isWide(r) {
			out.WriteRune(r)
			column = (column + 1) % k.columns
			continue
		}
		if column == k.columns-1 {
			out.WriteRune(rowEnd)
			column = 0
		}
		out.WriteString(string(r) + string(secondHalf))
		column = (column + 2) % k.columns
	}
	if cursor == len(typed) {
		place = out.Len()
	}
	return out.String(), place
}

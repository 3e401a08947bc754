package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// lineSource reads what the user types: with an editor on a terminal, as it comes elsewhere.
type lineSource struct {
	lines    *lineScanner // nil on a terminal
	file     *os.File
	terminal *term.Terminal
	keys     *keyReader // what the terminal reads from
}

func newLineSource(in io.Reader, out io.Writer) *lineSource {
	if f, ok := in.(*os.File); ok && isTerminal(f) && isTerminal(out) {
		s := newTerminalSource(in, out)
		s.file = f
		return s
	}
	return &lineSource{lines: newLineScanner(in)}
}

func newTerminalSource(in io.Reader, out io.Writer) *lineSource {
	keys := &keyReader{in: in, columns: 80} // as many as the editor takes a terminal for
	s := &lineSource{keys: keys, terminal: term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, screen{out}}, mainPrompt)}
	s.terminal.AutoCompleteCallback = keys.edited
	keys.say = func(text string) { fmt.Fprintln(s.terminal, text) }
	return s
}

// What stands before a message, and before its further lines.
const mainPrompt, morePrompt = "> ", ". "

// errGivenUp is a message of several lines that the user does not want any more.
var errGivenUp = errors.New("the message was given up")

func (s *lineSource) line(prompt string) (string, error) {
	if s.terminal == nil {
		return s.lines.next()
	}
	if s.file != nil {
		fd := int(s.file.Fd())
		old, err := term.MakeRaw(fd)
		if err != nil {
			return "", err
		}
		defer term.Restore(fd, old)
		if width, height, err := term.GetSize(fd); err == nil && width > 0 {
			s.setSize(width, height)
		}
	}
	s.keys.more = prompt == morePrompt
	s.terminal.SetPrompt(prompt)
	s.terminal.SetBracketedPasteMode(true)
	defer s.terminal.SetBracketedPasteMode(false)
	s.keys.wide = false
	text, err := s.terminal.ReadLine()
	text = withoutHalves.Replace(text)
	if err != nil {
		return "", err
	}
	if s.keys.givenUp {
		s.keys.givenUp = false
		return "", errGivenUp
	}
	return text, nil
}

func (s *lineSource) setSize(width, height int) {
	s.keys.columns = max(width, 2)
	_ = s.terminal.SetSize(width, height) // its error would be of the terminal, and comes again when a line is read
}

const quotes = `"""`

// message is one line, or several: see chatHelp. What was pasted is still to be expanded: it is no command, whatever it begins with.
func (s *lineSource) message() (string, error) {
	text, err := s.whole()
	if errors.Is(err, errGivenUp) {
		return "", nil
	}
	return text, err
}

func (s *lineSource) whole() (string, error) {
	text, err := s.line(mainPrompt)
	if err != nil {
		return "", err
	}
	if first, ok := strings.CutPrefix(strings.TrimSpace(text), quotes); ok {
		lines := []string{}
		for rest := first; ; {
			if before, ends := strings.CutSuffix(rest, quotes); ends {
				return strings.TrimSpace(strings.Join(append(lines, before), "\n")), nil
			}
			lines = append(lines, rest)
			if rest, err = s.line(morePrompt); s.ended(err) {
				return strings.TrimSpace(strings.Join(lines, "\n")), nil
			}
			if err != nil {
				return "", err
			}
		}
	}
	for strings.HasSuffix(text, `\`) {
		more, err := s.line(morePrompt)
		if s.ended(err) {
			return strings.TrimSuffix(text, `\`), nil
		}
		if err != nil {
			return "", err
		}
		text = strings.TrimSuffix(text, `\`) + "\n" + more
	}
	return text, nil
}

// ended is whether the input has ended amid a message, which is then as long as it is. Whoever presses Ctrl-D there does not want it any more.
func (s *lineSource) ended(err error) bool { return s.terminal == nil && errors.Is(err, io.EOF) }

// keyReader is what a terminal sends, for the line editor. The editor takes Ctrl-C for the end of the input, ends a line at every line end
// that is pasted, and cuts lines after 4,096 characters. So Ctrl-C clears the line, twice in a row ends the input, and of a long text that
// is pasted the editor sees a short name in its place.
type keyReader struct {
	in  io.Reader
	say func(text string) // prints above the line

	raw   []byte // what came and was not looked at yet: lines after the one that the editor reads, the beginning of a mark
	ready []byte // what the editor has not read yet, at most to the end of its line

	pasting bool
	paste   []byte   // what came of it
	pasted  []string // texts that have names in the line

	columns int  // of the terminal
	wide    bool // the line has wide characters
	change  edit // what the next editKey does

	more    bool // the line is not the first one of its message
	again   bool // the last key was Ctrl-C
	givenUp bool // Ctrl-C was pressed in a later line of a message
}

const (
	pasteStart, pasteEnd = "\x1b[200~", "\x1b[201~"
	ctrlC                = "\x03"
	clearLine            = "\x05\x15" // to its end, and delete to its beginning
	shortPaste           = 200        // characters that are put into the line as they are
)

func (k *keyReader) Read(p []byte) (int, error) {
	buffer := make([]byte, 4096)
	for k.take(); len(k.ready) == 0; k.take() {
		n, err := k.in.Read(buffer)
		k.raw = append(k.raw, buffer[:n]...)
		if err != nil && n == 0 {
			return 0, err
		}
	}
	n := copy(p, k.ready)
	k.ready = k.ready[n:]
	return n, nil
}

// take gives the editor what it may have now. What a key means in the next line is not known before the editor asks for that line.
func (k *keyReader) take() {
	ended := len(k.ready) > 0
	for !ended && len(k.raw) > 0 {
		mark := pasteStart
		if k.pasting {
			mark = pasteEnd
		}
		if bytes.HasPrefix(k.raw, []byte(mark)) {
			k.raw = k.raw[len(mark):]
			if k.pasting {
				k.insert()
			}
			k.pasting, k.again = !k.pasting, false
			continue
		}
		if strings.HasPrefix(mark, string(k.raw)) {
			return // the rest of the mark may follow
		}
		if k.pasting {
			k.paste = append(k.paste, k.raw[0])
			k.raw = k.raw[1:]
			continue
		}
		n := keyIn(k.raw)
		if n == 0 {
			return // the rest of the key may follow
		}
		key := string(k.raw[:n])
		k.raw = k.raw[n:]
		switch key {
		case ctrlC:
			k.interrupt()
			ended = true
		case "\r", "\n":
			k.ready = append(k.ready, key...)
			k.again, ended = false, true
		default:
			k.again, ended = false, k.press(key)
		}
	}
}

func (k *keyReader) interrupt() {
	switch {
	case k.again:
		k.ready = append(k.ready, ctrlC...)
	case k.more:
		k.givenUp = true
		k.ready = append(k.ready, clearLine+"\r"...)
	default:
		k.ready = append(k.ready, clearLine...)
		k.say("(Ctrl-C again, Ctrl-D or /quit ends the conversation)")
	}
	k.again = true
}

// insert puts what was pasted into the line: as it is, or by a name.
func (k *keyReader) insert() {
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.ToValidUTF8(string(k.paste), "\ufffd"))
	text = strings.TrimRight(text, "\n") // Enter is for the user to press
	k.paste = nil
	if utf8.RuneCountInString(text) > shortPaste || strings.ContainsFunc(text, unicode.IsControl) {
		k.pasted = append(k.pasted, text)
		text = k.name(len(k.pasted) - 1)
	}
	k.raw = append([]byte(text), k.raw...) // as if it was typed
}

func (k *keyReader) name(i int) string {
	return fmt.Sprintf("[pasted %d: %d lines, %d characters]", i+1, strings.Count(k.pasted[i], "\n")+1, utf8.RuneCountInString(k.pasted[i]))
}

// expand puts texts that were pasted in the place of their names.
func (s *lineSource) expand(line string) string {
	if s.keys == nil {
		return line
	}
	for i, text := range s.keys.pasted {
		line = strings.ReplaceAll(line, s.keys.name(i), text)
	}
	return line
}

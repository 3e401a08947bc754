package bridge

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// outputLog reads what a worker prints: it keeps the last lines for diagnosis and reports progress bars.
type outputLog struct {
	terminal *os.File
	told     listener
	done     chan struct{}

	mu    sync.Mutex // guards what follows
	lines []string   // the last ones, whole and without escape sequences
	open  string     // the line being written
	// overwritten is the line before the last carriage return.
	overwritten string
	bytes       int64 // all that came
}

const (
	tailLines = 40 // the stacks of a worker that hangs are among them
	// lineBytes bounds one line: a flood without a line's end must not fill the memory.
	lineBytes = 2 << 10
)

// listener is told of what a worker prints, on the goroutine that reads it; its funcs may be nil and must not wait.
type listener struct {
	bar  func(bar)
	line func(string)   // whole lines that are no progress bars
	beat func(*message) // heartbeats; not of this log
	// settled: every cancel was acknowledged; not of this log either
	settled func()
}

func newOutputLog(terminal *os.File, told listener) *outputLog {
	return &outputLog{terminal: terminal, told: told, done: make(chan struct{})}
}

// read takes everything until the terminal is closed on both sides.
func (l *outputLog) read() {
	defer close(l.done)
	buffer := make([]byte, 16<<10)
	for {
		n, err := l.terminal.Read(buffer)
		if n > 0 {
			l.add(string(buffer[:n]))
		}
		if err != nil {
			return // EIO is how a terminal says that its other side is closed
		}
	}
}

// finish waits for the rest of the output, but not for ever.
func (l *outputLog) finish(deadline time.Time) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-l.done:
		_ = l.terminal.Close()
	case <-timer.C:
		_ = l.terminal.Close()
		<-l.done
	}
}

func (l *outputLog) add(text string) {
	var bars []bar
	var lines []string
	l.mu.Lock()
	l.bytes += int64(len(text))
	for text != "" {
		end := strings.IndexAny(text, "\r\n")
		if end < 0 {
			l.open += text
			l.open = l.open[max(0, len(l.open)-lineBytes):]
			break
		}
		l.open += text[:end]
		line := cleanLine(l.open[max(0, len(l.open)-lineBytes):])
		b, isBar := parseBar(line)
		if isBar {
			bars = append(bars, b)
		}
		// What a carriage return overwrites is gone, unless the line ends there.
		if text[end] == '\r' {
			l.overwritten = line
		} else {
			if line == "" {
				line = l.overwritten
			}
			if line = strings.TrimRight(line, " \t"); line != "" {
				l.lines = append(l.lines, line)
				l.lines = l.lines[max(0, len(l.lines)-tailLines):]
				if !isBar {
					lines = append(lines, line)
				}
			}
			l.overwritten = ""
		}
		l.open, text = "", text[end+1:]
	}
	l.mu.Unlock()
	if l.told.bar != nil {
		for _, b := range bars {
			l.told.bar(b)
		}
	}
	if l.told.line != nil {
		for _, line := range lines {
			l.told.line(line)
		}
	}
}

// cleanLine is a line without escape sequences and without bytes that are not UTF-8.
func cleanLine(line string) string { return ansi.Strip(strings.ToValidUTF8(line, "\uFFFD")) }

// String is the last lines.
func (l *outputLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	rest := strings.TrimSpace(cleanLine(l.open))
	if rest == "" {
		rest = strings.TrimSpace(l.overwritten)
	}
	if rest != "" {
		lines = append(lines[:len(lines):len(lines)], rest)
	}
	return strings.Join(lines, "\n")
}

// size is how many bytes were printed so far.
func (l *outputLog) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// bar is one drawing of a progress bar.
type bar struct {
	label       string
	done, total int64
}

// barForm is how tqdm draws: "Fetching 5 files:  40%|████   | 2/5 [00:01<00:01, 1.5it/s]", sizes as 1.2G.
var barForm = regexp.MustCompile(`^\s*(.*?):?\s*(\d+)%\|[^|]*\|\s*([0-9.]+)([kMGTP]?)B?/([0-9.]+)([kMGTP]?)B? \[`)

func parseBar(line string) (bar, bool) {
	if !strings.Contains(line, "%|") {
		return bar{}, false // the common case, without a search
	}
	m := barForm.FindStringSubmatch(line)
	if m == nil {
		return bar{}, false
	}
	done, ok := barNumber(m[3], m[4])
	total, ok2 := barNumber(m[5], m[6])
	return bar{label: m[1], done: done, total: total}, ok && ok2
}

func barNumber(digits, unit string) (int64, bool) {
	v, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, false
	}
	for range strings.Index("kMGTP", unit) + len(unit) {
		v *= 1000
	}
	return int64(v), true
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	mlx "forge.lthn.ai/core/go-mlx"
)

// unknown stands for a domain that the model is not sure of.
const unknown = "unknown"

// job sorts one file.
type job struct {
	in, out  string
	field    string
	labels   []string
	abstain  float64
	use      *mlx.Classifier // instead of labels; nil without
	progress func(stats)     // told after every window of sentences; may be nil
}

// stats are how far a job is.
type stats struct {
	Done, Before      int // sentences, and those of an earlier run
	Bytes, TotalBytes int64
	ByDomain          map[string]int

	begin      time.Time
	beginBytes int64
}

// Rate is in sentences a second, of this run.
func (s stats) Rate() float64 {
	return float64(s.Done-s.Before) / max(time.Since(s.begin).Seconds(), 1e-9)
}

// Left is how long the rest will take at the speed so far.
func (s stats) Left() time.Duration {
	done := s.Bytes - s.beginBytes
	if done == 0 {
		return 0
	}
	return time.Duration(float64(time.Since(s.begin)) * float64(s.TotalBytes-s.Bytes) / float64(done))
}

// record is an input line with its place.
type record struct {
	fields map[string]json.RawMessage
	text   string
	line   int
	end    int64 // offset of what follows it
}

// maxLine is the longest line that is read.
const maxLine = 4 << 20

// run sorts what is left to sort. Only whole lines are written, so a run that was killed can be taken up.
func (j job) run(ctx context.Context, m mlx.TextModel) (stats, error) {
	s := stats{ByDomain: map[string]int{}}
	if slices.Contains([]string{"domain", "domain_probability", "domain_margin"}, j.field) {
		return s, fmt.Errorf("-field %s: that is where the domain is written", j.field)
	}
	in, err := openSource(j.in, j.field)
	if err != nil {
		return s, err
	}
	defer in.close()
	s.TotalBytes = in.size
	out, err := os.OpenFile(j.out, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return s, err
	}
	defer out.Close()
	lines := bufio.NewReaderSize(in, 1<<20)
	if err := j.resume(lines, out, &s); err != nil {
		return s, fmt.Errorf("%s: %w", j.out, err)
	}
	s.begin, s.beginBytes = time.Now(), s.Bytes
	written := bufio.NewWriter(out)
	err = j.sort(ctx, m, lines, written, &s)
	return s, errors.Join(err, written.Flush(), out.Sync())
}

// resume counts the sentences that an earlier run has sorted, cuts off a line that it did not finish, and passes over
// them in the input, which must be the same.
func (j job) resume(lines *bufio.Reader, out *os.File, s *stats) error {
	done := bufio.NewReaderSize(out, 1<<20)
	var whole int64
	for {
		line, err := done.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		var old map[string]json.RawMessage
		if err := json.Unmarshal(line, &old); err != nil {
			return fmt.Errorf("line %d is not of this program: %w", s.Done+1, err)
		}
		r, err := j.next(lines, s)
		if err != nil {
			return err
		}
		// Texts are compared and not how they are written: an output line has other escapes than its input.
		var text string
		if r == nil || json.Unmarshal(old[j.field], &text) != nil || text != r.text {
			return fmt.Errorf("line %d is not from %s; give another output file", s.Done+1, j.in)
		}
		var domain string
		if err := json.Unmarshal(old["domain"], &domain); err != nil {
			return fmt.Errorf("line %d has no domain: %w", s.Done+1, err)
		}
		s.ByDomain[domain]++
		s.Done, s.Before, s.Bytes = s.Done+1, s.Before+1, r.end
		whole += int64(len(line))
	}
	if err := out.Truncate(whole); err != nil {
		return err
	}
	_, err := out.Seek(whole, io.SeekStart)
	return err
}

// next reads the next sentence; nil at the end. Empty lines are passed over.
func (j job) next(lines *bufio.Reader, s *stats) (*record, error) {
	r := &record{line: s.Done + 1, end: s.Bytes}
	for {
		line, err := lines.ReadBytes('\n')
		r.end += int64(len(line))
		if r.end == int64(len(line)) { // the file's first
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(bytes.TrimSpace(line)) == 0 {
			if errors.Is(err, io.EOF) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			continue
		}
		if len(line) > maxLine {
			return nil, fmt.Errorf("sentence %d has more than %d bytes", r.line, maxLine)
		}
		if !utf8.Valid(line) {
			return nil, fmt.Errorf("sentence %d: %w", r.line, mlx.ErrInvalidUTF8)
		}
		if err := json.Unmarshal(line, &r.fields); err != nil {
			return nil, fmt.Errorf("sentence %d: %w", r.line, err)
		}
		var text *string
		if err := json.Unmarshal(r.fields[j.field], &text); err != nil || text == nil {
			return nil, fmt.Errorf("sentence %d has no text in %q", r.line, j.field)
		}
		r.text = *text
		return r, nil
	}
}

func (j job) options() []mlx.ClassifyOption {
	options := []mlx.ClassifyOption{mlx.WithAbstain(j.abstain)}
	if j.use != nil {
		options = append(options, mlx.WithClassifier(j.use))
	}
	return options
}

// sort classifies the rest of the input. ClassifyAll holds a window of it in memory, and so does this.
func (j job) sort(ctx context.Context, m mlx.TextModel, lines *bufio.Reader, out *bufio.Writer, s *stats) error {
	var pending []*record
	var readErr error
	ahead := stats{Done: s.Done, Bytes: s.Bytes}
	texts := func(yield func(string) bool) {
		for {
			r, err := j.next(lines, &ahead)
			if err != nil || r == nil {
				readErr = err
				return
			}
			ahead.Done, ahead.Bytes = ahead.Done+1, r.end
			pending = append(pending, r)
			if !yield(r.text) {
				return
			}
		}
	}
	for c, err := range mlx.ClassifyAll(ctx, m, texts, j.labels, j.options()...) {
		if err != nil {
			return err
		}
		r := pending[0]
		pending = pending[1:]
		domain := c.Label
		if c.Abstained {
			domain = unknown
		}
		for name, value := range map[string]any{"domain": domain, "domain_probability": c.Probability, "domain_margin": c.Margin} {
			data, err := json.Marshal(value)
			if err != nil {
				return err
			}
			r.fields[name] = data
		}
		data, err := marshal(r.fields)
		if err != nil {
			return err
		}
		if _, err := out.Write(data); err != nil {
			return err
		}
		s.ByDomain[domain]++
		s.Done, s.Bytes = s.Done+1, r.end
		if len(pending) == 0 { // a window is through
			if err := out.Flush(); err != nil {
				return err
			}
			if j.progress != nil {
				j.progress(*s)
			}
		}
	}
	return readErr
}

package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	mlx "forge.lthn.ai/core/go-mlx"
)

// bars shows events as progress bars on a terminal. Elsewhere it prints only what happened, without progress.
type bars struct {
	out io.Writer

	mu       sync.Mutex // guards what follows
	progress *mpb.Progress
	open     map[string]*mpb.Bar
}

// newBars returns nil, which shows nothing, with quiet.
func newBars(out io.Writer, quiet bool) *bars {
	if quiet {
		return nil
	}
	b := &bars{out: out, open: map[string]*mpb.Bar{}}
	if isTerminal(out) {
		b.progress = mpb.New(mpb.WithOutput(out), mpb.WithWidth(60))
	}
	return b
}

func (b *bars) show(e mlx.Event) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Kind {
	case mlx.EventLoad:
		b.draw("loading", e, decor.CountersKibiByte("% .1f / % .1f"))
	case mlx.EventPrefill:
		// A short prompt is done before anybody could read.
		if e.Total > 512 {
			b.draw("prefill", e, decor.CountersNoUnit("%d / %d tokens"))
		}
	case mlx.EventOutput:
		b.draw(e.Label, e, decor.CountersNoUnit("%d / %d"))
	case mlx.EventRestart, mlx.EventGap:
		b.say(e)
	}
}

func (b *bars) draw(label string, e mlx.Event, counters decor.Decorator) {
	if b.progress == nil || e.Total <= 0 {
		return
	}
	bar := b.open[label]
	if bar == nil {
		if e.Done >= e.Total {
			return
		}
		bar = b.progress.AddBar(e.Total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(label+" ")), mpb.AppendDecorators(counters))
		b.open[label] = bar
	}
	bar.SetCurrent(e.Done)
	if e.Done >= e.Total {
		delete(b.open, label)
	}
}

func (b *bars) say(e mlx.Event) {
	switch e.Kind {
	case mlx.EventGap:
		fmt.Fprintf(b.out, "a worker ended; another one goes on after %d tokens: %v\n", e.Done, e.Err)
	case mlx.EventRestart:
		fmt.Fprintf(b.out, "a worker ended and is replaced: %v\n", e.Err)
	}
}

// line prints a line to out: above the bars, if out is the terminal that they are on.
func (b *bars) line(out io.Writer, text string) {
	if b != nil && b.progress != nil && isTerminal(out) {
		out = b.progress
	}
	fmt.Fprintln(out, text)
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// clear removes the bars that are still shown, before other output.
func (b *bars) clear() {
	if b == nil || b.progress == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for label, bar := range b.open {
		bar.Abort(true)
		delete(b.open, label)
	}
	b.progress.Wait()
	b.progress = mpb.New(mpb.WithOutput(b.out), mpb.WithWidth(60))
}

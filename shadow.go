package mlx

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
)

// Bounds of a shadow: requests that wait for the second engine, and differences that are kept.
const shadowQueue, shadowKept = 64, 100

// WithShadow also sends a share of the requests, 0 to 1, to a Python worker, unnoticed by the caller, and compares what
// comes out: labels of Classify, and tokens of Generate and Chat where these draw nothing or have a seed. Requests are
// answered by the native engine and never wait for the comparison; while the worker is busy with earlier ones, none is begun. Metrics
// counts, and the model is a Shadowed, which lists the differences. options are those of the Python worker.
func WithShadow(share float64, options ...LoadOption) LoadOption {
	return loadOption(func(o *loadOptions) {
		o.shadow = &shadowOptions{share: share}
		o.shadow.load.apply(options)
		if err := o.shadow.load.err; err != nil && o.err == nil {
			o.err = err
		}
		if names := o.shadow.load.nativeOnly; len(names) > 0 {
			o.fail(names[0], "only the native engine has it, and the shadow is a worker of the python engine")
		}
		if e := o.shadow.load.engine; e != "" && e != EnginePython {
			o.fail("WithEngine", "the shadow is a worker of the python engine")
		}
		o.nativeOnly = append(o.nativeOnly, "WithShadow")
	})
}

type shadowOptions struct {
	share float64
	load  loadOptions
}

// ShadowDifference is a text that the two engines answer differently.
type ShadowDifference struct {
	Text           string  // the text classified, or the prompt; a chat's last message
	Native, Python string  // labels, or the texts from the first token on that differs
	NativeMargin   float64 // of a label over the second best, in probability; 0 for generation
	PythonMargin   float64
	Token          int // index of the first generated token that differs; -1 for a label
}

// ShadowReport is what the comparisons of WithShadow have shown.
type ShadowReport struct {
	Compared    int64 // texts classified and streams generated twice
	Flips       int64 // of them, those whose label or tokens differ
	Skipped     int64 // chosen, but the worker was busy with earlier ones
	Failed      int64 // comparisons that ended in an error
	LastError   error
	Differences []ShadowDifference // the last ones
}

// shadow compares the answers to requests with those of a second engine, one after the other.
type shadow struct {
	share  float64
	engine engine.Engine
	jobs   chan func(context.Context) error
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	seen ShadowReport
	over bool
}

// ofShadow are the load options of the second engine. It has the adapter of the first, unless the shadow was given its own.
func (o loadOptions) ofShadow() bridge.Options {
	second := o.shadow.load.bridge
	if second.Adapter == "" {
		second.Adapter = o.native.Adapter
	}
	return second
}

// newShadow loads the model that o describes once more, in a worker.
func newShadow(ctx context.Context, path string, o loadOptions) (*shadow, error) {
	share := o.shadow.share
	if !(share >= 0 && share <= 1) {
		return nil, &OptionError{Option: "WithShadow", Reason: fmt.Sprintf("share %v is not within 0 and 1", share)}
	}
	second := o.shadow.load
	second.bridge, second.memory = o.ofShadow(), o.memory
	python, _, err := loadWorkers(ctx, path, second)
	if err != nil {
		return nil, fmt.Errorf("shadow: %w", err)
	}
	return startShadow(share, python), nil
}

func startShadow(share float64, second engine.Engine) *shadow {
	ctx, cancel := context.WithCancel(context.Background())
	s := &shadow{share: share, engine: second, jobs: make(chan func(context.Context) error, shadowQueue), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for job := range s.jobs {
			if err := job(ctx); err != nil && ctx.Err() == nil {
				s.note(func(r *ShadowReport) { r.Failed, r.LastError = r.Failed+1, err })
			}
		}
	}()
	return s
}

func (s *shadow) note(change func(*ShadowReport)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.seen)
}

func (s *shadow) report() ShadowReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.seen
	r.Differences = slices.Clone(r.Differences)
	return r
}

// chosen reports whether a request is to be compared.
func (s *shadow) chosen() bool { return s != nil && rand.Float64() < s.share }

// add gives the worker a comparison, if it has room for it.
func (s *shadow) add(job func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	select {
	case s.jobs <- job:
	default:
		s.seen.Skipped++
	}
}

func (s *shadow) compared(differences []ShadowDifference, n int) {
	s.note(func(r *ShadowReport) {
		r.Compared, r.Flips = r.Compared+int64(n), r.Flips+int64(len(differences))
		r.Differences = append(r.Differences, differences...)
		r.Differences = slices.Clone(r.Differences[max(0, len(r.Differences)-shadowKept):])
	})
}

// classified compares labels.
func (s *shadow) classified(texts []string, o engine.ClassifyOptions, results []Classification) {
	texts, results = slices.Clone(texts), slices.Clone(results)
	o.Labels = slices.Clone(o.Labels) // the caller may use it again
	s.add(func(ctx context.Context) error {
		others, err := s.engine.Classify(ctx, texts, o)
		if err != nil {
			return err
		}
		var differences []ShadowDifference
		for i, got := range results {
			if got.Label != others[i].Label {
				differences = append(differences, ShadowDifference{
					Text: texts[i], Native: got.Label, Python: others[i].Label, NativeMargin: got.Margin, PythonMargin: others[i].Margin, Token: -1,
				})
			}
		}
		s.compared(differences, len(texts))
		return nil
	})
}

// generated passes a stream on and compares its tokens, if it was read to its end.
func (s *shadow) generated(stream iter.Seq2[Token, error], prompt engine.Prompt, o engine.GenerateOptions) iter.Seq2[Token, error] {
	if o.Temperature > 0 && !o.HasSeed || o.Grammar.Kind != "" || !s.chosen() {
		return stream
	}
	// The comparison runs when the caller has all of it back.
	prompt, o = clonePrompt(prompt), cloneOptions(o)
	return func(yield func(Token, error) bool) {
		var tokens []Token
		for tok, err := range stream {
			if err == nil {
				tokens = append(tokens, tok)
			}
			if !yield(tok, err) {
				return
			}
			if err != nil {
				return
			}
		}
		s.add(func(ctx context.Context) error { return s.compareTokens(ctx, tokens, prompt, o) })
	}
}

func clonePrompt(p engine.Prompt) engine.Prompt {
	p.IDs, p.Messages = slices.Clone(p.IDs), slices.Clone(p.Messages)
	for i := range p.Messages {
		calls := slices.Clone(p.Messages[i].ToolCalls)
		for j := range calls {
			calls[j].Function.Arguments = slices.Clone(calls[j].Function.Arguments)
		}
		p.Messages[i].ToolCalls = calls
	}
	return p
}

func cloneOptions(o engine.GenerateOptions) engine.GenerateOptions {
	o.Tools, o.Stop, o.StopTokens = slices.Clone(o.Tools), slices.Clone(o.Stop), slices.Clone(o.StopTokens)
	o.LogitBias = maps.Clone(o.LogitBias)
	// What is in the template arguments may be anything, and only its JSON is used.
	if o.TemplateArguments != nil {
		frozen := map[string]any{}
		for name, value := range o.TemplateArguments {
			if data, err := json.Marshal(value); err == nil {
				frozen[name] = json.RawMessage(data)
			}
		}
		o.TemplateArguments = frozen
	}
	return o
}

func (s *shadow) compareTokens(ctx context.Context, tokens []Token, prompt engine.Prompt, o engine.GenerateOptions) error {
	o.Events = nil
	var others []Token
	for tok, err := range s.engine.Generate(ctx, prompt, o) {
		if err != nil {
			return err
		}
		others = append(others, tok)
	}
	n := 0
	for n < len(tokens) && n < len(others) && tokens[n].ID == others[n].ID {
		n++
	}
	var differences []ShadowDifference
	if n < len(tokens) || n < len(others) {
		text := prompt.Text
		if last := len(prompt.Messages) - 1; last >= 0 {
			text = prompt.Messages[last].Content
		}
		differences = []ShadowDifference{{Text: text, Native: textOf(tokens[n:]), Python: textOf(others[n:]), Token: n}}
	}
	s.compared(differences, 1)
	return nil
}

func textOf(tokens []Token) string {
	text := ""
	for _, tok := range tokens {
		text += tok.Text
	}
	return text
}

// metrics adds the shadow's counts.
func (s *shadow) metrics(m *Metrics) {
	if s == nil {
		return
	}
	r := s.report()
	m.ShadowCompared, m.ShadowFlips, m.ShadowSkipped, m.ShadowFailed = r.Compared, r.Flips, r.Skipped, r.Failed
}

// close gives up what waits and ends the second engine.
func (s *shadow) close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	first := !s.over
	s.over = true
	s.mu.Unlock()
	if !first {
		<-s.done
		return nil
	}
	s.cancel()
	close(s.jobs)
	err := s.engine.Close()
	<-s.done
	return err
}

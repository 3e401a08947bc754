package turn

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// EventKind says what an event adds to an answer.
type EventKind int

// Kinds of events.
const (
	Text EventKind = iota
	Reasoning
	Call      // a call begins: its id and its name
	Arguments // those of the last call grow
)

// Event is a piece of an answer.
type Event struct {
	Kind   EventKind
	Text   string
	Call   mlx.ToolCall // without arguments, which follow
	Tokens []mlx.Token  // with log-probabilities asked for, those that a text is made of
}

// Outcome is how an answer ended.
type Outcome struct {
	Finish     mlx.FinishReason
	StopString string
	Calls      int
	Prompt     int // tokens
	Cached     int // of the prompt, tokens that the prompt cache had
	Generated  int
	Reasoning  int // of the generated ones
}

// errEnough ends a turn early, as if the model had ended it.
var errEnough = errors.New("enough")

// segmented reports whether the text is to be split into reasoning, calls and the rest.
func (t *Turn) segmented() bool {
	callable := len(t.Spec.Tools.callable()) > 0
	if len(t.messages) == 0 || t.format && !callable { // a string of JSON may hold any mark
		return false
	}
	if callable || t.Model.Info().Engine != mlx.EngineNative {
		return true
	}
	if segment.Bare(t.facts.Template) {
		return false
	}
	// The native engine cannot read every notation of calls; a chat without tools does not need to.
	_, err := segment.Infer(t.facts.Template, func(string) bool { return false })
	return err == nil
}

// run is a turn under way.
type run struct {
	*Turn
	builder   *eventBuilder
	segmented bool
	begin     time.Time
	outcome   Outcome
	prompt    []int32 // where the run needs to know them
	ids       []int32 // generated, with a limit of reasoning
}

// Run generates the answer and gives its pieces to emit, whose error ends the work.
func (t *Turn) Run(ctx context.Context, emit func(Event) error) (Outcome, error) {
	if t.most == 0 { // the prompt alone was wanted
		o := Outcome{Finish: mlx.FinishLength}
		var err error
		if o.Prompt, err = t.CountPrompt(ctx); err == nil && t.Watcher != nil {
			t.Watcher.Over(o)
		}
		return o, err
	}
	r := &run{Turn: t, segmented: t.segmented(), begin: time.Now()}
	r.builder = &eventBuilder{emit: emit, tools: &t.Spec.Tools, logProbs: t.Spec.LogProbs}
	r.builder.template = t.facts.Template
	if t.budget > 0 || t.prefill != "" {
		var err error
		if r.prompt, err = t.promptIDs(ctx); err != nil {
			return r.outcome, err
		}
	}
	spent, err := r.stage(ctx, r.prompt)
	if err == nil && spent {
		err = r.closeThought(ctx)
	}
	if err != nil {
		return r.outcome, err
	}
	r.outcome.Calls = r.builder.calls
	if err := r.builder.end(); err != nil {
		return r.outcome, err
	}
	if r.outcome.Prompt == 0 { // errEnough: the turn was ended early
		if r.outcome.Prompt, err = t.CountPrompt(ctx); err != nil {
			return r.outcome, err
		}
	}
	if t.Watcher != nil {
		t.Watcher.Over(r.outcome)
	}
	return r.outcome, nil
}

// stream starts the model, with token ids as its prompt or with the turn's own.
func (r *run) stream(ctx context.Context, ids []int32) iter.Seq2[mlx.Token, error] {
	options := append(r.options[:len(r.options):len(r.options)], mlx.WithMaxTokens(r.most-r.outcome.Generated))
	if r.segmented {
		options = append(options, mlx.WithOutput(mlx.Segments()))
	}
	switch {
	case len(ids) > 0:
		return r.Model.GenerateIDs(ctx, ids, options...)
	case len(r.messages) > 0:
		return r.Model.Chat(ctx, r.messages, options...)
	case len(r.Turn.prompt.IDs) > 0:
		return r.Model.GenerateIDs(ctx, r.Turn.prompt.IDs, options...)
	}
	return r.Model.Generate(ctx, r.Turn.prompt.Text, options...)
}

// stage reads one stream; spent reports that it was left because the budget of reasoning tokens was used up.
func (r *run) stage(ctx context.Context, ids []int32) (spent bool, err error) {
	o := &r.outcome
	first := o.Generated == 0
	for tok, err := range r.stream(ctx, ids) {
		if err != nil {
			return false, r.failed(ctx, err)
		}
		if first && r.Watcher != nil {
			r.Watcher.FirstToken(time.Since(r.begin))
		}
		first = false
		o.Generated++
		o.Finish, o.StopString = tok.FinishReason, tok.StopString
		if o.Prompt == 0 {
			o.Prompt, o.Cached = tok.PromptTokens, tok.CachedTokens
		}
		segments := tok.Segments
		if !r.segmented && tok.Text != "" {
			segments = []mlx.Segment{{Kind: mlx.SegmentNormal, Text: tok.Text}}
		}
		if err := r.builder.add(tok, segments); errors.Is(err, errEnough) {
			o.Finish = mlx.FinishStop
			return false, nil
		} else if err != nil {
			return false, err
		}
		if r.budget > 0 {
			r.ids = append(r.ids, tok.ID)
		}
		if r.builder.kind != mlx.SegmentReasoning {
			continue
		}
		o.Reasoning++
		if r.budget > 0 && o.Reasoning >= r.budget && tok.FinishReason == "" {
			return true, nil
		}
	}
	return false, nil
}

// closeThought ends a thought whose budget is spent; the model then goes on with the answer.
func (r *run) closeThought(ctx context.Context) error {
	r.outcome.Prompt = len(r.prompt)
	r.outcome.Finish = mlx.FinishLength
	if r.outcome.Generated >= r.most {
		return nil
	}
	end, err := r.Model.Tokenizer().Encode(ctx, "\n"+r.marks.ThinkEnd+"\n\n", false)
	if err != nil {
		return err
	}
	ids := append(append(r.prompt[:len(r.prompt):len(r.prompt)], r.ids...), end...)
	r.budget, r.builder.again = 0, r.marks.ThinkEnd
	_, err = r.stage(ctx, ids)
	return err
}

// failed distinguishes a chat that the template refuses from other failures, before the first token.
func (r *run) failed(ctx context.Context, err error) error {
	if r.outcome.Generated > 0 || len(r.messages) == 0 || Explain(err, nil).Kind != Internal || ctx.Err() != nil {
		return err
	}
	if _, _, rendering := r.render(ctx); rendering != nil {
		return rendering
	}
	return err
}

// PanicError is a panic of a goroutine that worked for a request.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Each does several things side by side; the first error ends the others. A panic of one is its error.
func Each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	if n == 1 {
		return do(ctx, 0)
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = &PanicError{p, debug.Stack()}
				}
			}()
			return do(ctx, i)
		})
	}
	return group.Wait()
}

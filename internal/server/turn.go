package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
	"forge.lthn.ai/core/go-mlx/internal/segment"
)

// turn is one answer to be generated, whichever API asks for it.
type turn struct {
	lease    *registry.Lease
	template string // the model's chat template
	messages []mlx.Message
	prompt   string  // without messages
	ids      []int32 // without both
	options  []mlx.GenerateOption
	tools    tools
	format   bool // the text follows a format
	thinking *bool
	logProbs bool
}

// eventKind says what an event adds to an answer.
type eventKind int

const (
	eventText eventKind = iota
	eventReasoning
	eventCall
)

// event is a piece of an answer.
type event struct {
	kind   eventKind
	text   string
	call   mlx.ToolCall
	tokens []mlx.Token // with log-probabilities asked for, those that the text is made of
}

// outcome is how an answer ended.
type outcome struct {
	finish     mlx.FinishReason
	stopString string
	calls      int
	prompt     int // tokens
	generated  int
	reasoning  int // of the generated ones
}

// acquire takes the model that a request names, says in the headers which engine runs it, and why.
func (s *Server) acquire(w http.ResponseWriter, r *http.Request, name string) (*registry.Lease, error) {
	if name == "" {
		return nil, badField("model", "which one? There are %s", strings.Join(s.config.Models.Names(), ", "))
	}
	lease, err := s.config.Models.Acquire(r.Context(), name)
	if err != nil {
		return nil, err
	}
	info := lease.Model.Info()
	v := visitOf(r.Context())
	v.model, v.engine = name, info.Engine
	w.Header().Set(headerEngine, info.Engine)
	w.Header().Set(headerReason, headerText(info.Reason))
	return lease, nil
}

// headerText makes any text fit for a header.
func headerText(text string) string {
	return strings.ReplaceAll(url.PathEscape(strings.Join(strings.Fields(text), " ")), "%20", " ")
}

// segmented reports whether the text is to be split into reasoning, calls and the rest.
func (t *turn) segmented() bool {
	if len(t.messages) == 0 || t.format { // a string of JSON may hold any mark
		return false
	}
	if len(t.tools.list) > 0 || t.lease.Model.Info().Engine != "native" {
		return true
	}
	// The native engine cannot read every notation of calls; a chat without tools does not need to.
	_, err := segment.Infer(t.template, func(string) bool { return false })
	return err == nil
}

func (t *turn) stream(ctx context.Context, options []mlx.GenerateOption) iter.Seq2[mlx.Token, error] {
	m := t.lease.Model
	switch {
	case len(t.messages) > 0:
		return m.Chat(ctx, t.messages, options...)
	case len(t.ids) > 0:
		return m.GenerateIDs(ctx, t.ids, options...)
	}
	return m.Generate(ctx, t.prompt, options...)
}

// errEnough ends a turn early, as if the model had.
var errEnough = errors.New("enough")

// run generates the answer and gives its pieces to emit, whose error ends the work.
func (s *Server) run(ctx context.Context, t *turn, emit func(event) error) (outcome, error) {
	v := visitOf(ctx)
	begin := time.Now()
	options := t.options
	segmented := t.segmented()
	if segmented {
		options = append(options[:len(options):len(options)], mlx.WithSegments())
	}
	var o outcome
	tidy := &tidier{emit: emit, oneCall: t.tools.oneCall}
	for tok, err := range t.stream(ctx, options) {
		if err != nil {
			return o, err
		}
		if o.generated == 0 {
			s.metrics.firstToken(v.model, time.Since(begin))
			v.began(time.Since(begin))
		}
		o.generated++
		o.finish, o.stopString, o.prompt = tok.FinishReason, tok.StopString, tok.PromptTokens
		if t.logProbs {
			tidy.tokens = append(tidy.tokens, tok)
		}
		segments := tok.Segments
		if !segmented && tok.Text != "" {
			segments = []mlx.Segment{{Kind: mlx.SegmentNormal, Text: tok.Text}}
		}
		if err = tidy.add(segments); err != nil {
			if errors.Is(err, errEnough) {
				o.finish = mlx.FinishStop
				break
			}
			return o, err
		}
		if tidy.kind == mlx.SegmentReasoning {
			o.reasoning++
		}
	}
	o.calls = tidy.calls
	if err := tidy.end(); err != nil {
		return o, err
	}
	if o.prompt == 0 { // a turn that was ended early
		var err error
		if o.prompt, err = t.countPrompt(ctx); err != nil {
			return o, err
		}
	}
	v.count(o.prompt, o.generated)
	s.metrics.tokens(v.model, o)
	return o, nil
}

// countPrompt is how many tokens the prompt of a chat has.
func (t *turn) countPrompt(ctx context.Context) (int, error) {
	if len(t.messages) == 0 {
		if len(t.ids) > 0 {
			return len(t.ids), nil
		}
		ids, err := t.lease.Model.Tokenizer().Encode(ctx, t.prompt, true)
		return len(ids), err
	}
	text, err := t.lease.Model.Tokenizer().RenderChat(ctx, t.messages, t.options...)
	if err != nil {
		return 0, err
	}
	ids, err := t.lease.Model.Tokenizer().Encode(ctx, text, false)
	return len(ids), err
}

// collect runs a turn to its end.
func (s *Server) collect(ctx context.Context, t *turn) (reply, error) {
	var r reply
	o, err := s.run(ctx, t, func(e event) error {
		switch e.kind {
		case eventText:
			r.text += e.text
		case eventReasoning:
			r.reasoning += e.text
		case eventCall:
			r.calls = append(r.calls, e.call)
		}
		r.tokens = append(r.tokens, e.tokens...)
		return nil
	})
	r.outcome = o
	return r, err
}

// reply is a whole answer.
type reply struct {
	outcome
	text, reasoning string
	calls           []mlx.ToolCall
	tokens          []mlx.Token
}

// wrongRole is a message that no template knows.
func wrongRole(field, role string) error {
	return badField(field, "%q; there are system, developer, user, assistant and tool", role)
}

// atIndex names a field inside a list.
func atIndex(list string, i int, field string) string {
	return fmt.Sprintf("%s[%d].%s", list, i, field)
}

package openai

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// CompletionRequest is the body of /v1/completions; CompletionFields has what becomes of its fields.
type CompletionRequest struct {
	turn.Sampling
	Model         string       `json:"model"`
	Prompt        turn.Prompts `json:"prompt"`
	Stream        bool         `json:"stream"`
	StreamOptions *usageOption `json:"stream_options"`
	MaxTokens     *turn.Count  `json:"max_tokens"`
	N             *turn.Count  `json:"n"`
	Stop          turn.Strings `json:"stop"`
	LogProbs      *turn.Count  `json:"logprobs"`
	Echo          bool         `json:"echo"`
}

type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *usage             `json:"usage,omitzero"`
}

type completionChoice struct {
	Index        int                 `json:"index"`
	Text         string              `json:"text"`
	LogProbs     *completionLogProbs `json:"logprobs"`
	FinishReason *string             `json:"finish_reason"`
}

type completionLogProbs struct {
	Tokens        []string              `json:"tokens"`
	TokenLogProbs []*float32            `json:"token_logprobs"` // of an echo's first token there is none
	TopLogProbs   []*map[string]float32 `json:"top_logprobs"`
	TextOffset    []int                 `json:"text_offset"` // in characters of the completion
}

// ModelName is the model that the request names.
func (q *CompletionRequest) ModelName() string { return q.Model }

// UseModel names the model of a request that names none.
func (q *CompletionRequest) UseModel(name string) { q.Model = name }

// Streams says whether the answer is streamed.
func (q *CompletionRequest) Streams() bool { return q.Stream }

// Named are the API's names of the fields that set options.
func (q *CompletionRequest) Named() turn.Names {
	return turn.Names{"Prompt": "prompt", "TopLogProbs": "logprobs"}
}

// Spec is the request in the form that all APIs share.
func (q *CompletionRequest) Spec() (*turn.Spec, error) {
	switch {
	case len(q.Prompt) == 0:
		return nil, turn.Bad("prompt", "there is none")
	case q.StreamOptions != nil && !q.Stream:
		return nil, turn.Bad("stream_options", "goes with stream")
	case q.N != nil && *q.N < 1:
		return nil, turn.Bad("n", "%d is not between 1 and %d", *q.N, turn.MaxChoices)
	}
	w := &turn.Spec{Prompts: q.Prompt, Sampling: &q.Sampling, MaxTokens: q.MaxTokens.Int(), Stop: q.Stop, LogProbs: q.LogProbs != nil, Names: q.Named()}
	if q.N != nil {
		w.Choices = int(*q.N)
	}
	if q.LogProbs != nil {
		w.TopLogProbs = int(*q.LogProbs)
	}
	return w, nil
}

// AnswerWhole generates the answers in one piece.
func (q *CompletionRequest) AnswerWhole(ctx context.Context, t *turn.Turn) (any, error) {
	c, total, err := q.run(ctx, t, nil)
	c.Usage = &total
	return c, err
}

// AnswerStream sends the answers as they grow.
func (q *CompletionRequest) AnswerStream(ctx context.Context, t *turn.Turn, out turn.Sink) error {
	c, total, err := q.run(ctx, t, out)
	if err != nil {
		return err
	}
	if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		c.Choices, c.Usage = []completionChoice{}, &total
		if err := out.Send("", c); err != nil {
			return err
		}
	}
	out.Done()
	return nil
}

// Fail ends a stream that has begun.
func (q *CompletionRequest) Fail(out turn.Sink, e *turn.Error) { fail(out, e) }

// run generates all answers side by side; into the stream, if there is one.
func (q *CompletionRequest) run(ctx context.Context, t *turn.Turn, out turn.Sink) (completion, usage, error) {
	n := max(1, t.Spec.Choices)
	c := completion{ID: turn.NewID("cmpl-"), Object: "text_completion", Created: time.Now().Unix(), Model: q.Model}
	chunk := c
	c.Choices = make([]completionChoice, len(q.Prompt)*n)
	texts := &turn.TokenTexts{Tokenizer: t.Model.Tokenizer()}
	echoes := make([]func() (echo, error), len(q.Prompt)) // each is made once, for all answers to its prompt
	var total usage
	var mu sync.Mutex // guards c and total
	for i := range echoes {
		echoes[i] = sync.OnceValues(func() (echo, error) { return q.echo(ctx, t.For(i, 0), i) })
	}
	err := turn.Each(ctx, len(c.Choices), func(ctx context.Context, index int) error {
		a := &completing{request: q, chunk: chunk, texts: texts, out: out, choice: completionChoice{Index: index}}
		o, err := a.run(ctx, t.For(index/n, index%n), echoes[index/n])
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		c.Choices[index] = a.choice
		if index%n == 0 {
			total.PromptTokens += o.Prompt
			total.PromptTokensDetails.CachedTokens += o.Cached
		}
		total.CompletionTokens += o.Generated
		total.TotalTokens = total.PromptTokens + total.CompletionTokens
		return nil
	})
	return c, total, err
}

// completing is one answer.
type completing struct {
	request *CompletionRequest
	chunk   completion
	texts   *turn.TokenTexts
	out     turn.Sink
	choice  completionChoice // the whole
	offset  int
	echoed  bool // what is added is a prompt, whose first token has no log-probability
}

// echo is a prompt as the beginning of its answer.
type echo struct {
	text   string
	tokens []mlx.Token // with log-probabilities asked for
}

func (q *CompletionRequest) echo(ctx context.Context, t *turn.Turn, prompt int) (e echo, err error) {
	given := q.Prompt[prompt]
	if e.text = given.Text; len(given.IDs) > 0 {
		if e.text, err = t.Model.Tokenizer().Decode(ctx, given.IDs); err != nil {
			return e, err
		}
	}
	if q.LogProbs != nil {
		e.tokens, err = t.PromptLogProbs(ctx)
	}
	return e, err
}

func (a *completing) run(ctx context.Context, t *turn.Turn, echoed func() (echo, error)) (turn.Outcome, error) {
	if a.request.LogProbs != nil {
		a.choice.LogProbs = &completionLogProbs{}
	}
	if a.request.Echo {
		e, err := echoed()
		if err != nil {
			return turn.Outcome{}, err
		}
		a.echoed = len(e.tokens) > 0
		if err := a.add(ctx, turn.Event{Text: e.text, Tokens: e.tokens}); err != nil {
			return turn.Outcome{}, err
		}
		a.echoed = false
	}
	o, err := t.Run(ctx, func(e turn.Event) error { return a.add(ctx, e) })
	if err != nil {
		return o, err
	}
	reason := string(o.Finish)
	a.choice.FinishReason = &reason
	return o, a.send(completionChoice{Index: a.choice.Index, FinishReason: &reason})
}

func (a *completing) add(ctx context.Context, e turn.Event) error {
	piece := completionChoice{Index: a.choice.Index, Text: e.Text}
	if a.choice.LogProbs != nil {
		piece.LogProbs = &completionLogProbs{}
		err := piece.LogProbs.add(ctx, a.texts, e.Tokens)
		if err != nil {
			return err
		}
		if a.echoed {
			if piece.LogProbs.TextOffset, err = promptOffsets(ctx, a.texts.Tokenizer, e.Tokens); err != nil {
				return err
			}
			a.offset = utf8.RuneCountInString(e.Text)
		} else {
			for _, tok := range e.Tokens {
				piece.LogProbs.TextOffset = append(piece.LogProbs.TextOffset, a.offset)
				a.offset += utf8.RuneCountInString(tok.Text)
			}
		}
		if a.echoed {
			piece.LogProbs.TokenLogProbs[0], piece.LogProbs.TopLogProbs[0] = nil, nil
		}
		a.choice.LogProbs.join(piece.LogProbs)
	}
	a.choice.Text += e.Text
	return a.send(piece)
}

func (a *completing) send(choice completionChoice) error {
	if a.out == nil {
		return nil
	}
	chunk := a.chunk
	chunk.Choices = []completionChoice{choice}
	return a.out.Send("", chunk)
}

func (l *completionLogProbs) add(ctx context.Context, texts *turn.TokenTexts, tokens []mlx.Token) error {
	for _, tok := range tokens {
		text, err := texts.Of(ctx, tok.ID)
		if err != nil {
			return err
		}
		top := map[string]float32{}
		for _, other := range tok.TopLogProbs {
			name, err := texts.Of(ctx, other.ID)
			if err != nil {
				return err
			}
			if best, ok := top[name]; !ok || other.LogProb > best {
				top[name] = finite(other.LogProb)
			}
		}
		l.Tokens = append(l.Tokens, text)
		value := finite(tok.LogProb)
		l.TokenLogProbs = append(l.TokenLogProbs, &value)
		l.TopLogProbs = append(l.TopLogProbs, &top)
	}
	return nil
}

// promptOffsets are the places in a prompt's text where its tokens begin, in characters. A token that goes on with a character begins at
// this character. Tokens are decoded after those before them, since some tokenizers drop a space at the beginning of a text.
func promptOffsets(ctx context.Context, tokenizer mlx.Tokenizer, tokens []mlx.Token) (offsets []int, err error) {
	const mostParts = 8               // tokens of one character; what goes on longer is no text
	var before, open []int32          // the last tokens that ended with a character, and those after them
	offset, known, length := 0, "", 0 // where open begins; the text of before
	for _, tok := range tokens {
		offsets = append(offsets, offset+length)
		open = append(open, tok.ID)
		text, err := tokenizer.Decode(ctx, slices.Concat(before, open))
		if err != nil {
			return nil, err
		}
		whole := strings.TrimRight(text, "\ufffd")
		length = max(0, utf8.RuneCountInString(whole)-utf8.RuneCountInString(known))
		if whole != text && len(open) < mostParts {
			continue
		}
		offset += max(0, utf8.RuneCountInString(text)-utf8.RuneCountInString(known))
		before, open, length = open, nil, 0
		if known, err = tokenizer.Decode(ctx, before); err != nil {
			return nil, err
		}
	}
	return offsets, nil
}

func (l *completionLogProbs) join(more *completionLogProbs) {
	l.Tokens = append(l.Tokens, more.Tokens...)
	l.TokenLogProbs = append(l.TokenLogProbs, more.TokenLogProbs...)
	l.TopLogProbs = append(l.TopLogProbs, more.TopLogProbs...)
	l.TextOffset = append(l.TextOffset, more.TextOffset...)
}

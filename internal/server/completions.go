package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/registry"
)

// completionRequest is the body of /v1/completions.
type completionRequest struct {
	sampling
	Model         string         `json:"model"`
	Prompt        prompts        `json:"prompt"`
	Stream        bool           `json:"stream"`
	StreamOptions *streamOptions `json:"stream_options"`
	MaxTokens     *int           `json:"max_tokens"`
	N             *int           `json:"n"`
	Stop          oneOrMany      `json:"stop"`
	LogProbs      *int           `json:"logprobs"`
	User          string         `json:"user"`
}

// prompt is a text or token ids.
type prompt struct {
	text string
	ids  []int32
}

// prompts is a text, token ids, or a list of either.
type prompts []prompt

func (p *prompts) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	value = value.Clone()
	try := func(into any) bool { return json.Unmarshal(value, into) == nil }
	var (
		text  string
		texts []string
		ids   []int32
		lists [][]int32
	)
	switch {
	case value.Kind() == 'n':
	case holdsNull(value):
		return errNull
	case try(&text):
		*p = prompts{{text: text}}
	case try(&texts):
		for _, text := range texts {
			*p = append(*p, prompt{text: text})
		}
	case try(&ids):
		*p = prompts{{ids: ids}}
	case try(&lists):
		for _, ids := range lists {
			*p = append(*p, prompt{ids: ids})
		}
	default:
		return errors.New("there are a text, a list of texts, token ids, and lists of token ids")
	}
	return nil
}

type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *usage             `json:"usage,omitempty"`
}

type completionChoice struct {
	Index        int                 `json:"index"`
	Text         string              `json:"text"`
	LogProbs     *completionLogProbs `json:"logprobs"`
	FinishReason *string             `json:"finish_reason"`
}

type completionLogProbs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogProbs []float32            `json:"token_logprobs"`
	TopLogProbs   []map[string]float32 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"` // in characters of the completion
}

// maxPrompts is how many prompts one request may hold, each with its n answers.
const maxPrompts = 256

func (s *Server) completions(w http.ResponseWriter, r *http.Request) error {
	var q completionRequest
	if err := decode(r, &q); err != nil {
		return err
	}
	n, err := choicesOf(q.N)
	switch {
	case err != nil:
		return err
	case len(q.Prompt) == 0:
		return badField("prompt", "there is none")
	case len(q.Prompt) > maxPrompts:
		return badField("prompt", "%d prompts are more than %d", len(q.Prompt), maxPrompts)
	case q.StreamOptions != nil && !q.Stream:
		return badField("stream_options", "goes with stream")
	}
	lease, err := s.acquire(w, r, q.Model)
	if err != nil {
		return err
	}
	defer lease.Release()
	options, err := s.completionOptions(&q, lease)
	if err != nil {
		return err
	}
	c := completion{ID: newID("cmpl-"), Object: "text_completion", Created: time.Now().Unix(), Model: q.Model}
	texts := &tokenTexts{tokenizer: lease.Model.Tokenizer()}
	var mu sync.Mutex
	var total usage
	c.Choices = make([]completionChoice, len(q.Prompt)*n)
	var out *sse
	if q.Stream {
		out = s.newSSE(w)
		defer out.close()
	}
	group, ctx := errgroup.WithContext(r.Context())
	for p, prompt := range q.Prompt {
		var once sync.Once
		for k := range n {
			index := p*n + k
			group.Go(func() error {
				t := &turn{lease: lease, prompt: prompt.text, ids: prompt.ids, logProbs: q.LogProbs != nil,
					options: append(options[:len(options):len(options)], q.seedFor(k)...)}
				o, choice, err := s.complete(ctx, t, index, texts, out, c)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				c.Choices[index] = choice
				once.Do(func() { total.PromptTokens += o.prompt })
				total.CompletionTokens += o.generated
				total.TotalTokens = total.PromptTokens + total.CompletionTokens
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		if out != nil {
			return s.failStream(r, out, openAI, err)
		}
		return err
	}
	if out == nil {
		c.Usage = &total
		writeJSON(w, http.StatusOK, c)
		return nil
	}
	if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		c.Choices, c.Usage = []completionChoice{}, &total
		_ = out.send("", c)
	}
	out.done()
	return nil
}

func (s *Server) completionOptions(q *completionRequest, lease *registry.Lease) ([]mlx.GenerateOption, error) {
	facts, err := s.facts.of(lease.Path)
	if err != nil {
		return nil, err
	}
	options, err := q.options(facts.defaults)
	if err != nil {
		return nil, err
	}
	options = append(options, s.maxTokens(q.MaxTokens))
	if len(q.Stop) > 0 {
		options = append(options, mlx.WithStop(q.Stop...))
	}
	if q.LogProbs != nil {
		options = append(options, mlx.WithTopLogProbs(*q.LogProbs))
	}
	return options, nil
}

// complete generates one answer; into the stream, if there is one.
func (s *Server) complete(ctx context.Context, t *turn, index int, texts *tokenTexts, out *sse, c completion) (outcome, completionChoice, error) {
	whole := completionChoice{Index: index}
	offset := 0
	if t.logProbs {
		whole.LogProbs = &completionLogProbs{}
	}
	o, err := s.run(ctx, t, func(e event) error {
		piece := completionChoice{Index: index, Text: e.text}
		if t.logProbs {
			piece.LogProbs = &completionLogProbs{}
			if err := piece.LogProbs.add(ctx, texts, e.tokens, &offset); err != nil {
				return err
			}
			whole.LogProbs.join(piece.LogProbs)
		}
		whole.Text += e.text
		if out == nil {
			return nil
		}
		chunk := c
		chunk.Choices = []completionChoice{piece}
		return out.send("", chunk)
	})
	if err != nil {
		return o, whole, err
	}
	reason := string(o.finish)
	whole.FinishReason = &reason
	if out != nil {
		chunk := c
		chunk.Choices = []completionChoice{{Index: index, FinishReason: &reason}}
		err = out.send("", chunk)
	}
	return o, whole, err
}

func (l *completionLogProbs) add(ctx context.Context, texts *tokenTexts, tokens []mlx.Token, offset *int) error {
	for _, tok := range tokens {
		text, err := texts.of(ctx, tok.ID)
		if err != nil {
			return err
		}
		top := map[string]float32{}
		for _, other := range tok.TopLogProbs {
			name, err := texts.of(ctx, other.ID)
			if err != nil {
				return err
			}
			if best, ok := top[name]; !ok || other.LogProb > best {
				top[name] = other.LogProb
			}
		}
		l.Tokens = append(l.Tokens, text)
		l.TokenLogProbs = append(l.TokenLogProbs, tok.LogProb)
		l.TopLogProbs = append(l.TopLogProbs, top)
		l.TextOffset = append(l.TextOffset, *offset)
		*offset += len([]rune(text))
	}
	return nil
}

func (l *completionLogProbs) join(more *completionLogProbs) {
	l.Tokens = append(l.Tokens, more.Tokens...)
	l.TokenLogProbs = append(l.TokenLogProbs, more.TokenLogProbs...)
	l.TopLogProbs = append(l.TopLogProbs, more.TopLogProbs...)
	l.TextOffset = append(l.TextOffset, more.TextOffset...)
}

package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server/turn"
)

// The API of this server itself: classification, tokens, loading and unloading.
var (
	classifyFields = turn.NewTable("POST /v1/classify",
		turn.Honour("model", "texts", "labels", "prompt", "prior", "temperature", "abstain_below", "scores", "stream"),
		turn.NoEffect("it names a request and changes nothing", "user", "metadata"))
	tokenizeFields = turn.NewTable("POST /v1/tokenize",
		turn.Honour("model", "text", "content", "prompt", "add_special", "add_special_tokens", "with_pieces"),
		turn.OnlyAt("parse_special", "what spells a special token is one", "true"))
	detokenizeFields = turn.NewTable("POST /v1/detokenize", turn.Honour("model", "tokens"))
	loadFields       = turn.NewTable("POST /v1/load, /v1/unload", turn.Honour("model"))
)

// classifyRequest is the body of /v1/classify.
type classifyRequest struct {
	Model        string       `json:"model"`
	Texts        turn.Strings `json:"texts"`
	Labels       []string     `json:"labels"`
	Prompt       string       `json:"prompt"`        // with {labels} and {text}
	Prior        string       `json:"prior"`         // what is taken from the labels' scores: content-free, batch or none
	Temperature  float64      `json:"temperature"`   // of the probabilities, as calibration finds it
	AbstainBelow float64      `json:"abstain_below"` // mark results whose best label is less probable
	Scores       bool         `json:"scores"`        // with every label's score
	Stream       bool         `json:"stream"`        // results as events, a window of texts at a time
}

type classified struct {
	Index int `json:"index"`
	mlx.Classification
}

type classifiedList struct {
	Object string       `json:"object"`
	Model  string       `json:"model"`
	Data   []classified `json:"data"`
	Done   int          `json:"done"`
	Total  int          `json:"total"`
}

// classifyStep is how many texts of a stream are classified at a time.
const classifyStep = 64

func (q *classifyRequest) check() error {
	if len(q.Texts) == 0 {
		return turn.Bad("texts", "there are none")
	}
	if err := turn.AtMost("texts", len(q.Texts), turn.MaxTexts, "texts"); err != nil {
		return err
	}
	return turn.AtMost("labels", len(q.Labels), turn.MaxLabels, "labels")
}

func (q *classifyRequest) options() (options []mlx.ClassifyOption) {
	if q.Prompt != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrompt(q.Prompt)))
	}
	if q.Prior != "" {
		options = append(options, mlx.WithLabels(mlx.LabelPrior(mlx.Prior(q.Prior))))
	}
	if q.Temperature != 0 {
		options = append(options, mlx.WithCalibration(mlx.Calibration{Temperature: q.Temperature}))
	}
	if q.AbstainBelow != 0 {
		options = append(options, mlx.WithAbstain(q.AbstainBelow))
	}
	return options
}

func (s *Server) classify(w http.ResponseWriter, r *http.Request) error {
	var q classifyRequest
	if _, err := s.decode(w, r, classifyFields, &q); err != nil {
		return err
	}
	visitOf(r.Context()).names = turn.Names{"Prompt": "texts"}
	if err := q.check(); err != nil {
		return err
	}
	if err := s.choose(&q.Model); err != nil {
		return err
	}
	if !q.Stream {
		return s.withModel(w, r, q.Model, func(ctx context.Context, m mlx.TextModel) (any, error) {
			return s.classifyTexts(ctx, m, &q, q.Texts, 0)
		})
	}
	out := s.newStream(r.Context(), w, openAI)
	defer out.close()
	err := s.classifyStream(r.Context(), &q, out)
	if err == nil || !out.started() {
		return err
	}
	_ = out.Send("", openAI.errorBody(broken(r, err, visitOf(r.Context()).names))) // the client may be why
	return nil
}

func (s *Server) classifyStream(ctx context.Context, q *classifyRequest, out *stream) error {
	lease, err := s.acquire(ctx, q.Model, out.header, out.waits)
	if err != nil {
		return err
	}
	defer lease.Release()
	done := 0
	for texts := range slices.Chunk(q.Texts, classifyStep) {
		answer, err := s.classifyTexts(ctx, lease.Model, q, texts, done)
		if err != nil {
			return err
		}
		done = answer.Done
		if err := out.Send("", answer); err != nil {
			return err
		}
	}
	out.Done()
	return nil
}

func (s *Server) classifyTexts(ctx context.Context, m mlx.TextModel, q *classifyRequest, texts []string, done int) (*classifiedList, error) {
	results, err := m.Classify(ctx, texts, q.Labels, q.options()...)
	if err != nil {
		return nil, err
	}
	list := make([]classified, len(results))
	for i, c := range results {
		if !q.Scores {
			c.Scores = nil
		}
		list[i] = classified{done + i, c}
	}
	s.metrics.classified(visitOf(ctx).model, len(results))
	return &classifiedList{"list", q.Model, list, done + len(results), len(q.Texts)}, nil
}

// tokenizeRequest goes by the names of llama.cpp's server (content) and of vLLM's (prompt), too.
type tokenizeRequest struct {
	Model            string `json:"model"`
	Text             string `json:"text"`
	Content          string `json:"content"`
	Prompt           string `json:"prompt"`
	AddSpecial       bool   `json:"add_special"`
	AddSpecialTokens *bool  `json:"add_special_tokens"`
	WithPieces       bool   `json:"with_pieces"`
}

type tokenPiece struct {
	ID    int32  `json:"id"`
	Piece string `json:"piece"`
}

type tokenizeAnswer struct {
	Tokens      any `json:"tokens"`
	Count       int `json:"count"`
	MaxModelLen int `json:"max_model_len"`
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) error {
	var q tokenizeRequest
	if _, err := s.decode(w, r, tokenizeFields, &q); err != nil {
		return err
	}
	text := q.Text + q.Content + q.Prompt
	field := "text"
	if q.Content != "" {
		field = "content"
	} else if q.Prompt != "" {
		field = "prompt"
	}
	if err := turn.AtMost(field, len(text), turn.MaxTokenized, "bytes"); err != nil {
		return err
	}
	special := q.AddSpecial
	if q.AddSpecialTokens != nil {
		special = *q.AddSpecialTokens
	}
	return s.withModel(w, r, q.Model, func(ctx context.Context, m mlx.TextModel) (any, error) {
		ids, err := m.Tokenizer().Encode(ctx, text, special)
		if err != nil {
			return nil, err
		}
		a := tokenizeAnswer{Tokens: ids, Count: len(ids), MaxModelLen: m.Info().ContextLength}
		if !q.WithPieces {
			return a, nil
		}
		texts := &turn.TokenTexts{Tokenizer: m.Tokenizer()}
		pieces := []tokenPiece{}
		for _, id := range ids {
			text, err := texts.Of(ctx, id)
			if err != nil {
				return nil, err
			}
			pieces = append(pieces, tokenPiece{id, text})
		}
		a.Tokens = pieces
		return a, nil
	})
}

func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model  string  `json:"model"`
		Tokens []int32 `json:"tokens"`
	}
	if _, err := s.decode(w, r, detokenizeFields, &q); err != nil {
		return err
	}
	if err := turn.AtMost("tokens", len(q.Tokens), turn.MaxTokenized, "tokens"); err != nil {
		return err
	}
	return s.withModel(w, r, q.Model, func(ctx context.Context, m mlx.TextModel) (any, error) {
		size := m.Info().VocabSize
		for i, id := range q.Tokens {
			if id < 0 || size > 0 && int(id) >= size {
				return nil, turn.Bad(fmt.Sprintf("tokens[%d]", i), "the vocabulary of %d tokens has no id %d", size, id)
			}
		}
		text, err := m.Tokenizer().Decode(ctx, q.Tokens)
		return map[string]string{"content": text, "prompt": text}, err
	})
}

type loadRequest struct {
	Model string `json:"model"`
}

type loadAnswer struct {
	Model  string `json:"model"`
	Loaded bool   `json:"loaded"`
}

func (s *Server) loadModel(w http.ResponseWriter, r *http.Request) error {
	var q loadRequest
	if _, err := s.decode(w, r, loadFields, &q); err != nil {
		return err
	}
	return s.load(w, r, q.Model, func() any { return loadAnswer{visitOf(r.Context()).model, true} })
}

// unloadModel closes a model without requests; one with requests stays loaded.
func (s *Server) unloadModel(w http.ResponseWriter, r *http.Request) error {
	var q loadRequest
	if _, err := s.decode(w, r, loadFields, &q); err != nil {
		return err
	}
	return s.unload(w, r, q.Model, func(name string) any {
		a := loadAnswer{Model: name}
		for _, state := range s.config.Models.State().Models {
			a.Loaded = a.Loaded || state.Name == name && state.Model != nil
		}
		return a
	})
}

// Package prompt makes checked token ids of what callers ask: texts, chats by the model's template, ids; and grammars over the same
// vocabulary.
package prompt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/segment"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// Encoder makes tokens of prompts and text of tokens: the tokenizer, the chat template, and what follows from them. It is safe for
// concurrent use once it is loaded.
type Encoder struct {
	Tokenizer   *tokenizer.Tokenizer
	Template    *tokenizer.Template // nil: the model has none, or templateErr says why it cannot be read
	templateErr error
	plain       *tokenizer.Guard
	bos         string         // the text of the token that the tokenizer puts first; "" for none
	EndToken    int32          // the tokenizer's own, or -1
	EOS         map[int32]bool // end tokens
	XTCSpared   []int32        // tokens that XTC never cuts, as in mlx-lm: end tokens and the newline
	Marks       segment.Marks
	MarksErr    error // why text cannot be split into segments

	VocabSize int // rows of the model's embedding, which checked ids are below
	Context   int // how many tokens the model was made for; 0 for no bound

	grammarOnce sync.Once
	vocabulary  *tokenizer.Vocabulary // for grammars; made when one is first used
	grammarErr  error
}

// NewEncoder makes an encoder for a model with these end tokens; Load reads it.
func NewEncoder(eos []int32) *Encoder {
	e := &Encoder{EOS: map[int32]bool{}}
	for _, id := range eos {
		e.EOS[id] = true
	}
	return e
}

// Load reads the tokenizer and the chat template, and what follows from them. What it opened before a failure is closed by Close.
func (e *Encoder) Load(from *modelfiles.Source) (err error) {
	if e.Tokenizer, err = tokenizer.Load(from); err != nil {
		return err
	}
	if e.Template, err = tokenizer.LoadTemplate(from); err != nil && !errors.Is(err, tokenizer.ErrNoTemplate) {
		e.templateErr = err // which costs chats and nothing else
	}
	if err := e.addTokenizerEOS(from); err != nil {
		return err
	}
	e.Marks, e.MarksErr = segment.Infer(e.Template.Source(), func(token string) bool {
		_, ok := e.Tokenizer.TokenID(token)
		return ok
	})
	listed, err := from.ControlTokens()
	if err != nil {
		return err
	}
	if e.plain, err = tokenizer.NewGuard(e.Tokenizer, e.Template.Source(), listed); err != nil {
		return err
	}
	if e.XTCSpared, err = e.Tokenizer.Encode("\n", false); err != nil {
		return err
	}
	e.XTCSpared = slices.AppendSeq(e.XTCSpared, maps.Keys(e.EOS))
	return nil
}

// addTokenizerEOS adds the tokenizer's own end token to the config's, as mlx-lm does.
func (e *Encoder) addTokenizerEOS(from *modelfiles.Source) error {
	special, err := from.SpecialTokens()
	if err != nil {
		return err
	}
	e.bos = special["bos_token"]
	if e.EndToken = -1; special["eos_token"] != "" {
		if id, ok := e.Tokenizer.TokenID(special["eos_token"]); ok {
			e.EOS[id], e.EndToken = true, id
		}
	}
	return nil
}

// OpensReasoning reports whether a prompt ends inside a thought.
func (e *Encoder) OpensReasoning(prompt []int32) bool {
	start, ok := e.Tokenizer.TokenID(e.Marks.ThinkStart)
	if e.Marks.ThinkStart == "" || !ok {
		return false
	}
	end, _ := e.Tokenizer.TokenID(e.Marks.ThinkEnd)
	for _, id := range slices.Backward(prompt) {
		if id == start || id == end {
			return id == start
		}
	}
	return false
}

// Close frees the tokenizer and the template; also of an encoder that was loaded in part.
func (e *Encoder) Close() {
	e.vocabulary.Close()
	e.Tokenizer.Close()
	if e.Template != nil {
		e.Template.Close()
	}
}

// Encode returns token ids.
func (e *Encoder) Encode(_ context.Context, text string, special bool) ([]int32, error) {
	ids, err := e.Tokenizer.Encode(text, special)
	if errors.Is(err, tokenizer.ErrInvalidUTF8) {
		return nil, engine.ErrInvalidUTF8
	}
	return ids, Explain(err)
}

// Decode returns text without special tokens.
func (e *Encoder) Decode(_ context.Context, ids []int32) (string, error) {
	text, err := e.Tokenizer.Decode(ids, true)
	return text, Explain(err)
}

// CheckIDs refuses prompts that are empty, too long, or not of the model's vocabulary.
func (e *Encoder) CheckIDs(ids []int32) error {
	if len(ids) == 0 {
		return engine.ErrEmptyPrompt
	}
	if limit := e.Context; limit > 0 && len(ids) >= limit {
		return &engine.ContextLengthError{Tokens: len(ids), Limit: limit}
	}
	if err := e.CheckVocabulary(ids); err != nil {
		return fmt.Errorf("prompt: %w", err)
	}
	return nil
}

// CheckVocabulary refuses ids that the embedding has no row for: MLX reads past its end. All ids that go to the model must
// have been through here.
func (e *Encoder) CheckVocabulary(ids []int32) error {
	for _, id := range ids {
		if id < 0 || int(id) >= e.VocabSize {
			return &engine.TokenError{ID: id, VocabSize: e.VocabSize}
		}
	}
	return nil
}

// SameTokens compares the tokenizer of a folder with the model's: the files, and where these differ the ids of a text of
// many kinds of characters.
func (e *Encoder) SameTokens(own, from *modelfiles.Source) error {
	const name = "tokenizer.json"
	if ours, err := own.Read(name); err == nil {
		if other, err := from.Read(name); err == nil && bytes.Equal(ours, other) {
			return nil
		}
	}
	other, err := tokenizer.Load(from)
	if err != nil {
		return err
	}
	defer other.Close()
	const text = "The quick brown fox, 1234567890 times;\n\tüber Größe — 速い 🦊 {\"key\": [1.5e-3]}"
	theirs, err := other.Encode(text, true)
	if err != nil {
		return err
	}
	ours, err := e.Encode(context.Background(), text, true)
	if err != nil {
		return err
	}
	if !slices.Equal(ours, theirs) {
		return errors.New("its tokenizer is not the model's: they must be the same")
	}
	return nil
}

// Explain gives errors of a tokenizer that is being closed their public name.
func Explain(err error) error {
	if errors.Is(err, tokenizer.ErrClosed) {
		return engine.ErrClosed
	}
	return err
}

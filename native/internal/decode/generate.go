package decode

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/segment"
	"forge.lthn.ai/core/go-mlx/internal/stop"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// clearEvery is how many tokens pass between returns of MLX's buffer cache, as in mlx-lm.
const clearEvery = 256

// Generate streams tokens; see engine.Engine.
func (sc *Scheduler) Generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions) iter.Seq2[engine.Token, error] {
	return func(yield func(engine.Token, error) bool) {
		left := false // the reader; it must not be called again
		if err := sc.generate(ctx, prompt, options, func(token engine.Token) bool {
			left = !yield(token, nil)
			return !left
		}); err != nil && !left {
			yield(engine.Token{}, err)
		}
	}
}

// generate gives tokens to yield until that returns false, or to the end. It returns what went wrong, also after
// yield returned false, when the caller has no reader to report it to.
func (sc *Scheduler) generate(ctx context.Context, asked engine.Prompt, options engine.GenerateOptions, yield func(engine.Token) bool) (err error) {
	if err := sc.CheckOpen(ctx); err != nil {
		return err
	}
	if err := sc.CheckCausal("generate"); err != nil {
		return err
	}
	if err := options.Validate(sc.Shape.VocabSize); err != nil {
		return err
	}
	if err := sc.checkSupported(options); err != nil {
		return err
	}
	asked.Plain = options.PlainContent && len(asked.Messages) > 0
	ids, err := sc.EncodePrompt(ctx, asked, prompt.TemplateExtras(options))
	if err != nil {
		return err
	}
	if limit := sc.Context; limit > 0 {
		options.MaxTokens = min(options.MaxTokens, limit-len(ids))
	}
	if options.Temperature > 0 && !options.HasSeed {
		options.Seed = engine.RandomSeed()
	}
	end := sync.OnceFunc(sc.Begin())
	defer end()
	r := &reader{text: newTextStream(sc.Tokenizer, options), yield: yield}
	if options.Segments {
		r.splitter = segment.NewSplitter(sc.Marks, sc.OpensReasoning(ids))
	}
	return sc.InTurn(ctx, options.Events, func(over func()) (lost bool, err error) {
		return sc.attempt(ctx, ids, options, r, func() { over(); end() })
	})
}

// reader is the reading side of a request and the tokens that it was given: a stream that gave its memory back and begins anew goes on
// after those.
type reader struct {
	text     *textStream
	splitter *segment.Splitter // nil without segments
	yield    func(engine.Token) bool
	had      []int32
}

// attempt runs one stream, which begins after the tokens that the reader has, and frees it. It returns what went wrong, and whether
// anything was computed. A reader that is busy with a token when ctx ends, or never asks for another one, does not see that: then the stream
// is freed without it, and over is called.
func (sc *Scheduler) attempt(ctx context.Context, ids []int32, options engine.GenerateOptions, r *reader, over func()) (computed bool, err error) {
	matcher, err := sc.NewMatcher(options.Grammar)
	if err != nil {
		return false, err
	}
	st := sc.NewStream(ids, options)
	st.matcher, st.forced = matcher, r.had
	if err := sc.add(ctx, st); err != nil {
		matcher.Close() // the scheduler never saw it
		return false, err
	}
	free := sync.OnceValue(st.Close)
	stop := context.AfterFunc(ctx, func() {
		_ = free() // the reader gets the error, too
		over()
	})
	defer func() {
		stop()
		err = errors.Join(err, free())
		computed = st.computed.Load()
	}()
	return true, sc.relay(ctx, st, r)
}

// checkSupported names the first option that is set and that the engine or the model does not have.
func (sc *Scheduler) checkSupported(o engine.GenerateOptions) error {
	drafts := sc.draft != nil && o.DraftTokens != engine.NoDraft
	switch {
	case o.Segments && sc.MarksErr != nil:
		return &engine.OptionError{Option: "Segments", Reason: sc.MarksErr.Error()}
	case sc.draft == nil && o.DraftTokens > 0:
		return &engine.OptionError{Option: "DraftTokens", Reason: "the model was loaded without a draft model"}
	case drafts && o.MaxKVSize != 0:
		return &engine.OptionError{Option: "MaxKVSize", Reason: "goes without a draft model only"}
	case drafts && o.Grammar.Kind != "":
		return &engine.OptionError{Option: o.Grammar.Option(), Reason: "goes without a draft model only"}
	}
	if o.KVBits != 0 && sc.Shape.HeadDim%o.KVGroupSize != 0 {
		return &engine.OptionError{Option: "QuantizedKV", Reason: fmt.Sprintf("groups of %d do not fit the model's head_dim %d", o.KVGroupSize, sc.Shape.HeadDim)}
	}
	return nil
}

// relay yields what the scheduler computes, with its text, until the stream ends or the reader leaves.
func (sc *Scheduler) relay(ctx context.Context, st *Stream, r *reader) error {
	text := r.text
	for {
		it, err := st.next(ctx)
		if err != nil {
			return prompt.Explain(err)
		}
		if it.event != nil {
			st.options.Events(*it.event)
			continue
		}
		token := it.token
		r.had = append(r.had, token.ID)
		if !st.stops[token.ID] {
			if token.Text, token.StopString, err = text.add(token.ID); err != nil {
				return prompt.Explain(err)
			}
		}
		if token.StopString != "" {
			token.FinishReason = engine.FinishStop
		}
		if len(r.had) == 1 || token.FinishReason != "" {
			token.PromptTokens, token.CachedTokens = len(st.prompt), st.cached
		}
		if token.FinishReason != "" && token.StopString == "" {
			var tail string
			if tail, token.StopString, err = text.finish(); err != nil {
				return prompt.Explain(err)
			}
			token.Text += tail
		}
		if r.splitter != nil {
			token.Segments, token.CallText = r.splitter.Add(token.Text, token.FinishReason != ""), r.splitter.CallText()
		}
		if !r.yield(token) || token.FinishReason != "" {
			return nil
		}
	}
}

// textStream joins stream decoding and stop strings.
type textStream struct {
	decoder *tokenizer.StreamDecoder
	matcher *stop.Matcher
}

// newTextStream keeps special tokens where the marks of segments may be some.
func newTextStream(t *tokenizer.Tokenizer, o engine.GenerateOptions) *textStream {
	return &textStream{decoder: t.NewStreamDecoder(!o.Segments), matcher: stop.NewMatcher(o.Stop)}
}

func (t *textStream) add(id int32) (text, stop string, err error) {
	piece, err := t.decoder.Add(id)
	if err != nil {
		return "", "", err
	}
	text, stop = t.matcher.Add(piece)
	return text, stop, nil
}

// finish flushes what is held back. The flushed bytes may complete a stop string; it is cut off then,
// as anywhere else.
func (t *textStream) finish() (text, stop string, err error) {
	piece, err := t.decoder.Finish()
	if err != nil {
		return "", "", err
	}
	if text, stop = t.matcher.Add(piece); stop != "" {
		return text, stop, nil
	}
	return text + t.matcher.Finish(), "", nil
}

package native

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/segment"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
)

// prefillChunk is how many prompt tokens one pass takes. A cancelled request stops after the chunk
// under way; the python engine uses the same size, so that both engines compute the same passes.
const prefillChunk = 512

// cacheLimit is how many bytes of freed buffers MLX may keep between requests.
const cacheLimit = 256 << 20

// clearEvery is how many tokens pass between returns of MLX's buffer cache, as in mlx-lm.
const clearEvery = 256

// Generate streams tokens; see engine.Engine.
func (m *Model) Generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions) iter.Seq2[engine.Token, error] {
	return func(yield func(engine.Token, error) bool) {
		left := false // the reader; it must not be called again
		if err := m.generate(ctx, prompt, options, func(token engine.Token) bool {
			left = !yield(token, nil)
			return !left
		}); err != nil && !left {
			yield(engine.Token{}, err)
		}
	}
}

// generate gives tokens to yield until that returns false, or to the end. It returns what went wrong, with the reader gone
// too: then there is nobody to tell.
func (m *Model) generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions, yield func(engine.Token) bool) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.isClosed() {
		return engine.ErrClosed
	}
	if err := m.checkCausal("generate"); err != nil {
		return err
	}
	if err := options.Validate(m.shape.vocabSize); err != nil {
		return err
	}
	if err := m.checkSupported(options); err != nil {
		return err
	}
	prompt.Plain = options.PlainContent && len(prompt.Messages) > 0
	ids, err := m.encodePrompt(ctx, prompt, templateExtras(options))
	if err != nil {
		return err
	}
	if limit := m.info.ContextLength; limit > 0 {
		options.MaxTokens = min(options.MaxTokens, limit-len(ids))
	}
	if options.Temperature > 0 && !options.HasSeed {
		options.Seed = engine.RandomSeed()
	}
	matcher, err := m.newMatcher(options.Grammar)
	if err != nil {
		return err
	}
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)

	st := m.newStream(ids, options)
	st.matcher = matcher
	if err := m.add(ctx, st); err != nil {
		matcher.Close() // the scheduler never saw it
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	return m.relay(ctx, st, yield)
}

// checkSupported names the first option that is set and that the engine or the model does not have.
func (m *Model) checkSupported(o engine.GenerateOptions) error {
	switch {
	case o.Segments && m.marksErr != nil:
		return &engine.OptionError{Option: "Segments", Reason: m.marksErr.Error()}
	case m.draft == nil && o.DraftTokens != 0:
		return &engine.OptionError{Option: "DraftTokens", Reason: "the model was loaded without a draft model"}
	case m.draft != nil && o.MaxKVSize != 0:
		return &engine.OptionError{Option: "MaxKVSize", Reason: "goes without a draft model only"}
	case m.draft != nil && o.Grammar.Kind != "":
		return &engine.OptionError{Option: o.Grammar.Option(), Reason: "goes without a draft model only"}
	}
	if o.KVBits != 0 && m.shape.headDim%o.KVGroupSize != 0 {
		return &engine.OptionError{Option: "QuantizedKV", Reason: fmt.Sprintf("groups of %d do not fit the model's head_dim %d", o.KVGroupSize, m.shape.headDim)}
	}
	return nil
}

// templateExtras is what a request gives to the chat template besides its messages.
func templateExtras(o engine.GenerateOptions) map[string]any {
	extras := maps.Clone(o.TemplateArguments)
	if len(o.Tools) > 0 {
		if extras == nil {
			extras = map[string]any{}
		}
		extras["tools"] = o.Tools
	}
	return extras
}

// relay yields what the scheduler computes, with its text, until the stream ends or the reader leaves.
func (m *Model) relay(ctx context.Context, st *stream, yield func(engine.Token) bool) error {
	text := newTextStream(m.tokenizer, st.options)
	var splitter *segment.Splitter
	if st.options.Segments {
		splitter = segment.NewSplitter(m.marks, m.opensReasoning(st.prompt))
	}
	for {
		it, err := st.next(ctx)
		if err != nil {
			return m.explain(err)
		}
		if it.event != nil {
			st.options.Events(*it.event)
			continue
		}
		token := it.token
		if !st.stops[token.ID] {
			if token.Text, token.StopString, err = text.add(token.ID); err != nil {
				return m.explain(err)
			}
		}
		if token.StopString != "" {
			token.FinishReason = engine.FinishStop
		}
		if token.FinishReason != "" {
			token.PromptTokens, token.CachedTokens = len(st.prompt), st.cached
			if token.StopString == "" {
				var tail string
				if tail, token.StopString, err = text.finish(); err != nil {
					return m.explain(err)
				}
				token.Text += tail
			}
		}
		if splitter != nil {
			token.Segments, token.CallText = splitter.Add(token.Text, token.FinishReason != ""), splitter.CallText()
		}
		if !yield(token) || token.FinishReason != "" {
			return nil
		}
	}
}

// textStream joins stream decoding and stop strings.
type textStream struct {
	decoder *tokenizer.StreamDecoder
	matcher *engine.StopMatcher
}

// newTextStream keeps special tokens where the marks of segments may be some.
func newTextStream(t *tokenizer.Tokenizer, o engine.GenerateOptions) *textStream {
	return &textStream{decoder: t.NewStreamDecoder(!o.Segments), matcher: engine.NewStopMatcher(o.Stop)}
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

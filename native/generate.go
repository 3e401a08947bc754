package native

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
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
		if err := m.generate(ctx, prompt, options, yield); err != nil {
			yield(engine.Token{}, err)
		}
	}
}

// generate returns nil also when the reader stopped the stream.
func (m *Model) generate(ctx context.Context, prompt engine.Prompt, options engine.GenerateOptions, yield func(engine.Token, error) bool) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.isClosed() {
		return engine.ErrClosed
	}
	if err := options.Validate(m.shape.vocabSize); err != nil {
		return err
	}
	if err := checkSupported(options); err != nil {
		return err
	}
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
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)

	st := &stream{model: m, state: newDecodeState(m.shape), options: options}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := st.prefill(ctx, ids); err != nil {
		return err
	}
	return st.decode(ctx, len(ids), yield)
}

// checkSupported names the first option that is set and that only the python engine has.
func checkSupported(o engine.GenerateOptions) error {
	for _, c := range []struct {
		name string
		set  bool
	}{
		{"PresencePenalty", o.PresencePenalty != 0},
		{"FrequencyPenalty", o.FrequencyPenalty != 0},
		{"LogitBias", len(o.LogitBias) > 0},
		{"XTC", o.XTCProbability > 0},
		{"Segments", o.Segments},
		{"QuantizedKV", o.KVBits != 0},
		{"MaxKVSize", o.MaxKVSize != 0},
		{"DraftTokens", o.DraftTokens != 0},
	} {
		if c.set {
			return &engine.OptionError{Option: c.name, Reason: "the native engine does not have it; load the model with the python engine"}
		}
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

// stream is one generation. Its arrays belong to the owner thread; the model's registry can free them
// when the model is closed while the stream's reader is between two tokens.
type stream struct {
	model   *Model
	state   *decodeState
	options engine.GenerateOptions
	sampler *sampler
	pending pending
	freed   bool
}

// pending is a token that is being computed, with what its reader wants to know of it. All kept.
type pending struct {
	token   *metal.Array // uint32 [1]
	logprob *metal.Array // float32 [1, 1], or nil
	topIDs  *metal.Array // uint32 [1, k], or nil
	top     *metal.Array // float32 [1, k], or nil
}

func (p pending) arrays() []*metal.Array {
	var out []*metal.Array
	for _, a := range []*metal.Array{p.token, p.logprob, p.topIDs, p.top} {
		if a != nil {
			out = append(out, a)
		}
	}
	return out
}

func (p pending) free() error {
	return errors.Join(p.token.Free(), p.logprob.Free(), p.topIDs.Free(), p.top.Free())
}

// do runs one piece of work on the owner thread in a scope of its own.
func (st *stream) do(ctx context.Context, work func(s *metal.Scope) error) error {
	return st.model.do(ctx, func() (err error) {
		if st.freed {
			return engine.ErrClosed
		}
		st.model.streams[st] = true
		s := st.model.lease.NewScope()
		defer func() { err = errors.Join(err, s.Close()) }()
		if err := work(s); err != nil {
			return err
		}
		return s.Err()
	})
}

// free runs on the owner thread.
func (st *stream) free() error {
	if st.freed {
		return nil
	}
	st.freed = true
	s := st.model.lease.NewScope()
	// Work that was queued ahead still holds buffers; wait for it so that they are all returned.
	errs := []error{s.Synchronize(), st.pending.free(), st.state.free()}
	if st.sampler != nil {
		errs = append(errs, st.sampler.free())
	}
	delete(st.model.streams, st)
	return errors.Join(append(errs, metal.TrimCache(cacheLimit))...)
}

func (st *stream) close() error {
	err := st.model.do(context.Background(), st.free)
	if errors.Is(err, engine.ErrClosed) {
		return nil // the model's Close freed the stream
	}
	return err
}

// prefill runs the prompt through the model, all but its last token in chunks, and starts the first
// token.
func (st *stream) prefill(ctx context.Context, ids []int32) error {
	rest := ids
	for len(rest) > 1 {
		chunk := rest[:min(prefillChunk, len(rest)-1)]
		rest = rest[len(chunk):]
		err := st.do(ctx, func(s *metal.Scope) error {
			st.forward(s, s.FromInts(chunk, 1, len(chunk)))
			if err := s.Eval(st.state.arrays()...); err != nil {
				return err
			}
			return metal.ClearCache()
		})
		if err != nil {
			return err
		}
		st.model.counters.prompt.Add(int64(len(chunk)))
		if st.options.Events != nil {
			st.options.Events(engine.Event{Kind: engine.EventPrefill, Done: int64(len(ids) - len(rest)), Total: int64(len(ids))})
		}
		if st.model.isClosed() {
			return engine.ErrClosed
		}
	}
	st.model.counters.prompt.Add(1)
	return st.do(ctx, func(s *metal.Scope) error {
		st.sampler = newSampler(s, st.options, ids)
		return st.launch(s, s.FromInts(rest, 1, 1))
	})
}

// forward runs tokens [1, T] and returns the states [1, T, hidden].
func (st *stream) forward(s *metal.Scope, ids *metal.Array) *metal.Array {
	st.state.begin(s, ids.Dim(1), st.model.shape.windows)
	return st.model.arch.hidden(s, ids, st.state)
}

// launch starts computing the token after ids [1, 1] and makes it the pending one.
func (st *stream) launch(s *metal.Scope, ids *metal.Array) error {
	h := st.forward(s, ids)
	logits := s.Squeeze(st.model.arch.logits(s, h), 1)
	token, logprobs := st.sampler.sample(s, logits)
	st.sampler.observe(s, token)
	next := pending{token: token}
	if st.options.LogProbs || st.options.TopLogProbs > 0 {
		next.logprob = s.AsType(s.TakeAlong(logprobs, s.ExpandDims(token, 1), -1), metal.Float32)
	}
	if k := st.options.TopLogProbs; k > 0 {
		next.topIDs, next.top = bestTokens(s, logprobs, k)
	}
	if s.Err() != nil {
		return s.Err()
	}
	for _, a := range next.arrays() {
		s.Keep(a)
	}
	st.pending = next
	return s.AsyncEval(append(next.arrays(), st.state.arrays()...)...)
}

// take reads the pending token, after it has started the one behind it if that is wanted.
func (st *stream) take(ctx context.Context, last bool, count int) (token engine.Token, err error) {
	err = st.do(ctx, func(s *metal.Scope) (err error) {
		current := st.pending
		st.pending = pending{}
		defer func() { err = errors.Join(err, current.free()) }()
		if !last {
			if err := st.launch(s, s.Reshape(current.token, 1, 1)); err != nil {
				return err
			}
		}
		token, err = current.read()
		if count%clearEvery == 0 {
			err = errors.Join(err, metal.ClearCache())
		}
		return err
	})
	return token, err
}

func (p pending) read() (engine.Token, error) {
	id, err := p.token.Int()
	if err != nil {
		return engine.Token{}, err
	}
	token := engine.Token{ID: int32(id)}
	if p.logprob != nil {
		if token.LogProb, err = p.logprob.Float(); err != nil {
			return token, err
		}
		if math.IsNaN(float64(token.LogProb)) {
			return token, errors.New("generate: logits are not numbers: the model's weights or their dtype are broken")
		}
	}
	if p.top != nil {
		ids, err := p.topIDs.Ints()
		if err != nil {
			return token, err
		}
		values, err := p.top.Floats()
		if err != nil {
			return token, err
		}
		token.TopLogProbs = sortedLogProbs(ids, values)
	}
	return token, nil
}

// decode yields tokens until one of them ends the stream.
func (st *stream) decode(ctx context.Context, promptTokens int, yield func(engine.Token, error) bool) error {
	m, o := st.model, st.options
	text := newTextStream(m.tokenizer, o.Stop)
	stops := map[int32]bool{}
	for _, id := range o.StopTokens {
		stops[id] = true
	}
	for count := 1; ; count++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		token, err := st.take(ctx, count == o.MaxTokens, count)
		if err != nil {
			return err
		}
		m.counters.generated.Add(1)
		ends := stops[token.ID] || m.eos[token.ID] && !o.IgnoreEOS
		stopped := false
		if !ends {
			if token.Text, stopped, err = text.add(token.ID); err != nil {
				return m.explain(err)
			}
		}
		switch {
		case ends || stopped:
			token.FinishReason = engine.FinishStop
		case count == o.MaxTokens:
			token.FinishReason = engine.FinishLength
		}
		if token.FinishReason != "" {
			token.PromptTokens = promptTokens
			if !stopped {
				tail, err := text.finish()
				if err != nil {
					return m.explain(err)
				}
				token.Text += tail
			}
		}
		if !yield(token, nil) || token.FinishReason != "" {
			return nil
		}
	}
}

// textStream joins stream decoding and stop strings.
type textStream struct {
	decoder *tokenizer.StreamDecoder
	matcher *engine.StopMatcher
}

func newTextStream(t *tokenizer.Tokenizer, stop []string) *textStream {
	return &textStream{decoder: t.NewStreamDecoder(), matcher: engine.NewStopMatcher(stop)}
}

func (t *textStream) add(id int32) (text string, stopped bool, err error) {
	piece, err := t.decoder.Add(id)
	if err != nil {
		return "", false, err
	}
	text, stopped = t.matcher.Add(piece)
	return text, stopped, nil
}

// finish flushes what is held back. The flushed bytes may complete a stop string; it is cut off then,
// as anywhere else.
func (t *textStream) finish() (string, error) {
	piece, err := t.decoder.Finish()
	if err != nil {
		return "", err
	}
	text, stopped := t.matcher.Add(piece)
	if stopped {
		return text, nil
	}
	return text + t.matcher.Finish(), nil
}

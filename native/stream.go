package native

import (
	"context"
	"errors"
	"math"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
)

// stream is one generation between the scheduler, which computes its tokens on the owner thread, and the
// goroutine that reads them. Its arrays belong to the owner thread.
type stream struct {
	model   *Model
	options engine.GenerateOptions
	prompt  []int32
	stops   map[int32]bool // token ids that end it

	// What follows belongs to the owner thread.
	state   *decodeState
	rest    []int32 // prompt tokens that no pass has seen; the last one starts decoding
	sampler *sampler
	pending pending
	count   int // tokens handed out
	freed   bool

	out    chan item
	paused atomic.Bool // the scheduler found no room in out
	ended  atomic.Bool // everything is freed; what is in out is all that comes
}

// item is what the scheduler tells a reader: a token, progress, or the error that ends the stream.
type item struct {
	token  engine.Token
	event  *engine.Event
	err    error
	isLast bool
}

func (m *Model) newStream(ids []int32, options engine.GenerateOptions) *stream {
	st := &stream{
		model: m, options: options, prompt: ids, rest: ids, state: newDecodeState(m.shape), stops: map[int32]bool{},
		out: make(chan item, lookahead+1), // one more, so that an error always has room
	}
	for _, id := range options.StopTokens {
		st.stops[id] = true
	}
	if !options.IgnoreEOS {
		for id := range m.eos {
			st.stops[id] = true
		}
	}
	return st
}

func (st *stream) wantsPrefill() bool { return len(st.rest) > 1 || st.sampler == nil }

// hasRoom reports whether the reader is near enough. A reader that was too far behind and made room since
// kicks the scheduler.
func (st *stream) hasRoom() bool {
	if len(st.out) < lookahead {
		return true
	}
	st.paused.Store(true)
	return len(st.out) < lookahead
}

// prefill runs the next chunk of the prompt. The last token of the prompt is left for the first step.
func (st *stream) prefill(s *metal.Scope) error {
	if st.sampler == nil {
		st.sampler = newSampler(s, st.options, st.prompt, st.model.xtcSpared, st.model.shape.vocabSize)
		if len(st.rest) == 1 {
			return nil
		}
	}
	chunk := st.rest[:min(prefillChunk, len(st.rest)-1)]
	st.state.begin(s, len(chunk), st.model.shape.windows)
	st.model.arch.hidden(s, s.FromInts(chunk, 1, len(chunk)), st.state)
	if err := s.Eval(st.state.arrays()...); err != nil {
		return err
	}
	st.rest = st.rest[len(chunk):]
	st.model.counters.prompt.Add(int64(len(chunk)))
	if st.options.Events != nil {
		st.out <- item{event: &engine.Event{Kind: engine.EventPrefill, Done: int64(len(st.prompt) - len(st.rest)), Total: int64(len(st.prompt))}}
	}
	return metal.ClearCache()
}

// sample makes the token after logits [1, vocab] the pending one and returns what must be evaluated.
func (st *stream) sample(s *metal.Scope, logits *metal.Array) []*metal.Array {
	token, logprobs := st.sampler.sample(s, logits)
	st.sampler.observe(s, token)
	next := pending{token: token}
	if st.options.LogProbs || st.options.TopLogProbs > 0 {
		next.logprob = s.AsType(s.TakeAlong(logprobs, s.ExpandDims(token, 1), -1), metal.Float32)
	}
	if k := st.options.TopLogProbs; k > 0 {
		next.topIDs, next.top = bestTokens(s, logprobs, k)
	}
	for _, a := range next.arrays() {
		s.Keep(a)
	}
	st.pending = next
	return append(next.arrays(), st.state.arrays()...)
}

// deliver hands a token to the reader, and ends the stream if it is the last one.
func (st *stream) deliver(token engine.Token) {
	if st.count++; st.count == 1 {
		st.model.counters.prompt.Add(1)
	}
	st.model.counters.generated.Add(1)
	switch {
	case st.stops[token.ID]:
		token.FinishReason = engine.FinishStop
	case st.count == st.options.MaxTokens:
		token.FinishReason = engine.FinishLength
	default:
		st.out <- item{token: token}
		return
	}
	st.end(item{token: token, isLast: true})
}

// end frees everything; the reader is told why once the pass under way has given back what it holds too.
// It does nothing on a stream that has ended.
func (st *stream) end(last item) {
	if st.freed {
		return
	}
	if err := st.free(); err != nil {
		last = item{err: errors.Join(last.err, err)}
	}
	st.model.endings = append(st.model.endings, ending{st, last})
}

// ending is the last word to a reader.
type ending struct {
	stream *stream
	last   item
}

// tellEndings lets the readers of ended streams go.
func (m *Model) tellEndings() {
	for _, e := range m.endings {
		e.stream.ended.Store(true)
		e.stream.out <- e.last
	}
	m.endings = m.endings[:0]
}

// free gives back what the stream holds.
func (st *stream) free() error {
	if st.freed {
		return nil
	}
	st.freed = true
	st.model.drop(st)
	s := st.model.lease.NewScope()
	// Work that was queued ahead still holds buffers; wait for it so that they are all returned.
	errs := []error{s.Synchronize(), st.pending.free(), st.state.free()}
	if st.sampler != nil {
		errs = append(errs, st.sampler.free())
	}
	return errors.Join(append(errs, metal.TrimCache(cacheLimit))...)
}

// close ends the stream for a reader that leaves.
func (st *stream) close() error {
	if st.ended.Load() {
		return nil
	}
	err := st.model.do(context.Background(), st.free)
	if errors.Is(err, engine.ErrClosed) {
		return nil // the model's Close freed the stream
	}
	return err
}

// next waits for what the scheduler has to tell.
func (st *stream) next(ctx context.Context) (item, error) {
	if err := ctx.Err(); err != nil {
		return item{}, err
	}
	select {
	case it := <-st.out:
		if st.paused.Swap(false) {
			st.model.kick()
		}
		return it, it.err
	case <-ctx.Done():
		return item{}, ctx.Err()
	case <-st.model.closed:
		return item{}, engine.ErrClosed
	}
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

// read waits for the token.
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

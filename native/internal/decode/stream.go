package decode

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// Stream is one generation between the scheduler, which computes its tokens on the owner thread, and the
// goroutine that reads them. Its arrays belong to the owner thread.
type Stream struct {
	Scheduler *Scheduler
	options   engine.GenerateOptions
	prompt    []int32
	stops     map[int32]bool // token ids that end it

	// What follows belongs to the owner thread.
	State     *kv.Sequence
	Batch     *decodeBatch // the batch that it decodes in; nil for none
	rest      []int32      // prompt tokens that no pass has seen; the last one starts decoding
	sampler   *sampler
	cached    int                // tokens of the prompt that the prompt cache had; set before the first token
	matcher   *tokenizer.Matcher // follows the text through a grammar, and is closed with the stream; nil without one
	sampled   int                // tokens drawn
	draft     *drafting          // nil without a draft model
	pending   pending
	made      []int32 // tokens handed out
	forced    []int32 // the first tokens, which the reader has already from an earlier stream: they are made again, and not handed out
	drawn     int     // tokens drawn, by an op for several streams or alone
	branch    int     // where the prompt begins to differ from an earlier one: the KV there is kept; 0 for none
	snapshots []int   // other such places, in order
	quantised bool    // the KV is quantised
	freed     bool

	computed atomic.Bool // a pass for it was computed

	out    chan item
	paused atomic.Bool // the scheduler found no room in out
	ended  atomic.Bool // everything is freed; nothing is added to out any more
}

// item is what the scheduler tells a reader: a token, progress, or the error that ends the stream.
type item struct {
	token engine.Token
	event *engine.Event
	err   error
}

// NewStream makes a stream that no scheduler knows yet.
func (sc *Scheduler) NewStream(ids []int32, options engine.GenerateOptions) *Stream {
	st := &Stream{
		Scheduler: sc, options: options, prompt: ids, rest: ids, State: kv.NewBoundedSequence(&sc.Shape.Layout, options.MaxKVSize),
		stops: map[int32]bool{},
	}
	if sc.Token != nil && options.MaxKVSize == 0 && options.KVBits == 0 {
		sc.Token.Prepare()
	}
	room := Lookahead + 1 // one more, so that an error always has room
	if sc.draft != nil && options.DraftTokens != engine.NoDraft {
		st.draft = newDrafting(sc, st)
		room += st.draft.most
	}
	st.out = make(chan item, room)
	for _, id := range options.StopTokens {
		st.stops[id] = true
	}
	if !options.IgnoreEOS {
		for id := range sc.EOS {
			st.stops[id] = true
		}
	}
	return st
}

// WantsPrefill reports whether there is prompt left before the first token.
func (st *Stream) WantsPrefill() bool { return len(st.rest) > 1 || st.sampler == nil }

// hasRoom reports whether the reader is near enough. A reader that was too far behind and made room since
// kicks the scheduler.
func (st *Stream) hasRoom() bool {
	if len(st.out) < Lookahead {
		return true
	}
	st.paused.Store(true)
	return len(st.out) < Lookahead
}

// Prefill runs the next chunk of the prompt. The last token of the prompt is left for the first step.
func (st *Stream) Prefill(s *mlxc.Scope) error {
	if st.sampler == nil {
		st.begin(s)
		if len(st.rest) == 1 { // all but the last token are known, maybe from a longer state that was cut back
			if err := st.keep(s, st.prompt[:len(st.prompt)-1]); err != nil {
				return err
			}
			return s.Err()
		}
	}
	done := len(st.prompt) - len(st.rest)
	size := min(decoder.PrefillChunk, len(st.rest)-1)
	stop, stops := st.nextStop(done)
	if stops {
		size = min(size, stop-done)
	}
	chunk := st.rest[:size]
	sc := st.Scheduler
	if err := sc.Reserve("the next part of the prompt", func() int64 {
		return st.State.Growth(size) + sc.PassBytes(size, done, 0)
	}); err != nil {
		return err
	}
	sc.Run(s, st.State, s.FromInts(chunk, 1, len(chunk)))
	st.quantize(s)
	if err := s.Eval(st.State.Arrays()...); err != nil {
		return err
	}
	st.computed.Store(true)
	st.rest = st.rest[len(chunk):]
	st.Scheduler.Counters.Prompt.Add(int64(len(chunk)))
	if seen := len(st.prompt) - len(st.rest); stops && seen == stop || len(st.rest) == 1 {
		if err := st.keep(s, st.prompt[:seen]); err != nil {
			return err
		}
	}
	if st.options.Events != nil {
		st.out <- item{event: &engine.Event{Kind: engine.EventPrefill, Done: int64(len(st.prompt) - len(st.rest)), Total: int64(len(st.prompt))}}
	}
	if size < decoder.PrefillChunk {
		return nil // its buffers are few, and the next pass reuses them
	}
	return mlxc.ClearCache()
}

// begin makes the sampler, and goes on from what an earlier request left.
func (st *Stream) begin(s *mlxc.Scope) {
	sc := st.Scheduler
	st.sampler = newSampler(s, st.options, st.prompt, sc.XTCSpared, sc.Shape.VocabSize, st.State.Rings)
	st.sampler.drawBy(s, sc.Drawer)
	if !st.reusable() {
		return
	}
	earlier, n, branch := sc.store.Find(s, st.prompt[:len(st.prompt)-1])
	if earlier != nil {
		st.State, st.rest, st.cached = earlier, st.prompt[n:], n
	}
	if st.branch = branch; sc.Shape.Windowed() {
		st.snapshots = snapshotPlaces(st.prompt, n, sc.EOS, sc.exact)
	}
}

// reusable reports whether the stream's KV is that of any other stream over the same tokens.
func (st *Stream) reusable() bool {
	return st.Scheduler.keeps && st.options.KVBits == 0 && st.options.MaxKVSize == 0
}

// keep leaves the state for later requests that begin with ids, all of which it has seen.
func (st *Stream) keep(s *mlxc.Scope, ids []int32) error {
	if !st.reusable() {
		return nil
	}
	return st.Scheduler.store.Keep(s, ids, st.State, kv.ForPrompts)
}

// quantize packs the KV once it is long enough.
func (st *Stream) quantize(s *mlxc.Scope) {
	if o := st.options; o.KVBits != 0 && !st.quantised && st.State.Position() >= o.KVStart {
		st.State.Quantize(s, mlxc.Quantization{GroupSize: o.KVGroupSize, Bits: o.KVBits})
		st.quantised = true
	}
}

// sample makes the token after logits [1, vocab] the pending one and returns what must be evaluated.
func (st *Stream) sample(s *mlxc.Scope, logits *mlxc.Array) []*mlxc.Array {
	st.quantize(s)
	st.sampled++
	token, logprobs := st.sampler.sample(s, logits)
	if st.drawn < len(st.forced) { // what was drawn before; another batch may round otherwise
		// The sum depends on what was drawn, so reading it waits for the pass, and passes do not pile up.
		token = s.Add(s.Subtract(token, token), s.FromUints([]uint32{uint32(st.forced[st.drawn])}, 1))
	}
	st.sampler.observe(s, token)
	next := pending{token: token}
	if st.options.LogProbs || st.options.TopLogProbs > 0 {
		next.logprob = s.AsType(s.TakeAlong(logprobs, s.ExpandDims(token, 1), -1), mlxc.Float32)
	}
	if k := st.options.TopLogProbs; k > 0 {
		next.topIDs, next.top = decoder.BestTokens(s, logprobs, k)
	}
	return st.await(s, next)
}

// await keeps the next token until it is read and returns what must be evaluated.
func (st *Stream) await(s *mlxc.Scope, next pending) []*mlxc.Array {
	for _, a := range next.arrays() {
		s.Keep(a)
	}
	st.drawn++
	st.pending = next
	return append(next.arrays(), st.State.Arrays()...)
}

// plain reports whether the stream takes the most likely token and wants to know nothing else.
func (st *Stream) plain() bool { return st.onlyToken() && st.sampler.plain() }

// onlyToken reports whether the stream wants a token as its sampler gives it, and to know nothing else.
func (st *Stream) onlyToken() bool {
	o := st.options
	return st.drawn >= len(st.forced) && st.matcher == nil && !o.LogProbs && o.TopLogProbs == 0 && o.KVBits == 0
}

// deliver hands a token to the reader, and ends the stream if it is the last one.
func (st *Stream) deliver(token engine.Token) {
	if st.made = append(st.made, token.ID); len(st.made) == 1 {
		st.computed.Store(true)
		st.Scheduler.Counters.Prompt.Add(1)
	}
	if len(st.made) <= len(st.forced) {
		return
	}
	st.Scheduler.Counters.Generated.Add(1)
	switch {
	case st.stops[token.ID]:
		token.FinishReason = engine.FinishStop
	case len(st.made) == st.options.MaxTokens:
		token.FinishReason = engine.FinishLength
	default:
		st.out <- item{token: token}
		return
	}
	st.end(item{token: token})
}

// end frees everything, and does not panic. The reader is told the reason after the pass under way has freed its memory, too.
// It does nothing on a stream that has ended.
func (st *Stream) end(last item) {
	if st.freed {
		return
	}
	if err := st.Free(last.err == nil); err != nil {
		last = item{err: errors.Join(last.err, err)}
	}
	st.Scheduler.endings = append(st.Scheduler.endings, ending{st, last})
}

// ending is the last item for a reader.
type ending struct {
	stream *Stream
	last   item
}

// tellEndings tells the readers of ended streams that these are over.
func (sc *Scheduler) tellEndings() {
	for _, e := range sc.endings {
		e.stream.ended.Store(true)
		e.stream.out <- e.last
	}
	sc.endings = sc.endings[:0]
}

// Free gives back what the stream holds. With keep, what it has seen is kept for later requests. Whatever fails or panics
// on the way is returned, and does not stop the rest from being freed: a stream is freed once, and nobody can try again.
func (st *Stream) Free(keep bool) error {
	if st.freed {
		return nil
	}
	st.freed = true
	st.Scheduler.drop(st)
	s := st.Scheduler.Lease.NewScope()
	keep = keep && len(st.made) > 0 && st.reusable()
	steps := []func() error{
		func() error { return st.leave(s, keep) },
		func() error {
			if !keep {
				return nil
			}
			// One token of those made may not have been through the model.
			return st.keep(s, append(slices.Clone(st.prompt), st.made...)[:st.State.Position()])
		},
		// Work that was queued ahead still holds buffers; wait for it so that they are all returned.
		s.Synchronize,
		st.pending.free, st.draft.free, st.sampler.free,
		func() error { st.matcher.Close(); return nil },
	}
	for _, c := range st.State.Caches {
		steps = append(steps, c.Free)
	}
	steps = append(steps, s.Close, func() error { return mlxc.TrimCache(owner.CacheLimit) })
	var errs []error
	for _, step := range steps {
		errs = append(errs, owner.Protect(step))
	}
	return errors.Join(errs...)
}

// Close ends the stream for a reader that leaves.
func (st *Stream) Close() error {
	if st.ended.Load() {
		return nil
	}
	err := st.Scheduler.Do(context.Background(), func() error { return st.Free(true) })
	if errors.Is(err, engine.ErrClosed) {
		return nil // the model's Close freed the stream
	}
	return err
}

// next waits for what the scheduler has to tell.
func (st *Stream) next(ctx context.Context) (item, error) {
	if err := ctx.Err(); err != nil {
		return item{}, err
	}
	select {
	case it := <-st.out:
		if st.paused.Swap(false) {
			st.Scheduler.kick()
		}
		return it, it.err
	case <-ctx.Done():
		return item{}, ctx.Err()
	case <-st.Scheduler.Closed:
		return item{}, engine.ErrClosed
	}
}

// pending is a token that is being computed, with what its reader wants to know of it. All kept.
type pending struct {
	token   *mlxc.Array // uint32 [1]
	logprob *mlxc.Array // float32 [1, 1], or nil
	topIDs  *mlxc.Array // uint32 [1, k], or nil
	top     *mlxc.Array // float32 [1, k], or nil
}

func (p pending) arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for _, a := range []*mlxc.Array{p.token, p.logprob, p.topIDs, p.top} {
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
		token.TopLogProbs = decoder.SortedLogProbs(ids, values)
	}
	return token, nil
}

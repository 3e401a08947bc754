package decode

import (
	"context"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// The scheduler computes the streams of a model together: in each round up to a chunk of prompts that wait,
// and one token for every stream whose prompt is done. It runs on the owner thread for as long
// as a stream has something to do, and lets other work in between rounds.

// DefaultBatch is how many streams one pass takes, as in mlx-lm.
const DefaultBatch = 32

// Lookahead is how many tokens a stream may be ahead of its reader.
const Lookahead = 8

// add gives a stream to the scheduler.
func (sc *Scheduler) add(ctx context.Context, st *Stream) error {
	if err := sc.Do(ctx, func() error {
		sc.Streams = append(sc.Streams, st)
		return nil
	}); err != nil {
		return err
	}
	sc.kick()
	return nil
}

// kick makes sure that the scheduler notices a stream that has something to do again.
func (sc *Scheduler) kick() {
	sc.kicks.Add(1)
	if sc.pumping.CompareAndSwap(false, true) {
		go sc.pump()
	}
}

// pump runs rounds until no stream has anything to do.
func (sc *Scheduler) pump() {
	for {
		seen := sc.kicks.Load()
		more := false
		err := sc.Lease.Do(context.Background(), func() { more = sc.rounds() })
		if errors.Is(err, mlxc.ErrReleased) {
			return // the model's Close frees the streams
		}
		if err != nil { // a panic: the streams' states cannot be trusted
			if again := sc.Lease.Do(context.Background(), func() { sc.FailAll(err) }); again != nil {
				// Freeing failed, too. Now it only matters that no reader waits for ever.
				_ = sc.Lease.Do(context.Background(), func() { sc.abandonAll(err) })
			}
		}
		if more {
			continue
		}
		sc.pumping.Store(false)
		if sc.kicks.Load() == seen || !sc.pumping.CompareAndSwap(false, true) {
			return
		}
	}
}

// rounds computes until there is nothing to do, or until other work waits for the thread: then it
// returns true.
func (sc *Scheduler) rounds() bool {
	for sc.round() {
		if sc.Lease.Awaited() {
			return true
		}
	}
	return false
}

// round is at most one chunk's worth of prompts and one token for each stream that can take it. It reports
// whether there was anything to do.
func (sc *Scheduler) round() bool {
	worked := false
	budget := decoder.PrefillChunk // short prompts go together, so that their streams decode together from the start
	for _, st := range slices.Clone(sc.Streams) {
		if budget > 0 && st.WantsPrefill() && st.hasRoom() {
			worked = true
			before := len(st.rest)
			sc.guard([]*Stream{st}, st.Prefill)
			budget -= max(1, before-len(st.rest))
		}
	}
	for _, group := range sc.groups() {
		worked = true
		affected := group
		if b := group[0].Batch; b != nil {
			affected = slices.Clone(b.Members) // their KV is in the same buffers
		}
		sc.guard(affected, func(s *mlxc.Scope) error {
			if st := group[0]; st.draft != nil {
				return sc.speculate(s, st)
			}
			return sc.step(s, group)
		})
	}
	if worked {
		if sc.rounded++; sc.rounded%clearEvery == 0 {
			if err := mlxc.ClearCache(); err != nil {
				sc.FailAll(err)
			}
		}
	}
	return worked
}

// groups are the streams that take a token this round, those of a group in one pass. A stream whose
// reader is too far behind is left out.
func (sc *Scheduler) groups() [][]*Stream {
	var groups [][]*Stream
	var together []*Stream
	batches := map[*decodeBatch][]*Stream{}
	for _, st := range sc.Streams {
		switch {
		case st.WantsPrefill() || !st.hasRoom():
		case st.draft != nil || st.options.Solo && (sc.Token == nil || !st.batchable()):
			groups = append(groups, []*Stream{st})
		case sc.Batching && st.batchable():
			if st.Batch == nil {
				sc.Join(st)
			}
			batches[st.Batch] = append(batches[st.Batch], st)
		default:
			together = append(together, st)
		}
	}
	for _, b := range sc.Batches {
		if ready := batches[b]; len(ready) > 0 {
			groups = append(groups, ready)
		}
	}
	return slices.AppendSeq(groups, slices.Chunk(together, sc.batch))
}

// guard runs one piece of work in a scope of its own; a failure or a panic ends the streams it was for.
func (sc *Scheduler) guard(group []*Stream, work func(s *mlxc.Scope) error) {
	s := sc.Lease.NewScope()
	err := owner.Protect(func() error {
		if err := work(s); err != nil {
			return err
		}
		return s.Err()
	})
	if err = errors.Join(err, s.Close()); err != nil {
		for _, st := range group {
			st.end(item{err: err})
		}
	}
	sc.tellEndings()
}

// FailAll ends every stream with an error.
func (sc *Scheduler) FailAll(err error) {
	for _, st := range slices.Clone(sc.Streams) { // ending one takes it out
		st.end(item{err: err})
	}
	sc.tellEndings()
}

// abandonAll ends every stream for its reader, without a call to MLX.
func (sc *Scheduler) abandonAll(err error) {
	for _, st := range sc.Streams {
		st.freed = true
		st.matcher.Close()
		sc.endings = append(sc.endings, ending{st, item{err: err}})
	}
	sc.Streams, sc.Batches = nil, nil
	sc.tellEndings()
}

// step starts the next token of every stream of a group, in one pass, and hands out the tokens that the
// last pass started: MLX computes ahead while the readers are served.
func (sc *Scheduler) step(s *mlxc.Scope, group []*Stream) error {
	ready := make([]pending, len(group))
	for i, st := range group {
		ready[i], st.pending = st.pending, pending{}
		defer ready[i].free()
	}
	var next []*Stream
	var inputs []*mlxc.Array
	var wanted int64
	for i, st := range group {
		if ready[i].token != nil && len(st.made)+1 == st.options.MaxTokens {
			continue
		}
		needs := wanted // with what the rows before it will take
		if err := sc.Reserve("the next token", func() int64 {
			if b := st.Batch; b == nil || len(b.Members) == 1 && sc.Token == nil {
				needs += st.State.Growth(1)
			} else if len(next) == 0 {
				needs += b.growth()
			}
			needs += sc.PassBytes(1, st.State.Position(), 1)
			return needs
		}); err != nil {
			st.end(item{err: err})
			continue
		}
		wanted = needs
		input := ready[i].token
		if input == nil {
			input = s.FromUints([]uint32{uint32(st.rest[0])}, 1)
		}
		next, inputs = append(next, st), append(inputs, input)
	}
	if len(next) > 0 {
		if err := sc.launch(s, next, inputs); err != nil {
			return err
		}
	}
	for i, st := range group {
		if ready[i].token == nil || st.freed {
			continue
		}
		token, err := ready[i].read()
		if err != nil {
			st.end(item{err: err})
			continue
		}
		st.deliver(token)
	}
	return nil
}

// launch starts computing the tokens that follow inputs, uint32 [1] each, one for each stream.
func (sc *Scheduler) launch(s *mlxc.Scope, group []*Stream, inputs []*mlxc.Array) error {
	logits, rows, err := sc.groupLogits(s, group, inputs)
	if err != nil {
		return err
	}
	wanted := append(drawPlain(s, group, logits, rows), drawTogether(s, group, logits, rows)...)
	if b := group[0].Batch; b != nil {
		wanted = append(wanted, b.arrays()...)
	}
	if slices.ContainsFunc(group, func(st *Stream) bool { return st.matcher != nil }) {
		// A grammar must know the token first; meanwhile the logits after it are computed.
		if err := s.AsyncEval(logits); err != nil {
			return err
		}
	}
	for i, member := range group {
		if member.pending.token != nil {
			continue
		}
		row := s.Slice(logits, 0, int(rows[i]), int(rows[i])+1)
		if member.matcher != nil {
			var over bool
			var err error
			if row, over, err = member.constrain(s, row, inputs[i]); err != nil {
				member.end(item{err: err})
			}
			if err != nil || over {
				continue
			}
		}
		wanted = append(wanted, member.sample(s, row)...)
	}
	return s.AsyncEval(wanted...)
}

// groupLogits takes a token of each stream into its state. It returns the logits after them, and in which of their rows
// those of each stream are.
func (sc *Scheduler) groupLogits(s *mlxc.Scope, group []*Stream, inputs []*mlxc.Array) (logits *mlxc.Array, rows []int32, err error) {
	if b := group[0].Batch; b != nil {
		if len(b.Members) > 1 || sc.Token != nil {
			return b.Logits(s, group, inputs)
		}
		if err := errors.Join(b.restoreCaches(s, group[0]), b.free()); err != nil {
			return nil, nil, err
		}
	}
	for i := range group {
		rows = append(rows, int32(i))
	}
	if len(group) == 1 {
		return sc.NextLogits(s, group[0].State, inputs[0]), rows, nil
	}
	rowsOf := make([]*kv.Sequence, len(group))
	for i, member := range group {
		rowsOf[i] = member.State
	}
	ids := s.ExpandDims(s.Concatenate(0, inputs...), 1)
	return s.Squeeze(sc.Arch.Logits(s, sc.Arch.Hidden(s, ids, kv.NewPass(s, rowsOf, 1))), 1), rows, nil
}

// drawPlain draws for the streams of a group that only take the most likely token, with one op for all of them. Of a
// single one there is nothing to share.
func drawPlain(s *mlxc.Scope, group []*Stream, logits *mlxc.Array, rows []int32) (wanted []*mlxc.Array) {
	if b := group[0].Batch; b != nil && b.Best != nil {
		best := b.Best
		b.Best = nil
		if group[0].plain() {
			return group[0].await(s, pending{token: best})
		}
	}
	var plain []int // in group
	var theirs []int32
	for i, st := range group {
		if st.plain() {
			plain, theirs = append(plain, i), append(theirs, rows[i])
		}
	}
	if len(plain) < 2 {
		return nil
	}
	all := len(plain) == len(group) // then what is drawn for free places does not matter
	if !all {
		logits = s.Take(logits, s.FromInts(theirs, len(theirs)), 0)
	}
	kernels := group[0].sampler.kernels
	tokens := MostLikely(s, logits, decoder.LogProbs(s, logits, kernels), kernels)
	for i, which := range plain {
		row := i
		if all {
			row = int(rows[which])
		}
		wanted = append(wanted, group[which].await(s, pending{token: s.Slice(tokens, 0, row, row+1)})...)
	}
	if b := group[0].Batch; b != nil && all && len(b.rows) > 0 {
		b.drawn = drawnTokens{s.Keep(tokens), make([]*Stream, len(b.rows))}
		for i, st := range group {
			b.drawn.rows[rows[i]] = st
		}
	}
	return wanted
}

// drawTogether draws for the streams of a group that draw from unchanged logits, with one launch for all of them where there is a kernel for that.
func drawTogether(s *mlxc.Scope, group []*Stream, logits *mlxc.Array, rows []int32) (wanted []*mlxc.Array) {
	var together []*Stream
	var theirs []int32
	for i, st := range group {
		if st.pending.token == nil && st.onlyToken() && st.sampler.unchanged() && st.sampler.inOneLaunch(logits) {
			together, theirs = append(together, st), append(theirs, rows[i])
		}
	}
	if len(together) < 2 {
		return nil
	}
	var settings, keys []*mlxc.Array
	for _, st := range together {
		settings, keys = append(settings, st.sampler.settings), append(keys, s.Reshape(st.sampler.nextKey(s), 1, 2))
	}
	drawer := together[0].sampler.drawer
	tokens := drawer.Draw(s, logits, s.FromInts(theirs, len(theirs)), s.Concatenate(0, settings...), s.Concatenate(0, keys...))
	for i, st := range together {
		st.sampled++
		wanted = append(wanted, st.await(s, pending{token: s.Slice(tokens, 0, i, i+1)})...)
	}
	return wanted
}

// drop takes a stream out of the schedule.
func (sc *Scheduler) drop(st *Stream) {
	sc.Streams = slices.DeleteFunc(sc.Streams, func(x *Stream) bool { return x == st })
}

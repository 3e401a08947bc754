package native

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// The scheduler computes the streams of a model together: in each round up to a chunk of prompts that wait,
// and one token for every stream that has its prompt behind it. It runs on the owner thread for as long
// as a stream has something to do, and lets other work in between rounds.

// defaultBatch is how many streams one pass takes, as in mlx-lm.
const defaultBatch = 32

// lookahead is how many tokens a stream may be ahead of its reader.
const lookahead = 8

// scheduler is the streams of a model. What it holds belongs to the owner thread, but for the numbers at the end.
type scheduler struct {
	*network
	*encoder
	draft   *network // proposes tokens; nil without
	prompts *promptCache
	keeps   bool // KV is kept for later requests
	batch   int  // how many streams one pass takes

	streams  []*stream // under way, in the order they came
	batches  []*decodeBatch
	batching bool     // streams share KV buffers: on a GPU
	endings  []ending // streams that ended in the pass under way
	rounded  int

	pumping atomic.Bool  // the scheduler runs
	kicks   atomic.Int64 // grows when a stream may have something to do
}

func newScheduler(n *network, e *encoder, draft *network, prompts *promptCache, options engine.NativeOptions) *scheduler {
	return &scheduler{
		network: n, encoder: e, draft: draft, prompts: prompts, keeps: options.PromptCache > 0, batch: options.Batch,
		batching: n.lease.Device().Name == "gpu",
	}
}

// close frees the streams under way.
func (m *scheduler) close() error {
	if m == nil {
		return nil
	}
	var errs []error
	for _, st := range slices.Clone(m.streams) { // freeing one takes it out
		errs = append(errs, st.free(false))
	}
	return errors.Join(errs...)
}

// bytes is the KV of the streams under way.
func (m *scheduler) bytes() int64 {
	var n int64
	for _, st := range m.streams {
		n += st.state.bytes() + st.draft.bytes()
	}
	for _, b := range m.batches {
		n += b.bytes()
	}
	return n
}

// add gives a stream to the scheduler.
func (m *scheduler) add(ctx context.Context, st *stream) error {
	if err := m.do(ctx, func() error {
		m.streams = append(m.streams, st)
		return nil
	}); err != nil {
		return err
	}
	m.kick()
	return nil
}

// kick makes sure that the scheduler notices a stream that has something to do again.
func (m *scheduler) kick() {
	m.kicks.Add(1)
	if m.pumping.CompareAndSwap(false, true) {
		go m.pump()
	}
}

// pump runs rounds until no stream has anything to do.
func (m *scheduler) pump() {
	for {
		seen := m.kicks.Load()
		more := false
		err := m.lease.Do(context.Background(), func() { more = m.rounds() })
		if errors.Is(err, mlxc.ErrReleased) {
			return // the model's Close frees the streams
		}
		if err != nil { // a panic: the streams' states cannot be trusted
			if again := m.lease.Do(context.Background(), func() { m.failAll(err) }); again != nil {
				// Not even freeing went well. What matters now is that no reader waits for ever.
				_ = m.lease.Do(context.Background(), func() { m.abandonAll(err) })
			}
		}
		if more {
			continue
		}
		m.pumping.Store(false)
		if m.kicks.Load() == seen || !m.pumping.CompareAndSwap(false, true) {
			return
		}
	}
}

// rounds computes until there is nothing to do, or until other work waits for the thread: then it
// returns true.
func (m *scheduler) rounds() bool {
	for m.round() {
		if m.lease.Awaited() {
			return true
		}
	}
	return false
}

// round is at most one chunk's worth of prompts and one token for each stream that can take it. It reports
// whether there was anything to do.
func (m *scheduler) round() bool {
	worked := false
	budget := prefillChunk // short prompts go together, so that their streams decode together from the start
	for _, st := range slices.Clone(m.streams) {
		if budget > 0 && st.wantsPrefill() && st.hasRoom() {
			worked = true
			before := len(st.rest)
			m.guard([]*stream{st}, st.prefill)
			budget -= max(1, before-len(st.rest))
		}
	}
	for _, group := range m.groups() {
		worked = true
		affected := group
		if b := group[0].batch; b != nil {
			affected = slices.Clone(b.members) // their KV is in the same buffers
		}
		m.guard(affected, func(s *mlxc.Scope) error {
			if st := group[0]; st.draft != nil {
				return m.speculate(s, st)
			}
			return m.step(s, group)
		})
	}
	if worked {
		if m.rounded++; m.rounded%clearEvery == 0 {
			if err := mlxc.ClearCache(); err != nil {
				m.failAll(err)
			}
		}
	}
	return worked
}

// groups are the streams that take a token this round, those of a group in one pass. A stream whose
// reader is too far behind sits the round out.
func (m *scheduler) groups() [][]*stream {
	var groups [][]*stream
	var together, packed []*stream // packed have KV that the CPU kernels do not take
	batches := map[*decodeBatch][]*stream{}
	for _, st := range m.streams {
		switch {
		case st.wantsPrefill() || !st.hasRoom():
		case st.draft != nil || st.options.Solo && (m.token == nil || !st.batchable()):
			groups = append(groups, []*stream{st})
		case m.batching && st.batchable():
			if st.batch == nil {
				m.join(st)
			}
			batches[st.batch] = append(batches[st.batch], st)
		case m.shape.rings && !st.state.rings:
			packed = append(packed, st)
		default:
			together = append(together, st)
		}
	}
	for _, b := range m.batches {
		if ready := batches[b]; len(ready) > 0 {
			groups = append(groups, ready)
		}
	}
	groups = slices.AppendSeq(groups, slices.Chunk(together, m.batch))
	return slices.AppendSeq(groups, slices.Chunk(packed, m.batch))
}

// guard runs one piece of work in a scope of its own; a failure or a panic ends the streams it was for.
func (m *scheduler) guard(group []*stream, work func(s *mlxc.Scope) error) {
	s := m.lease.NewScope()
	err := protect(func() error {
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
	m.tellEndings()
}

// failAll ends every stream with an error.
func (m *scheduler) failAll(err error) {
	for _, st := range slices.Clone(m.streams) { // ending one takes it out
		st.end(item{err: err})
	}
	m.tellEndings()
}

// abandonAll lets every reader go without a call to MLX.
func (m *scheduler) abandonAll(err error) {
	for _, st := range m.streams {
		st.freed = true
		st.matcher.Close()
		m.endings = append(m.endings, ending{st, item{err: err}})
	}
	m.streams, m.batches = nil, nil
	m.tellEndings()
}

// step starts the next token of every stream of a group, in one pass, and hands out the tokens that the
// last pass started: MLX computes ahead while the readers are served.
func (m *scheduler) step(s *mlxc.Scope, group []*stream) error {
	ready := make([]pending, len(group))
	for i, st := range group {
		ready[i], st.pending = st.pending, pending{}
		defer ready[i].free()
	}
	var next []*stream
	var inputs []*mlxc.Array
	var wanted int64
	for i, st := range group {
		if ready[i].token != nil && len(st.made)+1 == st.options.MaxTokens {
			continue
		}
		needs := wanted // with what the rows before it will take
		if err := m.reserve("the next token", func() int64 {
			if b := st.batch; b == nil || len(b.members) == 1 && m.token == nil {
				needs += st.state.growth(1)
			} else if len(next) == 0 {
				needs += b.growth()
			}
			needs += m.passBytes(1, st.state.position(), 1)
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
		if err := m.launch(s, next, inputs); err != nil {
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
func (m *scheduler) launch(s *mlxc.Scope, group []*stream, inputs []*mlxc.Array) error {
	logits, rows, err := m.groupLogits(s, group, inputs)
	if err != nil {
		return err
	}
	wanted := drawPlain(s, group, logits, rows)
	if b := group[0].batch; b != nil {
		wanted = append(wanted, b.arrays()...)
	}
	if slices.ContainsFunc(group, func(st *stream) bool { return st.matcher != nil }) {
		// A grammar must know the token first; meanwhile the logits behind it are computed.
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

// groupLogits takes a token of each stream into its state. It returns the logits behind them, and in which of their rows
// those of each stream are.
func (m *scheduler) groupLogits(s *mlxc.Scope, group []*stream, inputs []*mlxc.Array) (logits *mlxc.Array, rows []int32, err error) {
	if b := group[0].batch; b != nil {
		if len(b.members) > 1 || m.token != nil {
			return b.logits(s, group, inputs)
		}
		if err := errors.Join(b.stand(s, group[0]), b.free()); err != nil {
			return nil, nil, err
		}
	}
	for i := range group {
		rows = append(rows, int32(i))
	}
	if len(group) == 1 {
		return m.nextLogits(s, group[0].state, inputs[0]), rows, nil
	}
	rowsOf := make([]*Sequence, len(group))
	for i, member := range group {
		rowsOf[i] = member.state
	}
	ids := s.ExpandDims(s.Concatenate(0, inputs...), 1)
	return s.Squeeze(m.arch.logits(s, m.arch.hidden(s, ids, newPass(s, rowsOf, 1))), 1), rows, nil
}

// drawPlain draws for the streams of a group that only take the most likely token, with one op for all of them. Of a
// single one there is nothing to share.
func drawPlain(s *mlxc.Scope, group []*stream, logits *mlxc.Array, rows []int32) (wanted []*mlxc.Array) {
	if b := group[0].batch; b != nil && b.best != nil {
		best := b.best
		b.best = nil
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
	all := len(plain) == len(group) // then rows of nobody do not matter
	if !all {
		logits = s.Take(logits, s.FromInts(theirs, len(theirs)), 0)
	}
	kernels := group[0].sampler.kernels
	tokens := mostLikely(s, logits, logProbs(s, logits, kernels), kernels)
	for i, which := range plain {
		row := i
		if all {
			row = int(rows[which])
		}
		wanted = append(wanted, group[which].await(s, pending{token: s.Slice(tokens, 0, row, row+1)})...)
	}
	if b := group[0].batch; b != nil && all && len(b.rows) > 0 {
		b.drawn = drawnTokens{s.Keep(tokens), make([]*stream, len(b.rows))}
		for i, st := range group {
			b.drawn.rows[rows[i]] = st
		}
	}
	return wanted
}

// drop takes a stream out of the schedule.
func (m *scheduler) drop(st *stream) {
	m.streams = slices.DeleteFunc(m.streams, func(x *stream) bool { return x == st })
}

package decode

import (
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// MaxPadding bounds how much larger a batch's buffers may be than what its streams fill, when one joins.
const MaxPadding = 4

// decodeBatch is streams that decode together on a GPU, where a few large kernels cost the host less than many small
// ones: for each layer the KV of all lies in one buffer, in which every stream has a place (an index of the buffer's first axis). A
// place keeps its positions in the order of a cache of the stream's own, so nothing is padded on the left, and no stream's KV is
// moved when another joins or leaves. A stream that is alone in its batch has its KV in its own caches. Only the owner thread uses it.
type decodeBatch struct {
	network *decoder.Network
	Members []*Stream // some may not have a place yet
	rows    []*Stream // the stream at each place; nil for a free one
	layers  []kv.Batched
	drawn   drawnTokens
	Best    *mlxc.Array // the most likely token after the last one, of the scope of its pass; nil if the pass did not say
}

// drawnTokens are the tokens that one op drew for several places, uint32 [places]: the next step takes them as they are, or
// drops them.
type drawnTokens struct {
	tokens *mlxc.Array
	rows   []*Stream // nil where the token must not be used
}

func (d *drawnTokens) free() error {
	err := d.tokens.Free()
	*d = drawnTokens{}
	return err
}

// batchable reports whether a stream can have a place: its caches must have something to put there, and be for MLX's ops.
func (st *Stream) batchable() bool {
	return !st.State.Rings && st.options.KVBits == 0 && st.State.Position() > 0
}

// Join puts a stream into a batch of streams that are about as long, or into a new one.
func (sc *Scheduler) Join(st *Stream) {
	for _, b := range sc.Batches {
		if len(b.Members) < sc.batch && !st.options.Solo && !b.Members[0].options.Solo && b.suits(st) {
			st.Batch = b
			b.Members = append(b.Members, st)
			return
		}
	}
	st.Batch = &decodeBatch{network: sc.Network, Members: []*Stream{st}}
	sc.Batches = append(sc.Batches, st.Batch)
}

// suits reports whether the batch with one more stream would be filled well enough.
func (b *decodeBatch) suits(st *Stream) bool {
	longest, sum := kv.RoomFor(st.State.Position()+1, 0), kv.RoomFor(st.State.Position()+1, 0)
	for _, member := range b.Members {
		n := kv.RoomFor(member.State.Position()+1, 0)
		longest, sum = max(longest, n), sum+n
	}
	return (len(b.Members)+1)*longest <= MaxPadding*sum
}

// leave takes a stream out of its batch. With keep its KV is copied back to its own caches; without, they are empty.
func (st *Stream) leave(s *mlxc.Scope, keep bool) error {
	b := st.Batch
	if b == nil {
		return nil
	}
	var err error
	if keep {
		err = b.restoreCaches(s, st)
	}
	if i := slices.Index(b.rows, st); i >= 0 {
		b.rows[i] = nil
	}
	st.Batch = nil
	b.Members = slices.DeleteFunc(b.Members, func(x *Stream) bool { return x == st })
	if len(b.Members) == 0 {
		err = errors.Join(err, b.free())
		sc := st.Scheduler
		sc.Batches = slices.DeleteFunc(sc.Batches, func(x *decodeBatch) bool { return x == b })
	}
	return err
}

// restoreCaches copies the KV of a stream from its place back into caches of its own. Streams without a place have theirs already.
func (b *decodeBatch) restoreCaches(s *mlxc.Scope, st *Stream) error {
	place := slices.Index(b.rows, st)
	if place < 0 {
		return nil
	}
	for i, c := range st.Slotted() {
		next := c.Next()
		held := next.Filled
		if held == st.State.Position()+1 {
			held-- // a place for the next position was counted already
		}
		room := min(kv.RoomFor(next.Filled, st.bound(i)), b.layers[i].Room())
		keys, values := b.layers[i].Get(s, place, held, room)
		c.Restore(s, keys, values)
	}
	b.rows[place] = nil
	return s.AsyncEval(st.State.Arrays()...) // now: MLX cannot write to the buffers in place while copies of them are to be computed
}

// Slotted are the caches of a batchable stream.
func (st *Stream) Slotted() []kv.Slotted {
	out := make([]kv.Slotted, len(st.State.Caches))
	for i, c := range st.State.Caches {
		out[i] = c.(kv.Slotted)
	}
	return out
}

// rooms is how many positions every layer's buffer must have for all members.
func (b *decodeBatch) rooms() []int {
	out := make([]int, len(b.network.Shape.Windows))
	for _, st := range b.Members {
		for i, c := range st.Slotted() {
			out[i] = max(out[i], kv.RoomFor(c.Next().Filled, st.bound(i)))
		}
	}
	return out
}

// bound is how many positions a layer of the stream holds at most; 0 for no bound.
func (st *Stream) bound(layer int) int {
	if window := st.Scheduler.Shape.Windows[layer]; window > 0 {
		return window
	}
	return st.options.MaxKVSize
}

// places is how many places there should be: a power of two, so that few shapes occur.
func (b *decodeBatch) places() int {
	n, have := 2, len(b.rows)
	if len(b.Members) == 1 {
		n = 1
	}
	for n < len(b.Members) {
		n *= 2
	}
	if n <= have && have < 4*n {
		return have
	}
	return n
}

// growth is the bytes of the buffers that the next step makes.
func (b *decodeBatch) growth() int64 {
	places, positions := b.places(), 0
	for i, room := range b.rooms() {
		if len(b.layers) == 0 || places != len(b.rows) || room > b.layers[i].Room() {
			positions += room
		}
	}
	return int64(places*positions) * b.network.Shape.PositionBytes()
}

// assignPlaces gives every member a place in the buffers.
func (b *decodeBatch) assignPlaces(s *mlxc.Scope) error {
	if b.layers == nil {
		b.layers = make([]kv.Batched, len(b.network.Shape.Windows))
	}
	places := b.places()
	if places < len(b.rows) {
		b.compact(s, places)
	}
	newcomers := slices.DeleteFunc(slices.Clone(b.Members), func(st *Stream) bool { return slices.Contains(b.rows, st) })
	rooms := b.rooms()
	like := slices.Concat(b.layers[0].Arrays(), b.Members[0].State.Arrays())[0]
	for i := range b.layers {
		b.layers[i].Resize(s, places, rooms[i], like)
	}
	b.rows = append(b.rows, make([]*Stream, places-len(b.rows))...)
	for _, st := range newcomers {
		place := slices.Index(b.rows, nil)
		b.rows[place] = st
		for i, c := range st.Slotted() {
			keys, values, _ := c.Slot(s)
			b.layers[i].Put(s, place, keys, values)
			if err := c.Detach(); err != nil {
				return err
			}
		}
	}
	return s.Err()
}

// compact moves the streams that have places to the first ones.
func (b *decodeBatch) compact(s *mlxc.Scope, places int) {
	var taken, free []int32
	var rows []*Stream
	for i, st := range b.rows {
		if st == nil {
			free = append(free, int32(i))
			continue
		}
		rows, taken = append(rows, st), append(taken, int32(i))
	}
	index := s.FromInts(append(taken, free...)[:places], places)
	for i := range b.layers {
		b.layers[i].Select(s, index)
	}
	b.rows = append(rows, make([]*Stream, places-len(rows))...)
	if err := b.drawn.free(); err != nil {
		s.Fail(err)
	}
}

// Logits takes a token of some of the members into their states. It returns the logits [places, vocab], and which of the
// rows are those of the group.
func (b *decodeBatch) Logits(s *mlxc.Scope, group []*Stream, inputs []*mlxc.Array) (logits *mlxc.Array, rows []int32, err error) {
	if b.network.Token != nil && len(group) == 1 {
		logits, err = b.tokenLogits(s, group[0], inputs[0])
		return logits, []int32{0}, err
	}
	if err := b.assignPlaces(s); err != nil {
		return nil, nil, err
	}
	for _, st := range group {
		rows = append(rows, int32(slices.Index(b.rows, st)))
	}
	var kv []*mlxc.Array
	for i := range b.layers {
		kv = append(kv, b.layers[i].Arrays()...)
	}
	logits, kv = b.network.TokenPass(s, b.tokens(s, group, rows, inputs), b.where(s), kv)
	for i := range b.layers {
		b.layers[i].Fill(s, kv[2*i], kv[2*i+1])
	}
	for _, st := range group {
		for _, c := range st.Slotted() {
			c.Advance()
		}
	}
	return logits, rows, s.Err()
}

// tokens is the next token at every place, uint32 [places, 1]. Places that are not of the group may get any token: its KV is written
// where their next position will be, which overwrites it.
func (b *decodeBatch) tokens(s *mlxc.Scope, group []*Stream, rows []int32, inputs []*mlxc.Array) *mlxc.Array {
	known := len(b.drawn.rows) == len(b.rows)
	for i, st := range group {
		known = known && b.drawn.rows[rows[i]] == st
	}
	// They are good for this step only, whether it takes them or not: the tokens of the next one may be drawn otherwise.
	var drawn *mlxc.Array
	if known {
		drawn = s.Reshape(s.Share(b.drawn.tokens), len(b.rows), 1)
	}
	if err := b.drawn.free(); err != nil {
		s.Fail(err)
	}
	if known {
		return drawn
	}
	all := slices.Repeat([]*mlxc.Array{s.FromUints([]uint32{0}, 1)}, len(b.rows))
	for i, row := range rows {
		all[row] = inputs[i]
	}
	return s.ExpandDims(s.Concatenate(0, all...), 1)
}

// where is what TokenPass wants to know of the places, int32 [1 + 2 kinds, places].
func (b *decodeBatch) where(s *mlxc.Scope) *mlxc.Array {
	kinds, places := b.network.Kinds.First, len(b.rows)
	out := make([]int32, (1+2*len(kinds))*places)
	for place, st := range b.rows {
		if st == nil {
			for kind := range kinds { // something must be held, or the attention's result would be NaN
				out[(2+2*kind)*places+place] = 1
			}
			continue
		}
		out[place] = int32(st.State.Position())
		for kind, first := range kinds {
			next := st.State.Caches[first].(kv.Slotted).Next()
			out[(1+2*kind)*places+place], out[(2+2*kind)*places+place] = int32(next.At), int32(next.Filled)
		}
	}
	return s.FromInts(out, 1+2*len(kinds), places)
}

func (b *decodeBatch) arrays() []*mlxc.Array {
	var out []*mlxc.Array
	for i := range b.layers {
		out = append(out, b.layers[i].Arrays()...)
	}
	return out
}

func (b *decodeBatch) bytes() int64 {
	var n int64
	for i := range b.layers {
		n += b.layers[i].Bytes()
	}
	return n
}

// free frees the buffers. Streams that still need their KV must have copied it out with restoreCaches.
func (b *decodeBatch) free() error {
	errs := []error{b.drawn.free()}
	for i := range b.layers {
		errs = append(errs, b.layers[i].Free())
	}
	b.layers, b.rows = nil, nil
	return errors.Join(errs...)
}

package score

import (
	"context"
	"encoding/binary"
	"errors"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"slices"
)

// MaxPrefixes is how many shared prefixes keep their KV between calls: callers switch between a few
// sets of labels at most.
const MaxPrefixes = 4

// prefixCache keeps the KV of the instruction that stands before every text of a classification, so
// that it is prefilled once a model and not once a text. It belongs to the owner thread.
type prefixCache struct {
	Entries []prefixEntry // most recently used last
}

type prefixEntry struct {
	key string
	kv  *kv.History
}

// get returns the KV of a prefix, making it if need be. An empty prefix has an empty history.
func (c *prefixCache) get(ctx context.Context, sc *Scorer, ids []int32) (*kv.History, error) {
	if len(ids) == 0 {
		return &kv.History{}, nil
	}
	key := prefixKey(ids)
	for i, e := range c.Entries {
		if e.key == key {
			c.Entries = append(slices.Delete(c.Entries, i, i+1), e)
			return e.kv, nil
		}
	}
	kv, err := sc.PrefillPrefix(ctx, ids)
	if err != nil {
		return nil, err
	}
	sc.Counters.Prompt.Add(int64(len(ids)))
	c.Entries = append(c.Entries, prefixEntry{key, kv})
	if len(c.Entries) > MaxPrefixes {
		oldest := c.Entries[0]
		c.Entries = slices.Delete(c.Entries, 0, 1)
		return kv, oldest.kv.Free()
	}
	return kv, nil
}

func prefixKey(ids []int32) string {
	var key []byte
	for _, id := range ids {
		key = binary.LittleEndian.AppendUint32(key, uint32(id))
	}
	return string(key)
}

// PrefillPrefix computes the KV of a prefix a chunk at a time, and looks at the context between two.
func (sc *Scorer) PrefillPrefix(ctx context.Context, ids []int32) (*kv.History, error) {
	made := &kv.History{}
	for chunk := range slices.Chunk(ids, decoder.PrefillChunk) {
		err := ctx.Err()
		var longer *kv.History
		if err == nil {
			longer, err = sc.ExtendPrefix(made, chunk)
		}
		if err = errors.Join(err, made.Free()); err != nil {
			if longer != nil {
				err = errors.Join(err, longer.Free())
			}
			return nil, err
		}
		made = longer
	}
	return made, nil
}

// ExtendPrefix is a history of its own of what past has seen and ids.
func (sc *Scorer) ExtendPrefix(past *kv.History, ids []int32) (_ *kv.History, err error) {
	if err := sc.Reserve("the prefix of the texts", func() int64 {
		positions := (past.Length + len(ids)) * len(sc.Shape.Windows)
		return 2*int64(positions)*sc.Shape.PositionBytes() + sc.PassBytes(len(ids), past.Length, 0)
	}); err != nil {
		return nil, err
	}
	s := sc.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close()) }()
	if sc.Shape.Rings {
		state := sc.NewSequence()
		if past.Sequence != nil {
			state = past.Sequence.Share(s)
		}
		sc.Run(s, state, s.FromInts(ids, 1, len(ids)))
		if err := s.Eval(state.Arrays()...); err != nil {
			return nil, errors.Join(err, state.Free())
		}
		return &kv.History{Sequence: state, Length: past.Length + len(ids)}, nil
	}
	pass, row := kv.NewHistoryPass(s, past, len(ids), sc.Shape.Windows)
	sc.Arch.Hidden(s, s.FromInts(ids, 1, len(ids)), pass)
	made := row.Seen
	if err := s.Eval(slices.Concat(made.Keys, made.Values)...); err != nil {
		return nil, err
	}
	for i := range made.Keys {
		// Copies of their own: the arrays above may be views of larger buffers.
		made.Keys[i], made.Values[i] = s.Contiguous(made.Keys[i]), s.Contiguous(made.Values[i])
	}
	if err := s.Eval(slices.Concat(made.Keys, made.Values)...); err != nil {
		return nil, err
	}
	for i := range made.Keys {
		s.Keep(made.Keys[i])
		s.Keep(made.Values[i])
	}
	return &made, nil
}

func (c *prefixCache) Bytes() int64 {
	var n int64
	for _, e := range c.Entries {
		n += e.kv.Bytes()
	}
	return n
}

func (c *prefixCache) Free() error {
	var errs []error
	for _, e := range c.Entries {
		errs = append(errs, e.kv.Free())
	}
	c.Entries = nil
	return errors.Join(errs...)
}

// CommonPrefix is the longest beginning that all lists share, short of the last id of each: a row needs
// a token of its own.
func CommonPrefix(lists ...[]int32) []int32 {
	prefix := lists[0][:len(lists[0])-1]
	for _, ids := range lists[1:] {
		prefix = prefix[:kv.CommonLength(prefix, ids[:len(ids)-1])]
	}
	return prefix
}

package native

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
)

// maxPrefixes is how many shared prefixes keep their KV between calls: callers switch between a few
// sets of labels at most.
const maxPrefixes = 4

// prefixCache keeps the KV of the instruction that stands before every text of a classification, so
// that it is prefilled once a model and not once a text. It belongs to the owner thread.
type prefixCache struct {
	entries []prefixEntry // most recently used last
}

type prefixEntry struct {
	key string
	kv  *History
}

// get returns the KV of a prefix, making it if need be. An empty prefix has an empty history.
func (c *prefixCache) get(ctx context.Context, m *scorer, ids []int32) (*History, error) {
	if len(ids) == 0 {
		return &History{}, nil
	}
	key := prefixKey(ids)
	for i, e := range c.entries {
		if e.key == key {
			c.entries = append(slices.Delete(c.entries, i, i+1), e)
			return e.kv, nil
		}
	}
	kv, err := m.prefillPrefix(ctx, ids)
	if err != nil {
		return nil, err
	}
	m.counters.prompt.Add(int64(len(ids)))
	c.entries = append(c.entries, prefixEntry{key, kv})
	if len(c.entries) > maxPrefixes {
		oldest := c.entries[0]
		c.entries = slices.Delete(c.entries, 0, 1)
		return kv, oldest.kv.free()
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

// prefillPrefix computes the KV of a prefix a chunk at a time, and looks at the context between two.
func (m *scorer) prefillPrefix(ctx context.Context, ids []int32) (*History, error) {
	kv := &History{}
	for chunk := range slices.Chunk(ids, prefillChunk) {
		err := ctx.Err()
		var longer *History
		if err == nil {
			longer, err = m.extendPrefix(kv, chunk)
		}
		if err = errors.Join(err, kv.free()); err != nil {
			if longer != nil {
				err = errors.Join(err, longer.free())
			}
			return nil, err
		}
		kv = longer
	}
	return kv, nil
}

// extendPrefix is a history of its own of what past has seen and ids.
func (m *scorer) extendPrefix(past *History, ids []int32) (_ *History, err error) {
	if err := m.reserve("the prefix of the texts", func() int64 {
		positions := (past.length + len(ids)) * len(m.shape.windows)
		return 2*int64(positions)*m.shape.positionBytes() + m.passBytes(len(ids), past.length, 0)
	}); err != nil {
		return nil, err
	}
	s := m.lease.NewScope()
	defer func() { err = errors.Join(err, s.Close()) }()
	if m.shape.rings {
		state := m.newSequence()
		if past.sequence != nil {
			state = past.sequence.share(s)
		}
		m.run(s, state, s.FromInts(ids, 1, len(ids)))
		if err := s.Eval(state.arrays()...); err != nil {
			return nil, errors.Join(err, state.free())
		}
		return &History{sequence: state, length: past.length + len(ids)}, nil
	}
	pass, row := newHistoryPass(s, past, len(ids), m.shape.windows)
	m.arch.hidden(s, s.FromInts(ids, 1, len(ids)), pass)
	kv := row.seen
	if err := s.Eval(slices.Concat(kv.keys, kv.values)...); err != nil {
		return nil, err
	}
	for i := range kv.keys {
		// Copies of their own: the arrays above may be views of larger buffers.
		kv.keys[i], kv.values[i] = s.Contiguous(kv.keys[i]), s.Contiguous(kv.values[i])
	}
	if err := s.Eval(slices.Concat(kv.keys, kv.values)...); err != nil {
		return nil, err
	}
	for i := range kv.keys {
		s.Keep(kv.keys[i])
		s.Keep(kv.values[i])
	}
	return &kv, nil
}

func (c *prefixCache) bytes() int64 {
	var n int64
	for _, e := range c.entries {
		n += e.kv.bytes()
	}
	return n
}

func (c *prefixCache) free() error {
	var errs []error
	for _, e := range c.entries {
		errs = append(errs, e.kv.free())
	}
	c.entries = nil
	return errors.Join(errs...)
}

// commonPrefix is the longest beginning that all lists share, short of the last id of each: a row needs
// a token of its own.
func commonPrefix(lists ...[]int32) []int32 {
	prefix := lists[0][:len(lists[0])-1]
	for _, ids := range lists[1:] {
		prefix = prefix[:commonLength(prefix, ids[:len(ids)-1])]
	}
	return prefix
}

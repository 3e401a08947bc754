package score

import (
	"context"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// sharedKV returns the KV of the instruction that precedes every text of a classification, for the caller to free. The store keeps
// it, so that it is prefilled once per model and not once per text. An empty prefix has an empty history.
func (sc *Scorer) sharedKV(ctx context.Context, ids []int32) (*kv.History, error) {
	if len(ids) == 0 {
		return &kv.History{}, nil
	}
	known := &kv.History{}
	if err := sc.inScope(func(s *mlxc.Scope) error {
		if !sc.Shape.Rings {
			if h := sc.store.FindHistory(s, ids); h != nil {
				known = h
			}
		} else if st, n, _ := sc.store.Find(s, ids); st != nil {
			known = &kv.History{Sequence: st, Length: n}
		}
		return s.Err()
	}); err != nil {
		return nil, errors.Join(err, known.Free())
	}
	if known.Length == len(ids) {
		return known, nil
	}
	rest := ids[known.Length:]
	made, err := sc.PrefillPrefix(ctx, known, rest)
	if err != nil {
		return nil, err
	}
	sc.Counters.Prompt.Add(int64(len(rest)))
	if err := sc.inScope(func(s *mlxc.Scope) error {
		if made.Sequence != nil {
			return sc.store.Keep(s, ids, made.Sequence, kv.ForPrefixes)
		}
		return sc.store.KeepHistory(s, ids, made, kv.ForPrefixes)
	}); err != nil {
		return nil, errors.Join(err, made.Free())
	}
	return made, nil
}

// inScope runs work, on the owner thread already, in a scope of its own.
func (sc *Scorer) inScope(work func(s *mlxc.Scope) error) error {
	s := sc.Lease.NewScope()
	return errors.Join(work(s), s.Close())
}

// PrefillPrefix goes on from a history, which it frees, a chunk at a time, and looks at the context between two.
func (sc *Scorer) PrefillPrefix(ctx context.Context, past *kv.History, ids []int32) (*kv.History, error) {
	for chunk := range slices.Chunk(ids, decoder.PrefillChunk) {
		err := ctx.Err()
		var longer *kv.History
		if err == nil {
			longer, err = sc.ExtendPrefix(past, chunk)
		}
		if err = errors.Join(err, past.Free()); err != nil {
			if longer != nil {
				err = errors.Join(err, longer.Free())
			}
			return nil, err
		}
		past = longer
	}
	return past, nil
}

// manyScores is the size of one layer's attention scores, in float32, from which on not several layers' are to be held at a time.
const manyScores = 2 << 20

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
	if sc.AttentionBytes(len(ids), past.Length+len(ids)) > manyScores {
		row.ReleaseLayers(pass)
	}
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

// commonPrefix is the longest beginning that all lists share, short of the last id of each: a row needs
// a token of its own.
func commonPrefix(lists ...[]int32) []int32 {
	prefix := lists[0][:len(lists[0])-1]
	for _, ids := range lists[1:] {
		prefix = prefix[:kv.CommonLength(prefix, ids[:len(ids)-1])]
	}
	return prefix
}

package native

import (
	"context"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Long texts. One pass over n tokens makes n*n attention scores for each head, so a text beyond maxBatchTokens is not put
// into a batch: like a prompt it goes through the model in chunks, into KV caches that forget what windows have passed. Each
// chunk is a job of its own on the owner thread: other requests go on between two of them, and a context that ends is noticed.

// maxBatchPositions bounds the positions, those of a shared prefix counted for each row, whose keys and values a pass holds.
const maxBatchPositions = 16 * maxBatchTokens

// isLong reports whether so many tokens behind a prefix are too many for one pass.
func isLong(prefix, tokens int) bool { return tokens > prefillChunk && prefix+tokens > maxBatchTokens }

// splitLong moves the long rows behind the others.
func splitLong(rows []scoreRow) (short, long []scoreRow) {
	for _, row := range rows {
		if isLong(len(row.prefix), len(row.ids)) {
			long = append(long, row)
		} else {
			short = append(short, row)
		}
	}
	return short, long
}

// inChunks lets ids go through the model a chunk at a time. each, on the owner thread, is given the states of a chunk,
// [1, n, hidden], whose first token is at position from; what it wants of them it must evaluate. The caller forgets the state
// that is returned.
func (m *scorer) inChunks(ctx context.Context, ids []int32, each func(s *mlxc.Scope, from int, h *mlxc.Array) error) (*Sequence, error) {
	st := m.newSequence()
	for from := 0; from < len(ids); from += prefillChunk {
		chunk := ids[from:min(from+prefillChunk, len(ids))]
		if err := m.job(ctx, func(s *mlxc.Scope) error {
			if from == 0 {
				m.scored = append(m.scored, st)
			}
			if err := m.reserve("the next part of a text", func() int64 {
				return st.growth(len(chunk)) + m.passBytes(len(chunk), from, 1)
			}); err != nil {
				return err
			}
			h := m.run(s, st, s.FromInts(chunk, 1, len(chunk)))
			if err := each(s, from, h); err != nil {
				return err
			}
			m.counters.prompt.Add(int64(len(chunk)))
			return errors.Join(s.Eval(st.arrays()...), mlxc.ClearCache())
		}); err != nil {
			return nil, errors.Join(err, m.forget(st))
		}
	}
	return st, nil
}

// forget frees a state of inChunks. The model's Close has freed it if it came first.
func (m *scorer) forget(st *Sequence) error {
	err := m.do(context.Background(), func() error {
		m.scored = slices.DeleteFunc(m.scored, func(x *Sequence) bool { return x == st })
		return errors.Join(st.free(), mlxc.TrimCache(cacheLimit))
	})
	if errors.Is(err, engine.ErrClosed) {
		return nil
	}
	return err
}

// scoreLong is the mean log-probabilities of the labels behind one long text.
func (t *labelTask) scoreLong(ctx context.Context, row scoreRow) (scores []float64, err error) {
	ids := slices.Concat(row.prefix, row.ids)
	scores = make([]float64, len(t.labels))
	st, err := t.inChunks(ctx, ids, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		n := h.Dim(1)
		if from+n < len(ids) {
			return nil
		}
		first := make([]int32, len(t.labels))
		for l, label := range t.labels {
			first[l] = label[0]
		}
		logprobs := logSoftmax(s, s.Squeeze(t.arch.logits(s, s.Slice(h, 1, n-1, n)), 1))
		begin, err := s.Take(logprobs, s.FromInts(first, len(first)), 1).Floats()
		for l, v := range begin {
			scores[l] = float64(v)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.forget(st)) }()
	for l, label := range t.labels {
		if len(label) > 1 {
			rest, err := t.restOf(ctx, st, label)
			if err != nil {
				return nil, err
			}
			scores[l] += rest
		}
		scores[l] /= float64(len(label))
	}
	return scores, nil
}

// restOf is the log-probability of the second and later tokens of a label behind what a state has seen.
func (t *labelTask) restOf(ctx context.Context, st *Sequence, label []int32) (sum float64, err error) {
	n := len(label) - 1
	err = t.job(ctx, func(s *mlxc.Scope) (err error) {
		if err := t.reserve("a label", func() int64 {
			return st.bytes() + st.growth(n) + t.passBytes(n, st.position(), n)
		}); err != nil {
			return err
		}
		ahead := st.share(s)
		defer func() { err = errors.Join(err, ahead.free()) }()
		logprobs := logSoftmax(s, t.arch.logits(s, t.run(s, ahead, s.FromInts(label[:n], 1, n))))
		picked, err := s.TakeAlong(logprobs, s.FromInts(label[1:], 1, n, 1), -1).Floats()
		for _, v := range picked {
			sum += float64(v)
		}
		return err
	})
	return sum, err
}

// embedLong is the vector of one long text.
func (m *scorer) embedLong(ctx context.Context, ids []int32) (vector []float32, err error) {
	var pooled []float32
	st, err := m.inChunks(ctx, ids, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		part, err := m.embedder.poolPart(s, h, from, len(ids)).Floats()
		if pooled == nil {
			pooled = make([]float32, len(part))
		}
		for i, v := range part {
			pooled[i] += v
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := m.forget(st); err != nil {
		return nil, err
	}
	err = m.job(ctx, func(s *mlxc.Scope) (err error) {
		vector, err = m.embedder.project(s, s.FromFloats(pooled, 1, len(pooled))).Floats()
		return err
	})
	return vector, err
}

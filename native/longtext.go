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

// job runs work in a scope of its own on the owner thread.
func (m *Model) job(ctx context.Context, work func(s *mlxc.Scope) error) error {
	return m.do(ctx, func() (err error) {
		s := m.lease.NewScope()
		defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(cacheLimit)) }()
		if err := work(s); err != nil {
			return err
		}
		return s.Err()
	})
}

// inChunks lets ids go through the model a chunk at a time. each, on the owner thread, is given the states of a chunk,
// [1, n, hidden], whose first token is at position from; what it wants of them it must evaluate. The caller forgets the state
// that is returned.
func (m *Model) inChunks(ctx context.Context, ids []int32, each func(s *mlxc.Scope, from int, h *mlxc.Array) error) (*decodeState, error) {
	st := newDecodeState(m.shape)
	for from := 0; from < len(ids); from += prefillChunk {
		chunk := ids[from:min(from+prefillChunk, len(ids))]
		if err := m.job(ctx, func(s *mlxc.Scope) error {
			if from == 0 {
				m.scored = append(m.scored, st)
			}
			if err := m.reserve("the next part of a text", func() int64 {
				return m.kvBytes(st, len(chunk)) + m.passBytes(len(chunk), from, 1)
			}); err != nil {
				return err
			}
			h := m.pass(s, st, s.FromInts(chunk, 1, len(chunk)))
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
func (m *Model) forget(st *decodeState) error {
	err := m.do(context.Background(), func() error {
		m.scored = slices.DeleteFunc(m.scored, func(x *decodeState) bool { return x == st })
		return errors.Join(st.free(), mlxc.TrimCache(cacheLimit))
	})
	if errors.Is(err, engine.ErrClosed) {
		return nil
	}
	return err
}

// scoreLong is the mean log-probabilities of the labels behind one long text.
func (t *labelTask) scoreLong(ctx context.Context, row scoreRow) (scores []float64, err error) {
	m := t.model
	ids := slices.Concat(row.prefix, row.ids)
	scores = make([]float64, len(t.labels))
	st, err := m.inChunks(ctx, ids, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		n := h.Dim(1)
		if from+n < len(ids) {
			return nil
		}
		first := make([]int32, len(t.labels))
		for l, label := range t.labels {
			first[l] = label[0]
		}
		logprobs := logSoftmax(s, s.Squeeze(m.arch.logits(s, s.Slice(h, 1, n-1, n)), 1))
		begin, err := s.Take(logprobs, s.FromInts(first, len(first)), 1).Floats()
		for l, v := range begin {
			scores[l] = float64(v)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.forget(st)) }()
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
func (t *labelTask) restOf(ctx context.Context, st *decodeState, label []int32) (sum float64, err error) {
	m, n := t.model, len(label)-1
	err = m.job(ctx, func(s *mlxc.Scope) (err error) {
		if err := m.reserve("a label", func() int64 {
			return st.bytes() + m.kvBytes(st, n) + m.passBytes(n, st.position(), n)
		}); err != nil {
			return err
		}
		ahead := st.share(s)
		defer func() { err = errors.Join(err, ahead.free()) }()
		logprobs := logSoftmax(s, m.arch.logits(s, m.pass(s, ahead, s.FromInts(label[:n], 1, n))))
		picked, err := s.TakeAlong(logprobs, s.FromInts(label[1:], 1, n, 1), -1).Floats()
		for _, v := range picked {
			sum += float64(v)
		}
		return err
	})
	return sum, err
}

// embedLong is the vector of one long text.
func (m *Model) embedLong(ctx context.Context, ids []int32) (vector []float32, err error) {
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

// wideState is a pass over one long row in which every token sees all others, those at most half a window away in a layer
// with a window. Nothing can be kept of such a pass, and no chunk be done before the others; what is cut is the queries of
// each layer, so that there are not more scores at a time than in a chunk of a prompt, and nothing of a layer but its output
// is held behind it.
type wideState struct {
	*scoreState
	windows []int
}

func newWideState(windows []int) *wideState {
	return &wideState{&scoreState{past: &history{}}, windows}
}

func (st *wideState) attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, scale float32) *mlxc.Array {
	n, reach := q.Dim(2), st.windows[layer]/2
	var parts []*mlxc.Array
	for from := 0; from < n; from += prefillChunk {
		to := min(from+prefillChunk, n)
		first, last := 0, n
		var mask mlxc.Mask
		if st.windows[layer] > 0 {
			first, last = max(0, from-reach), min(n, to+reach)
			queries := s.ExpandDims(s.Arange(from, to, mlxc.Int32), 1)
			keys := s.ExpandDims(s.Arange(first, last, mlxc.Int32), 0)
			mask.Array = s.LessEqual(s.Abs(s.Subtract(queries, keys)), s.Scalar(float64(reach), mlxc.Int32))
		}
		part := s.SDPA(s.Slice(q, 2, from, to), s.Slice(k, 2, first, last), s.Slice(v, 2, first, last), scale, mask)
		if err := s.Eval(part); err != nil { // now, or all parts' scores might be held at once
			s.Fail(err)
			return q
		}
		parts = append(parts, part)
	}
	return mergeHeads(s, s.Concatenate(2, parts...))
}

// block runs a layer to its end; st is a blockRunner.
func (st *wideState) block(s *mlxc.Scope, layer int, h *mlxc.Array, run func(*mlxc.Scope, *mlxc.Array) *mlxc.Array) *mlxc.Array {
	child := s.Child()
	out := run(child, h)
	if err := child.Eval(out); err != nil {
		s.Fail(errors.Join(err, child.Close()))
		return h
	}
	s.Adopt(out)
	errs := []error{child.Close()}
	if layer > 0 { // the output of the layer before
		errs = append(errs, s.Keep(h).Free())
	}
	if err := errors.Join(errs...); err != nil {
		s.Fail(err)
	}
	return out
}

package score

import (
	"context"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// Long texts. One pass over n tokens makes n*n attention scores for each head, so a text beyond MaxBatchTokens is not put
// into a batch: like a prompt it goes through the model in chunks, into KV caches that forget what windows have passed. Each
// chunk is a job of its own on the owner thread: other requests go on between two of them, and a context that ends is noticed.

// maxBatchPositions bounds the positions, those of a shared prefix counted for each row, whose keys and values a pass holds.
const maxBatchPositions = 16 * MaxBatchTokens

// isLong reports whether so many tokens after a prefix are too many for one pass.
func isLong(prefix, tokens int) bool {
	return tokens > decoder.PrefillChunk && prefix+tokens > MaxBatchTokens
}

// splitLong moves the long rows after the others.
func splitLong(rows []ScoreRow) (short, long []ScoreRow) {
	for _, row := range rows {
		if isLong(len(row.Prefix), len(row.IDs)) {
			long = append(long, row)
		} else {
			short = append(short, row)
		}
	}
	return short, long
}

// inChunks lets ids go through the model a chunk at a time. each, on the owner thread, is given the states of a chunk,
// [1, n, hidden], whose first token is at position from; what it wants of them it must evaluate. The caller forgets the state
// that is returned. It may make logits of so many tokens at a time.
func (sc *Scorer) inChunks(ctx context.Context, ids []int32, logitRows int, each func(s *mlxc.Scope, from int, h *mlxc.Array) error) (*kv.Sequence, error) {
	st := sc.NewSequence()
	for from := 0; from < len(ids); from += decoder.PrefillChunk {
		chunk := ids[from:min(from+decoder.PrefillChunk, len(ids))]
		if err := sc.Job(ctx, func(s *mlxc.Scope) error {
			if from == 0 {
				sc.Scored = append(sc.Scored, st)
			}
			if err := sc.Reserve("the next part of a text", func() int64 {
				return st.Growth(len(chunk)) + sc.PassBytes(len(chunk), from, min(logitRows, len(chunk)))
			}); err != nil {
				return err
			}
			h := sc.Run(s, st, s.FromInts(chunk, 1, len(chunk)))
			if err := each(s, from, h); err != nil {
				return err
			}
			sc.Counters.Prompt.Add(int64(len(chunk)))
			return errors.Join(s.Eval(st.Arrays()...), mlxc.ClearCache())
		}); err != nil {
			return nil, errors.Join(err, sc.forget(st))
		}
	}
	return st, nil
}

// forget frees a state of inChunks. The model's Close has freed it if it came first.
func (sc *Scorer) forget(st *kv.Sequence) error {
	err := sc.Do(context.Background(), func() error {
		sc.Scored = slices.DeleteFunc(sc.Scored, func(x *kv.Sequence) bool { return x == st })
		return errors.Join(st.Free(), mlxc.TrimCache(owner.CacheLimit))
	})
	if errors.Is(err, engine.ErrClosed) {
		return nil
	}
	return err
}

// ScoreLong is the mean log-probabilities of the labels after one long text.
func (t *LabelTask) ScoreLong(ctx context.Context, row ScoreRow) (scores []float64, err error) {
	ids := slices.Concat(row.Prefix, row.IDs)
	scores = make([]float64, len(t.labels))
	st, err := t.inChunks(ctx, ids, 1, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		n := h.Dim(1)
		if from+n < len(ids) {
			return nil
		}
		first := make([]int32, len(t.labels))
		for l, label := range t.labels {
			first[l] = label[0]
		}
		logprobs := decoder.LogSoftmax(s, s.Squeeze(t.Arch.Logits(s, s.Slice(h, 1, n-1, n)), 1))
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

// restOf is the log-probability of the second and later tokens of a label after what a state has seen.
func (t *LabelTask) restOf(ctx context.Context, st *kv.Sequence, label []int32) (sum float64, err error) {
	n := len(label) - 1
	err = t.Job(ctx, func(s *mlxc.Scope) (err error) {
		if err := t.Reserve("a label", func() int64 {
			return st.Bytes() + st.Growth(n) + t.PassBytes(n, st.Position(), n)
		}); err != nil {
			return err
		}
		ahead := st.Share(s)
		defer func() { err = errors.Join(err, ahead.Free()) }()
		logprobs := decoder.LogSoftmax(s, t.Arch.Logits(s, t.Run(s, ahead, s.FromInts(label[:n], 1, n))))
		picked, err := s.TakeAlong(logprobs, s.FromInts(label[1:], 1, n, 1), -1).Floats()
		for _, v := range picked {
			sum += float64(v)
		}
		return err
	})
	return sum, err
}

// EmbedLong is the vector of one long text.
func (sc *Scorer) EmbedLong(ctx context.Context, ids []int32) (vector []float32, err error) {
	var pooled []float32
	st, err := sc.inChunks(ctx, ids, 0, func(s *mlxc.Scope, from int, h *mlxc.Array) error {
		part, err := sc.Embedder.poolPart(s, h, from, len(ids)).Floats()
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
	if err := sc.forget(st); err != nil {
		return nil, err
	}
	err = sc.Job(ctx, func(s *mlxc.Scope) (err error) {
		vector, err = sc.Embedder.project(s, s.FromFloats(pooled, 1, len(pooled))).Floats()
		return err
	})
	return vector, err
}

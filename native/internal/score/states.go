package score

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// States returns, for each of the layers, a vector for each text: the mean over its tokens of what the layer puts out, every token's first
// divided by its root mean square, so that no token outweighs the others; with a prompt that of the prompt's last token. What the
// tokenizer puts in front of every text does not count. Texts are cut to as many tokens as a pass holds; the prompt's end stays.
func (sc *Scorer) States(ctx context.Context, texts []string, options engine.StatesOptions) ([][][]float32, error) {
	if err := sc.CheckOpen(ctx); err != nil {
		return nil, err
	}
	if err := options.Validate(len(sc.Shape.Windows), texts); err != nil {
		return nil, err
	}
	defer sc.Begin()()
	front, err := sc.Encode(ctx, "", true)
	if err != nil {
		return nil, err
	}
	if n := len(front); n > 0 && front[n-1] == sc.EndToken {
		front = front[:n-1]
	}
	limit := maxPackedTokens
	if n := sc.Context; n > 0 {
		limit = min(limit, n)
	}
	before, after, _ := strings.Cut(options.Prompt, "{text}")
	var end []int32 // the prompt's tokens after the text
	if after != "" {
		if end, err = sc.EncodePlain(ctx, after); err != nil {
			return nil, err
		}
		end = end[len(front):]
	}
	if options.Prompt != "" {
		all, err := sc.EncodePlain(ctx, before+after)
		if err != nil {
			return nil, err
		}
		if len(all) > limit/2 {
			return nil, &engine.OptionError{Option: "StatesPrompt", Reason: fmt.Sprintf("it has %d tokens and %d are the most, so that texts find room", len(all), limit/2)}
		}
	}
	rows := make([]ScoreRow, len(texts))
	for i, text := range texts {
		ids, err := sc.EncodePlain(ctx, before+text+after)
		if err == nil {
			if len(ids) > limit {
				ids = append(ids[:limit-len(end)], end...)
			}
			err = sc.CheckVocabulary(ids)
		}
		if err == nil && len(ids) == 0 {
			err = engine.ErrEmptyPrompt
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		rows[i] = ScoreRow{index: i, IDs: ids}
	}
	slices.SortStableFunc(rows, func(a, b ScoreRow) int { return cmp.Compare(len(a.IDs), len(b.IDs)) })
	vectors := make([][][]float32, len(options.Layers))
	for l := range vectors {
		vectors[l] = make([][]float32, len(texts))
	}
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := sc.JobInTurn(ctx, func() error { return sc.statesBatch(batch, len(front), options, vectors) }); err != nil {
			return nil, err
		}
		sc.Counters.Classified.Add(int64(len(batch)))
	}
	return vectors, nil
}

// statesBatch runs on the owner thread.
func (sc *Scorer) statesBatch(batch []ScoreRow, front int, options engine.StatesOptions, vectors [][][]float32) (err error) {
	width := len(batch[len(batch)-1].IDs) // rows are sorted
	if err := sc.Reserve("a batch of texts", func() int64 { return sc.scoreBytes(0, width, 0) }); err != nil {
		return err
	}
	s := sc.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(owner.CacheLimit)) }()
	var ids *mlxc.Array
	var pass *kv.Pass
	var texts []kv.Span // in the states, taken as [N, hidden]
	if sc.Shape.Rings { // texts one after the other
		var row *kv.PackedRow
		row, texts, pass = sc.newPackedTexts(batch)
		ids = s.FromInts(row.IDs, 1, len(row.IDs))
	} else {
		padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
		for b, text := range batch {
			copy(padded[b*width:], text.IDs)
			lengths[b] = len(text.IDs)
			texts = append(texts, kv.Span{Begin: b * width, End: b*width + len(text.IDs)})
		}
		pass, ids = sc.newTextPass(s, lengths, width), s.FromInts(padded, len(batch), width)
	}
	// MLX computes only what is asked for, so the layers after the last of those that are wanted, and the output layer, cost nothing.
	kept := make([]*mlxc.Array, len(options.Layers)) // [B, T, hidden]
	pass.Observe = func(layer int, op string, h *mlxc.Array) {
		for i, wanted := range options.Layers {
			if wanted == layer+1 && op == kv.OpOutput {
				kept[i] = h
			}
		}
	}
	sc.Arch.Hidden(s, ids, pass)
	for l, h := range kept {
		if h == nil {
			return errors.Join(s.Err(), fmt.Errorf("layer %d: %w by this model", options.Layers[l], engine.ErrUnsupported))
		}
		values, err := s.AsType(h, mlxc.Float32).Floats()
		if err != nil {
			return err
		}
		for b, row := range batch {
			text := texts[b]
			if options.Prompt != "" {
				text.Begin = text.End - 1
			}
			vectors[l][row.index] = pool(values, sc.Shape.HiddenSize, text, front)
		}
	}
	for _, row := range batch {
		sc.Counters.Prompt.Add(int64(len(row.IDs)))
	}
	return nil
}

// pool is the mean of the states [N, size] of a text after the first front, which all texts share; of all if there are no others.
func pool(values []float32, size int, text kv.Span, front int) []float32 {
	if text.End-text.Begin > front {
		text.Begin += front
	}
	sum := make([]float64, size)
	for t := text.Begin; t < text.End; t++ {
		token, squares := values[t*size:][:size], 0.0
		for _, v := range token {
			squares += float64(v) * float64(v)
		}
		scale := 1 / (math.Sqrt(squares/float64(size)+1e-12) * float64(text.End-text.Begin))
		for i, v := range token {
			sum[i] += float64(v) * scale
		}
	}
	out := make([]float32, size)
	for i, v := range sum {
		out[i] = float32(v)
	}
	return out
}

package native

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
)

// layerState keeps what some layers put out. MLX computes only what is asked for, so the layers behind the last of them, and the output
// layer, cost nothing.
type layerState struct {
	state
	wanted []int
	kept   []*mlxc.Array // in the order of wanted; [B, T, hidden]
}

func (st *layerState) kernelPass(rows, tokens int) *kernelPass {
	return watchedPassOf(st.state, rows, tokens)
}

func (st *layerState) observe(_ *mlxc.Scope, layer int, op string, h *mlxc.Array) {
	if i := slices.Index(st.wanted, layer+1); i >= 0 && op == opOutput {
		st.kept[i] = h
	}
}

// States returns, for each of the layers, a vector for each text: the mean over its tokens of what the layer puts out, every token's first
// divided by its root mean square, so that no token outweighs the others; with a prompt that of the prompt's last token. What the
// tokenizer puts in front of every text does not count. Texts are cut to as many tokens as a pass holds; the prompt's end stays.
func (m *Model) States(ctx context.Context, texts []string, options engine.StatesOptions) ([][][]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.isClosed() {
		return nil, engine.ErrClosed
	}
	if err := options.Validate(len(m.shape.windows), texts); err != nil {
		return nil, err
	}
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)
	front, err := m.Encode(ctx, "", true)
	if err != nil {
		return nil, err
	}
	if n := len(front); n > 0 && front[n-1] == m.endToken {
		front = front[:n-1]
	}
	limit := maxPackedTokens
	if n := m.info.ContextLength; n > 0 {
		limit = min(limit, n)
	}
	before, after, _ := strings.Cut(options.Prompt, "{text}")
	var end []int32 // the prompt's tokens behind the text
	if after != "" {
		if end, err = m.encodePlain(ctx, after); err != nil {
			return nil, err
		}
		end = end[len(front):]
	}
	if options.Prompt != "" {
		all, err := m.encodePlain(ctx, before+after)
		if err != nil {
			return nil, err
		}
		if len(all) > limit/2 {
			return nil, &engine.OptionError{Option: "StatesPrompt", Reason: fmt.Sprintf("it has %d tokens and %d are the most, so that texts find room", len(all), limit/2)}
		}
	}
	rows := make([]scoreRow, len(texts))
	for i, text := range texts {
		ids, err := m.encodePlain(ctx, before+text+after)
		if err == nil {
			if len(ids) > limit {
				ids = append(ids[:limit-len(end)], end...)
			}
			err = m.checkVocabulary(ids)
		}
		if err == nil && len(ids) == 0 {
			err = engine.ErrEmptyPrompt
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		rows[i] = scoreRow{index: i, ids: ids}
	}
	slices.SortStableFunc(rows, func(a, b scoreRow) int { return cmp.Compare(len(a.ids), len(b.ids)) })
	vectors := make([][][]float32, len(options.Layers))
	for l := range vectors {
		vectors[l] = make([][]float32, len(texts))
	}
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := m.do(ctx, func() error { return m.statesBatch(batch, len(front), options, vectors) }); err != nil {
			return nil, err
		}
		m.counters.classified.Add(int64(len(batch)))
	}
	return vectors, nil
}

// statesBatch runs on the owner thread.
func (m *Model) statesBatch(batch []scoreRow, front int, options engine.StatesOptions, vectors [][][]float32) (err error) {
	width := len(batch[len(batch)-1].ids) // rows are sorted
	if err := m.reserve("a batch of texts", func() int64 { return m.scoreBytes(0, width, 0) }); err != nil {
		return err
	}
	s := m.lease.NewScope()
	defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(cacheLimit)) }()
	st := &layerState{wanted: options.Layers, kept: make([]*mlxc.Array, len(options.Layers))}
	texts := make([]span, len(batch)) // in the states, taken as [N, hidden]
	var ids *mlxc.Array
	if m.shape.kernels { // texts one behind the other
		row := &packedRow{}
		for b, text := range batch {
			begin := len(row.ids)
			row.add(text.ids, 0, span{begin, begin})
			texts[b] = span{begin, len(row.ids)}
		}
		st.state = cpuPackedState{packedPass: packedPass{row: row}}
		if m.shape.bidirectional {
			st.state = bidirectionalPass{cpuPackedState{packedPass: packedPass{row: row}}, texts}
		}
		ids = s.FromInts(row.ids, 1, len(row.ids))
	} else {
		padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
		for b, text := range batch {
			copy(padded[b*width:], text.ids)
			lengths[b] = len(text.ids)
			texts[b] = span{b * width, b*width + len(text.ids)}
		}
		st.state = newScoreState(s, &history{}, width, m.shape.windows)
		if m.shape.bidirectional {
			st.state = newBidirectionalState(s, lengths, width, m.shape.windows)
		}
		ids = s.FromInts(padded, len(batch), width)
	}
	m.arch.hidden(s, ids, st)
	for l, h := range st.kept {
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
				text.begin = text.end - 1
			}
			vectors[l][row.index] = pool(values, m.shape.hiddenSize, text, front)
		}
	}
	for _, row := range batch {
		m.counters.prompt.Add(int64(len(row.ids)))
	}
	return nil
}

// pool is the mean of the states [N, size] of a text behind the first front, which all texts share; of all if there are no others.
func pool(values []float32, size int, text span, front int) []float32 {
	if text.end-text.begin > front {
		text.begin += front
	}
	sum := make([]float64, size)
	for t := text.begin; t < text.end; t++ {
		token, squares := values[t*size:][:size], 0.0
		for _, v := range token {
			squares += float64(v) * float64(v)
		}
		scale := 1 / (math.Sqrt(squares/float64(size)+1e-12) * float64(text.end-text.begin))
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

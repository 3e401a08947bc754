package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Embed returns a vector for each text; see engine.Engine. Texts of like length share a pass.
func (m *Model) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.isClosed() {
		return nil, engine.ErrClosed
	}
	prompt, err := m.checkEmbed(texts, options)
	if err != nil {
		return nil, err
	}
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)

	rows := make([]scoreRow, len(texts))
	for i, text := range texts {
		ids, err := m.Encode(ctx, prompt+text, true)
		if err == nil {
			err = m.checkIDs(ids)
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		rows[i] = scoreRow{index: i, ids: ids}
	}
	slices.SortStableFunc(rows, func(a, b scoreRow) int { return cmp.Compare(len(a.ids), len(b.ids)) })
	vectors := make([][]float32, len(texts))
	if !m.shape.bidirectional { // such a model takes a long row as a batch of its own
		var long []scoreRow
		rows, long = splitLong(rows)
		for _, row := range long {
			if err := m.inTurn(ctx, nil, func() (_ bool, err error) {
				vectors[row.index], err = m.embedLong(ctx, row.ids)
				return true, err
			}); err != nil {
				return nil, fmt.Errorf("text %d: %w", row.index, err)
			}
		}
	}
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := m.jobInTurn(ctx, func() error { return m.embedBatch(batch, vectors) }); err != nil {
			return nil, err
		}
	}
	for i, v := range vectors {
		vectors[i] = finishVector(v, options.Dimensions, m.embedder.normalize)
	}
	return vectors, nil
}

// checkEmbed returns the text that goes before each text.
func (m *Model) checkEmbed(texts []string, options engine.EmbedOptions) (prompt string, err error) {
	if err := options.Validate(texts); err != nil {
		return "", err
	}
	if options.Dimensions > m.embedder.size {
		return "", &engine.OptionError{Option: "Dimensions", Reason: fmt.Sprintf("the model's vectors have only %d", m.embedder.size)}
	}
	if options.Prompt == "" {
		return "", nil
	}
	prompt, ok := m.embedder.prompts[options.Prompt]
	if !ok {
		return "", &engine.OptionError{Option: "PromptName", Reason: fmt.Sprintf("the model has no prompt %q; it has %q", options.Prompt, slices.Sorted(maps.Keys(m.embedder.prompts)))}
	}
	return prompt, nil
}

// embedBatch runs on the owner thread.
func (m *Model) embedBatch(batch []scoreRow, vectors [][]float32) (err error) {
	width := len(batch[len(batch)-1].ids) // rows are sorted
	if err := m.reserve("a batch of texts", func() int64 {
		if isLong(0, width) { // a chunk's scores at a time
			return m.wideBytes(width)
		}
		return m.scoreBytes(0, width, 0)
	}); err != nil {
		return err
	}
	s := m.lease.NewScope()
	defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(cacheLimit)) }()
	var values []float32
	if m.shape.kernels {
		values, err = m.embedPacked(s, batch)
	} else {
		values, err = m.embedPadded(s, batch, width)
	}
	if err != nil {
		return err
	}
	size := m.embedder.size
	for b, row := range batch {
		vectors[row.index] = values[b*size:][:size:size]
		m.counters.prompt.Add(int64(len(row.ids)))
	}
	return nil
}

// embedPadded is the vectors of rows, [B, size], by MLX's ops over rows of one width.
func (m *Model) embedPadded(s *mlxc.Scope, batch []scoreRow, width int) ([]float32, error) {
	padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.ids)
		lengths[b] = len(row.ids)
	}
	var st state
	switch {
	case !m.shape.bidirectional:
		st = newScoreState(s, &history{}, width, m.shape.windows)
	case isLong(0, width):
		st = newWideState(m.shape.windows)
	default:
		st = newBidirectionalState(s, lengths, width, m.shape.windows)
	}
	h := m.arch.hidden(s, s.FromInts(padded, len(batch), width), st)
	return m.embedder.apply(s, h, lengths, width).Floats()
}

// embedPacked is the same by the CPU kernels, with the texts one behind the other.
func (m *Model) embedPacked(s *mlxc.Scope, batch []scoreRow) ([]float32, error) {
	row := &packedRow{}
	texts := make([]span, len(batch))
	for b, text := range batch {
		begin := len(row.ids)
		row.add(text.ids, 0, span{begin, begin})
		texts[b] = span{begin, len(row.ids)}
	}
	var st state = cpuPackedState{packedPass: packedPass{row: row}}
	if m.shape.bidirectional {
		st = bidirectionalPass{cpuPackedState{packedPass: packedPass{row: row}}, texts}
	}
	h := m.arch.hidden(s, s.FromInts(row.ids, 1, len(row.ids)), st)
	return m.embedder.applyPacked(s, s.Reshape(h, len(row.ids), m.shape.hiddenSize), texts).Floats()
}

// bidirectionalPass is a pass over packed texts in which every token sees all of its text, in a layer with a window what is at
// most half a window away, as in newBidirectionalState.
type bidirectionalPass struct {
	cpuPackedState
	texts []span
}

func (p bidirectionalPass) kernelPass(rows, tokens int) *kernelPass {
	pass := p.cpuPackedState.kernelPass(rows, tokens)
	pass.visible = func(window int) []int32 {
		out := make([]int32, 0, tokens*mlxc.VisibleSize)
		for _, text := range p.texts {
			for t := text.begin; t < text.end; t++ {
				sees := text
				if window > 0 {
					sees = span{max(text.begin, t-window/2), min(text.end, t+window/2+1)}
				}
				out = append(out, 0, int32(sees.begin), 0, int32(sees.end), 0)
			}
		}
		return out
	}
	return pass
}

// newBidirectionalState prepares a pass in which every token of a row of its length sees all others, in a layer with a
// window those at most half a window away, as EmbeddingGemma (arXiv:2509.20354) does.
func newBidirectionalState(s *mlxc.Scope, lengths []int, width int, windows []int) *scoreState {
	st := &scoreState{past: &history{}, masks: make([]mlxc.Mask, len(windows))}
	fillMasks(st.masks, windows, func(_, window int) mlxc.Mask {
		return mlxc.Mask{Array: bidirectionalMask(s, lengths, width, window)}
	})
	return st
}

// bidirectionalMask is [B, 1, width, width].
func bidirectionalMask(s *mlxc.Scope, lengths []int, width, window int) *mlxc.Array {
	visible := make([]bool, len(lengths)*width*width)
	for b, length := range lengths {
		for t := range width {
			row := visible[(b*width+t)*width:][:width]
			for key := range row {
				near := window == 0 || max(t-key, key-t) <= window/2
				// Padding sees itself, so that its softmax has something to sum.
				row[key] = near && (key < length || key == t)
			}
		}
	}
	return s.FromBools(visible, len(lengths), 1, width, width)
}

// finishVector cuts a vector to its first n values, 0 for all, and norms it: always where it is cut.
func finishVector(v []float32, n int, normalize bool) []float32 {
	if n > 0 && n < len(v) {
		v, normalize = v[:n:n], true
	}
	if !normalize {
		return v
	}
	var squares float64
	for _, x := range v {
		squares += float64(x) * float64(x)
	}
	norm := max(math.Sqrt(squares), 1e-12)
	for i := range v {
		v[i] = float32(float64(v[i]) / norm)
	}
	return v
}

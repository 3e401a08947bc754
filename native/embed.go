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
func (m *scorer) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	if err := m.checkOpen(ctx); err != nil {
		return nil, err
	}
	prompt, err := m.checkEmbed(texts, options)
	if err != nil {
		return nil, err
	}
	defer m.begin()()

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
			if vectors[row.index], err = m.embedLong(ctx, row.ids); err != nil {
				return nil, fmt.Errorf("text %d: %w", row.index, err)
			}
		}
	}
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := m.do(ctx, func() error { return m.embedBatch(batch, vectors) }); err != nil {
			return nil, err
		}
	}
	for i, v := range vectors {
		vectors[i] = finishVector(v, options.Dimensions, m.embedder.normalize)
	}
	return vectors, nil
}

// checkEmbed returns the text that goes before each text.
func (m *scorer) checkEmbed(texts []string, options engine.EmbedOptions) (prompt string, err error) {
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
func (m *scorer) embedBatch(batch []scoreRow, vectors [][]float32) (err error) {
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
	if m.shape.rings {
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
func (m *scorer) embedPadded(s *mlxc.Scope, batch []scoreRow, width int) ([]float32, error) {
	padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.ids)
		lengths[b] = len(row.ids)
	}
	pass := m.newTextPass(s, lengths, width)
	if m.shape.bidirectional && isLong(0, width) {
		pass = newWidePass(m.shape.windows, prefillChunk)
	}
	h := m.arch.hidden(s, s.FromInts(padded, len(batch), width), pass)
	return m.embedder.apply(s, h, lengths, width).Floats()
}

// embedPacked is the same by the CPU kernels, with the texts one behind the other.
func (m *scorer) embedPacked(s *mlxc.Scope, batch []scoreRow) ([]float32, error) {
	row, texts, pass := m.newPackedTexts(batch)
	h := m.arch.hidden(s, s.FromInts(row.ids, 1, len(row.ids)), pass)
	return m.embedder.applyPacked(s, s.Reshape(h, len(row.ids), m.shape.hiddenSize), texts).Floats()
}

// newTextPass prepares a pass over padded rows of whole texts, which see backwards or, if the model does, both ways.
func (m *scorer) newTextPass(s *mlxc.Scope, lengths []int, width int) *Pass {
	if m.shape.bidirectional {
		return newBothWaysPass(s, lengths, width, m.shape.windows)
	}
	pass, _ := newHistoryPass(s, &History{}, width, m.shape.windows)
	return pass
}

// newPackedTexts is the same for the CPU kernels, with the texts one behind the other.
func (m *scorer) newPackedTexts(batch []scoreRow) (row *PackedRow, texts []Span, pass *Pass) {
	row = &PackedRow{}
	for _, text := range batch {
		texts = append(texts, row.addText(text.ids))
	}
	if m.shape.bidirectional {
		return row, texts, newPackedBothWays(row, texts)
	}
	return row, texts, newPackedPass(row, nil)
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

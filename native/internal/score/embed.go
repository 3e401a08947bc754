package score

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
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// Embed returns a vector for each text; see engine.Engine. Texts of like length share a pass.
func (m *Scorer) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	if err := m.CheckOpen(ctx); err != nil {
		return nil, err
	}
	prompt, err := m.checkEmbed(texts, options)
	if err != nil {
		return nil, err
	}
	defer m.Begin()()

	rows := make([]ScoreRow, len(texts))
	for i, text := range texts {
		ids, err := m.Encode(ctx, prompt+text, true)
		if err == nil {
			err = m.CheckIDs(ids)
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		rows[i] = ScoreRow{Index: i, IDs: ids}
	}
	slices.SortStableFunc(rows, func(a, b ScoreRow) int { return cmp.Compare(len(a.IDs), len(b.IDs)) })
	vectors := make([][]float32, len(texts))
	if !m.Shape.Bidirectional { // such a model takes a long row as a batch of its own
		var long []ScoreRow
		rows, long = SplitLong(rows)
		for _, row := range long {
			if vectors[row.Index], err = m.EmbedLong(ctx, row.IDs); err != nil {
				return nil, fmt.Errorf("text %d: %w", row.Index, err)
			}
		}
	}
	for len(rows) > 0 {
		batch := rows[:BatchSize(rows)]
		rows = rows[len(batch):]
		if err := m.Do(ctx, func() error { return m.EmbedBatch(batch, vectors) }); err != nil {
			return nil, err
		}
	}
	for i, v := range vectors {
		vectors[i] = finishVector(v, options.Dimensions, m.Embedder.normalize)
	}
	return vectors, nil
}

// checkEmbed returns the text that goes before each text.
func (m *Scorer) checkEmbed(texts []string, options engine.EmbedOptions) (prompt string, err error) {
	if err := options.Validate(texts); err != nil {
		return "", err
	}
	if options.Dimensions > m.Embedder.size {
		return "", &engine.OptionError{Option: "Dimensions", Reason: fmt.Sprintf("the model's vectors have only %d", m.Embedder.size)}
	}
	if options.Prompt == "" {
		return "", nil
	}
	prompt, ok := m.Embedder.prompts[options.Prompt]
	if !ok {
		return "", &engine.OptionError{Option: "PromptName", Reason: fmt.Sprintf("the model has no prompt %q; it has %q", options.Prompt, slices.Sorted(maps.Keys(m.Embedder.prompts)))}
	}
	return prompt, nil
}

// embedBatch runs on the owner thread.
func (m *Scorer) EmbedBatch(batch []ScoreRow, vectors [][]float32) (err error) {
	width := len(batch[len(batch)-1].IDs) // rows are sorted
	if err := m.Reserve("a batch of texts", func() int64 {
		if IsLong(0, width) { // a chunk's scores at a time
			return m.WideBytes(width)
		}
		return m.scoreBytes(0, width, 0)
	}); err != nil {
		return err
	}
	s := m.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(owner.CacheLimit)) }()
	var values []float32
	if m.Shape.Rings {
		values, err = m.embedPacked(s, batch)
	} else {
		values, err = m.embedPadded(s, batch, width)
	}
	if err != nil {
		return err
	}
	size := m.Embedder.size
	for b, row := range batch {
		vectors[row.Index] = values[b*size:][:size:size]
		m.Counters.Prompt.Add(int64(len(row.IDs)))
	}
	return nil
}

// embedPadded is the vectors of rows, [B, size], by MLX's ops over rows of one width.
func (m *Scorer) embedPadded(s *mlxc.Scope, batch []ScoreRow, width int) ([]float32, error) {
	padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.IDs)
		lengths[b] = len(row.IDs)
	}
	pass := m.newTextPass(s, lengths, width)
	if m.Shape.Bidirectional && IsLong(0, width) {
		pass = kv.NewWidePass(m.Shape.Windows, decoder.PrefillChunk)
	}
	h := m.Arch.Hidden(s, s.FromInts(padded, len(batch), width), pass)
	return m.Embedder.Apply(s, h, lengths, width).Floats()
}

// embedPacked is the same by the CPU kernels, with the texts one behind the other.
func (m *Scorer) embedPacked(s *mlxc.Scope, batch []ScoreRow) ([]float32, error) {
	row, texts, pass := m.newPackedTexts(batch)
	h := m.Arch.Hidden(s, s.FromInts(row.IDs, 1, len(row.IDs)), pass)
	return m.Embedder.applyPacked(s, s.Reshape(h, len(row.IDs), m.Shape.HiddenSize), texts).Floats()
}

// newTextPass prepares a pass over padded rows of whole texts, which see backwards or, if the model does, both ways.
func (m *Scorer) newTextPass(s *mlxc.Scope, lengths []int, width int) *kv.Pass {
	if m.Shape.Bidirectional {
		return kv.NewBothWaysPass(s, lengths, width, m.Shape.Windows)
	}
	pass, _ := kv.NewHistoryPass(s, &kv.History{}, width, m.Shape.Windows)
	return pass
}

// newPackedTexts is the same for the CPU kernels, with the texts one behind the other.
func (m *Scorer) newPackedTexts(batch []ScoreRow) (row *kv.PackedRow, texts []kv.Span, pass *kv.Pass) {
	row = &kv.PackedRow{}
	for _, text := range batch {
		texts = append(texts, row.AddText(text.IDs))
	}
	if m.Shape.Bidirectional {
		return row, texts, kv.NewPackedBothWays(row, texts)
	}
	return row, texts, kv.NewPackedPass(row, nil)
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

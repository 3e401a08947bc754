package score

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// Embed returns a vector for each text; see engine.Engine. Texts of like length share a pass.
func (sc *Scorer) Embed(ctx context.Context, texts []string, options engine.EmbedOptions) ([][]float32, error) {
	if err := sc.CheckOpen(ctx); err != nil {
		return nil, err
	}
	prompt, err := sc.checkEmbed(texts, options)
	if err != nil {
		return nil, err
	}
	defer sc.Begin()()

	rows := make([]ScoreRow, len(texts))
	for i, text := range texts {
		var ids []int32
		if options.IDs != nil {
			ids = slices.Clone(options.IDs[i])
		}
		if ids == nil {
			ids, err = sc.Encode(ctx, prompt+text, true)
		}
		if err == nil {
			err = sc.CheckIDs(ids)
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		rows[i] = ScoreRow{index: i, IDs: ids}
	}
	slices.SortStableFunc(rows, func(a, b ScoreRow) int { return cmp.Compare(len(a.IDs), len(b.IDs)) })
	vectors := make([][]float32, len(texts))
	if !sc.Shape.Bidirectional { // such a model takes a long row as a batch of its own
		var long []ScoreRow
		rows, long = splitLong(rows)
		for _, row := range long {
			if err := sc.InTurn(ctx, nil, func(func()) (_ bool, err error) {
				vectors[row.index], err = sc.EmbedLong(ctx, row.IDs)
				return true, err
			}); err != nil {
				return nil, fmt.Errorf("text %d: %w", row.index, err)
			}
		}
	}
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := sc.JobInTurn(ctx, func() error { return sc.EmbedBatch(batch, vectors) }); err != nil {
			return nil, err
		}
	}
	for i, v := range vectors {
		if vectors[i], err = options.Vector(v, sc.Embedder.normalize); err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
	}
	return vectors, nil
}

// checkEmbed returns the text that goes before each text.
func (sc *Scorer) checkEmbed(texts []string, options engine.EmbedOptions) (prompt string, err error) {
	if err := options.Validate(texts); err != nil {
		return "", err
	}
	if options.Dimensions > sc.Embedder.size {
		return "", &engine.OptionError{Option: "Dimensions", Reason: fmt.Sprintf("the model's vectors have only %d", sc.Embedder.size)}
	}
	if options.Prompt == "" {
		return "", nil
	}
	prompt, ok := sc.Embedder.prompts[options.Prompt]
	if !ok {
		others := "none at all"
		if known := slices.Sorted(maps.Keys(sc.Embedder.prompts)); len(known) > 0 {
			others = fmt.Sprintf("%q", known)
		}
		return "", &engine.OptionError{Option: "PromptName", Reason: fmt.Sprintf("the model has no prompt %q; it has %s", options.Prompt, others)}
	}
	return prompt, nil
}

// EmbedBatch runs on the owner thread.
func (sc *Scorer) EmbedBatch(batch []ScoreRow, vectors [][]float32) (err error) {
	width := len(batch[len(batch)-1].IDs) // rows are sorted
	if err := sc.Reserve("a batch of texts", func() int64 {
		if isLong(0, width) { // a chunk's scores at a time
			return sc.WideBytes(width)
		}
		return sc.scoreBytes(0, width, 0)
	}); err != nil {
		return err
	}
	s := sc.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(owner.CacheLimit)) }()
	var values []float32
	if sc.Shape.Rings {
		values, err = sc.embedPacked(s, batch)
	} else {
		values, err = sc.embedPadded(s, batch, width)
	}
	if err != nil {
		return err
	}
	size := sc.Embedder.size
	for b, row := range batch {
		vectors[row.index] = values[b*size:][:size:size]
		sc.Counters.Prompt.Add(int64(len(row.IDs)))
	}
	return nil
}

// embedPadded is the vectors of rows, [B, size], by MLX's ops over rows of one width.
func (sc *Scorer) embedPadded(s *mlxc.Scope, batch []ScoreRow, width int) ([]float32, error) {
	padded, lengths := make([]int32, len(batch)*width), make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.IDs)
		lengths[b] = len(row.IDs)
	}
	pass := sc.newTextPass(s, lengths, width)
	if sc.Shape.Bidirectional && isLong(0, width) {
		pass = kv.NewWidePass(sc.Shape.Windows, decoder.PrefillChunk)
	}
	h := sc.Arch.Hidden(s, s.FromInts(padded, len(batch), width), pass)
	return sc.Embedder.Apply(s, h, lengths, width).Floats()
}

// embedPacked is the same by the CPU kernels, with the texts one after the other.
func (sc *Scorer) embedPacked(s *mlxc.Scope, batch []ScoreRow) ([]float32, error) {
	row, texts, pass := sc.newPackedTexts(batch)
	h := sc.Arch.Hidden(s, s.FromInts(row.IDs, 1, len(row.IDs)), pass)
	return sc.Embedder.applyPacked(s, s.Reshape(h, len(row.IDs), sc.Shape.HiddenSize), texts).Floats()
}

// newTextPass prepares a pass over padded rows of whole texts, which see backwards or, if the model does, both ways.
func (sc *Scorer) newTextPass(s *mlxc.Scope, lengths []int, width int) *kv.Pass {
	if sc.Shape.Bidirectional {
		return kv.NewBothWaysPass(s, lengths, width, sc.Shape.Windows)
	}
	pass, _ := kv.NewHistoryPass(s, &kv.History{}, width, sc.Shape.Windows)
	return pass
}

// newPackedTexts is the same for the CPU kernels, with the texts one after the other.
func (sc *Scorer) newPackedTexts(batch []ScoreRow) (row *kv.PackedRow, texts []kv.Span, pass *kv.Pass) {
	row = &kv.PackedRow{}
	for _, text := range batch {
		texts = append(texts, row.AddText(text.IDs))
	}
	if sc.Shape.Bidirectional {
		return row, texts, kv.NewPackedBothWays(row, texts)
	}
	return row, texts, kv.NewPackedPass(row, nil)
}

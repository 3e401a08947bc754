package score

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

const (
	// maxBatchRows and MaxBatchTokens bound one pass, and with it the memory of a call.
	maxBatchRows   = 64
	MaxBatchTokens = 2048
)

// Classify scores labels by the mean log-probability of their tokens after the prompt; see
// engine.Engine. Texts are batched by length; what precedes the text is prefilled once.
func (sc *Scorer) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	if err := sc.CheckOpen(ctx); err != nil {
		return nil, err
	}
	if err := sc.CheckCausal("classify"); err != nil {
		return nil, err
	}
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	defer sc.Begin()()

	task, err := sc.NewLabelTask(ctx, options)
	if err != nil {
		return nil, err
	}
	rows := make([]ScoreRow, len(texts))
	for i, text := range texts {
		if rows[i], err = task.Row(ctx, i, text); err != nil {
			return nil, err
		}
	}
	// Rows of like length share a pass; rows that do not begin with the shared prefix come last.
	slices.SortStableFunc(rows, func(a, b ScoreRow) int {
		return cmp.Or(cmp.Compare(len(b.Prefix), len(a.Prefix)), cmp.Compare(len(a.IDs), len(b.IDs)))
	})
	results := make([]engine.Classification, len(texts))
	rows, long := splitLong(rows)
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := task.Score(ctx, batch, results); err != nil {
			return nil, err
		}
	}
	for _, row := range long {
		var scores []float64
		err := sc.InTurn(ctx, nil, func(func()) (_ bool, err error) {
			scores, err = task.ScoreLong(ctx, row)
			return true, err
		})
		if err == nil {
			results[row.index], err = options.Result(scores)
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", row.index, err)
		}
		sc.Counters.Classified.Add(1)
	}
	return results, nil
}

// batchSize is how many of the sorted rows make the next pass.
func batchSize(rows []ScoreRow) int {
	n, prefix := 1, len(rows[0].Prefix)
	for n < len(rows) && n < maxBatchRows && len(rows[n].Prefix) == prefix {
		width := len(rows[n].IDs)
		if (n+1)*width > MaxBatchTokens || (n+1)*(prefix+width) > maxBatchPositions {
			break
		}
		n++
	}
	return n
}

// LabelTask is what the texts of one call share.
type LabelTask struct {
	*Scorer
	Options engine.ClassifyOptions
	*labelSet
}

// labelSet is what follows from labels and prompt alone.
type labelSet struct {
	labels  [][]int32 // tokens of each label
	longest int       // number of tokens of the longest label
	Prefix  []int32
}

// ScoreRow is one text: the shared prefix, if it begins with it, and the tokens after that.
type ScoreRow struct {
	index  int
	Prefix []int32
	IDs    []int32
}

// NewLabelTask encodes what the texts of a call share.
func (sc *Scorer) NewLabelTask(ctx context.Context, options engine.ClassifyOptions) (*LabelTask, error) {
	t := &LabelTask{Scorer: sc, Options: options}
	// A template may write the date, so the same labels can have another prefix tomorrow: what it makes of a text now belongs
	// to the key. Parts are quoted, because they may hold any separator.
	rendered, err := t.render(ctx, "a")
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%q %q %q", options.Prompt, options.Labels, rendered)
	if set, ok := sc.LabelSets.Get(key); ok {
		t.labelSet = set
		return t, nil
	}
	t.labelSet = &labelSet{}
	for _, label := range options.Labels {
		if !t.chats() {
			label = engine.PlainLabel(label)
		}
		ids, err := sc.Encode(ctx, label, false)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, &engine.OptionError{Option: "labels", Reason: fmt.Sprintf("label %q has no tokens", label)}
		}
		if err := sc.CheckVocabulary(ids); err != nil {
			return nil, &engine.OptionError{Option: "labels", Reason: fmt.Sprintf("label %q: %v", label, err)}
		}
		t.labels = append(t.labels, ids)
		t.longest = max(t.longest, len(ids))
	}
	// The prefix must follow from the options alone: taken from the texts of a call, it would make
	// results depend on the other texts of the call. Unlike texts show where the prompt's own tokens end.
	var probes [][]int32
	for _, probe := range []string{"a", "7", "Ωm"} {
		ids, err := t.Prompt(ctx, probe)
		if err != nil {
			return nil, err
		}
		probes = append(probes, ids)
	}
	t.Prefix = commonPrefix(probes...)
	sc.LabelSets.Add(key, t.labelSet)
	return t, nil
}

// allLabels are the indices of all labels.
func (t *LabelTask) allLabels() []int {
	all := make([]int, len(t.labels))
	for i := range all {
		all[i] = i
	}
	return all
}

// Prompt is the ids of the prompt with a text in it.
func (t *LabelTask) Prompt(ctx context.Context, text string) ([]int32, error) {
	if !t.chats() {
		return t.EncodePrompt(ctx, engine.Prompt{Text: t.Options.PlainPrompt(text), Plain: true}, nil)
	}
	return t.EncodePrompt(ctx, engine.Prompt{Messages: userTurn(t.Options.UserText(text)), Plain: true}, nil)
}

// chats reports whether the prompt is a turn of a chat.
func (t *LabelTask) chats() bool { return t.Template != nil && !t.Options.Completes() }

// render is the prompt of a text, as the chat template writes it if one does.
func (t *LabelTask) render(ctx context.Context, text string) (string, error) {
	if !t.chats() {
		return t.Options.PlainPrompt(text), nil
	}
	return t.Render(ctx, userTurn(t.Options.UserText(text)), nil)
}

func userTurn(content string) []engine.Message {
	return []engine.Message{{Role: "user", Content: content}}
}

// Row is a text of the call as a row of a pass.
func (t *LabelTask) Row(ctx context.Context, index int, text string) (ScoreRow, error) {
	ids, err := t.Prompt(ctx, text)
	if err != nil {
		return ScoreRow{}, fmt.Errorf("text %d: %w", index, err)
	}
	if limit := t.Context; limit > 0 && len(ids)+t.longest > limit {
		return ScoreRow{}, fmt.Errorf("text %d: %w", index, &engine.ContextLengthError{Tokens: len(ids), Limit: limit - t.longest + 1})
	}
	if n := len(t.Prefix); len(ids) > n && slices.Equal(ids[:n], t.Prefix) {
		return ScoreRow{index: index, Prefix: t.Prefix, IDs: ids[n:]}, nil
	}
	return ScoreRow{index: index, IDs: ids}, nil
}

// Score runs one batch on the owner thread and stores its results.
func (t *LabelTask) Score(ctx context.Context, batch []ScoreRow, results []engine.Classification) error {
	var scores [][]float64
	err := t.JobInTurn(ctx, func() (err error) {
		if err := t.Reserve("a batch of texts", func() int64 {
			return t.scoreBytes(len(batch[0].Prefix), len(batch[len(batch)-1].IDs), t.longest)
		}); err != nil {
			return err
		}
		past, err := t.sharedKV(ctx, batch[0].Prefix)
		if err != nil {
			return err
		}
		s := t.Lease.NewScope()
		defer func() { err = errors.Join(err, s.Close(), past.Free(), mlxc.TrimCache(owner.CacheLimit)) }()
		if t.Shape.Rings {
			scores, err = t.cpuLogProbs(s, past, batch)
		} else if packed := t.packFused(past, batch); packed != nil {
			scores, err = t.fusedLogProbs(s, past, packed, len(batch))
		} else {
			scores, err = t.logProbs(s, past, batch)
		}
		return err
	})
	if err != nil {
		return err
	}
	for b, row := range batch {
		if results[row.index], err = t.Options.Result(scores[b]); err != nil {
			return fmt.Errorf("text %d: %w", row.index, err)
		}
		t.Counters.Prompt.Add(int64(len(row.IDs)))
	}
	t.Counters.Classified.Add(int64(len(batch)))
	return nil
}

// logProbs returns the mean log-probability of every label for every row.
func (t *LabelTask) logProbs(s *mlxc.Scope, past *kv.History, batch []ScoreRow) ([][]float64, error) {
	width := len(batch[len(batch)-1].IDs) // rows are sorted
	padded := make([]int32, len(batch)*width)
	last := make([]int32, len(batch))
	lengths := make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.IDs)
		last[b] = int32(b*width + len(row.IDs) - 1)
		lengths[b] = past.Length + len(row.IDs)
	}
	pass, rows := kv.NewHistoryPass(s, past, width, t.Shape.Windows)
	h := t.Arch.Hidden(s, s.FromInts(padded, len(batch), width), pass)
	h = s.Take(s.Reshape(h, len(batch)*width, t.Shape.HiddenSize), s.FromInts(last, len(last)), 0)
	first := make([]int32, len(t.labels))
	var longer []int // labels of more than one token
	for l, ids := range t.labels {
		first[l] = ids[0]
		if len(ids) > 1 {
			longer = append(longer, l)
		}
	}
	begin, err := s.Take(decoder.LogSoftmax(s, t.Arch.Logits(s, h)), s.FromInts(first, len(first)), 1).Floats()
	if err != nil {
		return nil, err
	}
	scores := make([][]float64, len(batch))
	for b := range scores {
		scores[b] = make([]float64, len(t.labels))
		for l := range t.labels {
			scores[b][l] = float64(begin[b*len(t.labels)+l])
		}
	}
	group := max(1, min(maxBatchRows, maxBatchPositions/rows.Seen.Length)/len(batch))
	for labels := range slices.Chunk(longer, group) {
		if err := t.addRest(s, &rows.Seen, lengths, labels, scores); err != nil {
			return nil, err
		}
	}
	for b := range scores {
		for l, ids := range t.labels {
			scores[b][l] /= float64(len(ids))
		}
	}
	return scores, nil
}

// addRest adds the log-probabilities of the second and later tokens of some labels: one row for each
// pair of text and label, continuing what the text's row has seen.
func (t *LabelTask) addRest(parent *mlxc.Scope, seen *kv.History, lengths []int, labels []int, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	width := 0
	for _, l := range labels {
		width = max(width, len(t.labels[l])-1)
	}
	rows := len(lengths) * len(labels)
	inputs, targets := make([]int32, rows*width), make([]int32, rows*width)
	starts := make([]int, rows)
	for b, length := range lengths {
		for i, l := range labels {
			row := b*len(labels) + i
			ids := t.labels[l]
			copy(inputs[row*width:], ids[:len(ids)-1])
			copy(targets[row*width:], ids[1:])
			starts[row] = length
		}
	}
	past := &kv.History{Length: seen.Length}
	for i := range seen.Keys {
		past.Keys = append(past.Keys, s.Repeat(seen.Keys[i], len(labels), 0))
		past.Values = append(past.Values, s.Repeat(seen.Values[i], len(labels), 0))
	}
	h := t.Arch.Hidden(s, s.FromInts(inputs, rows, width), kv.NewRaggedPass(s, past, starts, width, t.Shape.Windows))
	logprobs := decoder.LogSoftmax(s, t.Arch.Logits(s, h))
	picked, err := s.TakeAlong(logprobs, s.FromInts(targets, rows, width, 1), -1).Floats()
	if err != nil {
		return err
	}
	for b := range lengths {
		for i, l := range labels {
			row := b*len(labels) + i
			for k := range len(t.labels[l]) - 1 {
				scores[b][l] += float64(picked[row*width+k])
			}
		}
	}
	return nil
}

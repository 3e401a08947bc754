package native

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

const (
	// maxBatchRows and maxBatchTokens bound one pass, and with it the memory of a call.
	maxBatchRows   = 64
	maxBatchTokens = 2048
)

// Classify scores labels by the mean log-probability of their tokens after the prompt; see
// engine.Engine. Texts are batched by length; what stands before the text is prefilled once.
func (m *Model) Classify(ctx context.Context, texts []string, options engine.ClassifyOptions) ([]engine.Classification, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.isClosed() {
		return nil, engine.ErrClosed
	}
	if err := m.checkCausal("classify"); err != nil {
		return nil, err
	}
	if err := options.Validate(texts); err != nil {
		return nil, err
	}
	m.counters.requests.Add(1)
	m.counters.active.Add(1)
	defer m.counters.active.Add(-1)

	task, err := m.newLabelTask(ctx, options)
	if err != nil {
		return nil, err
	}
	rows := make([]scoreRow, len(texts))
	for i, text := range texts {
		if rows[i], err = task.row(ctx, i, text); err != nil {
			return nil, err
		}
	}
	// Rows of like length share a pass; rows that do not begin with the shared prefix come last.
	slices.SortStableFunc(rows, func(a, b scoreRow) int {
		return cmp.Or(cmp.Compare(len(b.prefix), len(a.prefix)), cmp.Compare(len(a.ids), len(b.ids)))
	})
	results := make([]engine.Classification, len(texts))
	rows, long := splitLong(rows)
	for len(rows) > 0 {
		batch := rows[:batchSize(rows)]
		rows = rows[len(batch):]
		if err := task.score(ctx, batch, results); err != nil {
			return nil, err
		}
	}
	for _, row := range long {
		var scores []float64
		err := m.inTurn(ctx, nil, func() (_ bool, err error) {
			scores, err = task.scoreLong(ctx, row)
			return true, err
		})
		if err == nil {
			results[row.index], err = options.Result(scores)
		}
		if err != nil {
			return nil, fmt.Errorf("text %d: %w", row.index, err)
		}
		m.counters.classified.Add(1)
	}
	return results, nil
}

// batchSize is how many of the sorted rows make the next pass.
func batchSize(rows []scoreRow) int {
	n, prefix := 1, len(rows[0].prefix)
	for n < len(rows) && n < maxBatchRows && len(rows[n].prefix) == prefix {
		width := len(rows[n].ids)
		if (n+1)*width > maxBatchTokens || (n+1)*(prefix+width) > maxBatchPositions {
			break
		}
		n++
	}
	return n
}

// labelTask is what the texts of one call share.
type labelTask struct {
	model   *Model
	options engine.ClassifyOptions
	*labelSet
}

// labelSet is what follows from labels and prompt alone.
type labelSet struct {
	labels  [][]int32 // tokens of each label
	longest int       // number of tokens of the longest label
	prefix  []int32
}

// scoreRow is one text: the shared prefix, if it begins with it, and the tokens behind that.
type scoreRow struct {
	index  int
	prefix []int32
	ids    []int32
}

func (m *Model) newLabelTask(ctx context.Context, options engine.ClassifyOptions) (*labelTask, error) {
	t := &labelTask{model: m, options: options}
	// A template may write the date, so the same labels can have another prefix tomorrow: what it makes of a text now belongs
	// to the key. Parts are quoted, because they may hold any separator.
	rendered, err := t.render("a")
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%q %q %q", options.Prompt, options.Labels, rendered)
	if set, ok := m.labelSets.get(key); ok {
		t.labelSet = set
		return t, nil
	}
	t.labelSet = &labelSet{}
	for _, label := range options.Labels {
		if !t.chats() {
			label = engine.PlainLabel(label)
		}
		ids, err := m.Encode(ctx, label, false)
		if err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, &engine.OptionError{Option: "labels", Reason: fmt.Sprintf("label %q has no tokens", label)}
		}
		if err := m.checkVocabulary(ids); err != nil {
			return nil, &engine.OptionError{Option: "labels", Reason: fmt.Sprintf("label %q: %v", label, err)}
		}
		t.labels = append(t.labels, ids)
		t.longest = max(t.longest, len(ids))
	}
	// The prefix must follow from the options alone: taken from the texts of a call, it would make
	// results depend on a text's company. Unlike texts show where the prompt's own tokens end.
	var probes [][]int32
	for _, probe := range []string{"a", "7", "Ωm"} {
		ids, err := t.prompt(ctx, probe)
		if err != nil {
			return nil, err
		}
		probes = append(probes, ids)
	}
	t.prefix = commonPrefix(probes...)
	m.labelSets.put(key, t.labelSet)
	return t, nil
}

// allLabels are the indices of all labels.
func (t *labelTask) allLabels() []int {
	all := make([]int, len(t.labels))
	for i := range all {
		all[i] = i
	}
	return all
}

func (t *labelTask) prompt(ctx context.Context, text string) ([]int32, error) {
	if !t.chats() {
		return t.model.encodePrompt(ctx, engine.Prompt{Text: t.options.PlainPrompt(text), Plain: true}, nil)
	}
	return t.model.encodePrompt(ctx, engine.Prompt{Messages: userTurn(t.options.UserText(text)), Plain: true}, nil)
}

// chats reports whether the prompt is a turn of a chat.
func (t *labelTask) chats() bool { return t.model.template != nil && !t.options.Completes() }

// render is the prompt of a text, as the chat template writes it if one does.
func (t *labelTask) render(text string) (string, error) {
	if !t.chats() {
		return t.options.PlainPrompt(text), nil
	}
	return t.model.renderChat(userTurn(t.options.UserText(text)), nil)
}

func userTurn(content string) []engine.Message {
	return []engine.Message{{Role: "user", Content: content}}
}

func (t *labelTask) row(ctx context.Context, index int, text string) (scoreRow, error) {
	ids, err := t.prompt(ctx, text)
	if err != nil {
		return scoreRow{}, fmt.Errorf("text %d: %w", index, err)
	}
	if limit := t.model.info.ContextLength; limit > 0 && len(ids)+t.longest > limit {
		return scoreRow{}, fmt.Errorf("text %d: %w", index, &engine.ContextLengthError{Tokens: len(ids), Limit: limit - t.longest + 1})
	}
	if n := len(t.prefix); len(ids) > n && slices.Equal(ids[:n], t.prefix) {
		return scoreRow{index: index, prefix: t.prefix, ids: ids[n:]}, nil
	}
	return scoreRow{index: index, ids: ids}, nil
}

// score runs one batch on the owner thread and stores its results.
func (t *labelTask) score(ctx context.Context, batch []scoreRow, results []engine.Classification) error {
	m := t.model
	var scores [][]float64
	err := m.jobInTurn(ctx, func() (err error) {
		if err := m.reserve("a batch of texts", func() int64 {
			return m.scoreBytes(len(batch[0].prefix), len(batch[len(batch)-1].ids), t.longest)
		}); err != nil {
			return err
		}
		past, err := m.prefixes.get(ctx, m, batch[0].prefix)
		if err != nil {
			return err
		}
		s := m.lease.NewScope()
		defer func() { err = errors.Join(err, s.Close(), mlxc.TrimCache(cacheLimit)) }()
		if m.shape.kernels {
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
		if results[row.index], err = t.options.Result(scores[b]); err != nil {
			return fmt.Errorf("text %d: %w", row.index, err)
		}
		m.counters.prompt.Add(int64(len(row.ids)))
	}
	m.counters.classified.Add(int64(len(batch)))
	return nil
}

// logProbs returns the mean log-probability of every label for every row.
func (t *labelTask) logProbs(s *mlxc.Scope, past *history, batch []scoreRow) ([][]float64, error) {
	m := t.model
	width := len(batch[len(batch)-1].ids) // rows are sorted
	padded := make([]int32, len(batch)*width)
	last := make([]int32, len(batch))
	lengths := make([]int, len(batch))
	for b, row := range batch {
		copy(padded[b*width:], row.ids)
		last[b] = int32(b*width + len(row.ids) - 1)
		lengths[b] = past.length + len(row.ids)
	}
	st := newScoreState(s, past, width, m.shape.windows)
	h := m.arch.hidden(s, s.FromInts(padded, len(batch), width), st)
	h = s.Take(s.Reshape(h, len(batch)*width, m.shape.hiddenSize), s.FromInts(last, len(last)), 0)
	first := make([]int32, len(t.labels))
	var longer []int // labels of more than one token
	for l, ids := range t.labels {
		first[l] = ids[0]
		if len(ids) > 1 {
			longer = append(longer, l)
		}
	}
	begin, err := s.Take(logSoftmax(s, m.arch.logits(s, h)), s.FromInts(first, len(first)), 1).Floats()
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
	group := max(1, min(maxBatchRows, maxBatchPositions/st.seen.length)/len(batch))
	for labels := range slices.Chunk(longer, group) {
		if err := t.addRest(s, &st.seen, lengths, labels, scores); err != nil {
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
func (t *labelTask) addRest(parent *mlxc.Scope, seen *history, lengths []int, labels []int, scores [][]float64) (err error) {
	m := t.model
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
	past := &history{length: seen.length}
	for i := range seen.keys {
		past.keys = append(past.keys, s.Repeat(seen.keys[i], len(labels), 0))
		past.values = append(past.values, s.Repeat(seen.values[i], len(labels), 0))
	}
	st := newRaggedState(s, past, starts, width, m.shape.windows)
	h := m.arch.hidden(s, s.FromInts(inputs, rows, width), st)
	logprobs := logSoftmax(s, m.arch.logits(s, h))
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

// logSoftmax is log-probabilities in float32 whatever the logits' type: means over labels are compared
// in small differences.
func logSoftmax(s *mlxc.Scope, logits *mlxc.Array) *mlxc.Array {
	return logProbs(s, s.AsType(logits, mlxc.Float32), false)
}

package train

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"unicode/utf8"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native/internal/prompt"
)

// example is a text to train on; the loss begins at the prediction of token offset, or 1.
type example struct {
	ids    []int32
	offset int
}

// trainLine is a line of a data file, in one of mlx-lm's forms.
type trainLine struct {
	Text       *string          `json:"text"`
	Prompt     *string          `json:"prompt"`
	Completion *string          `json:"completion"`
	Messages   []engine.Message `json:"messages"`
	Tools      json.RawMessage  `json:"tools"`
}

// readExamples reads a JSONL file.
func readExamples(ctx context.Context, enc *prompt.Encoder, path string, maskPrompt bool, longest int) ([]example, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	var out []example
	for n := 1; lines.Scan(); n++ {
		data := lines.Bytes()
		if n == 1 && (bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff"))) {
			return nil, fmt.Errorf("train: %s, line 1: %w, it looks like UTF-16: save it as UTF-8", path, engine.ErrInvalidUTF8)
		}
		if n == 1 {
			data = bytes.TrimPrefix(data, []byte("\ufeff"))
		}
		if len(bytes.TrimSpace(data)) == 0 {
			continue
		}
		if !utf8.Valid(data) { // JSON's decoder would put other characters in its place
			return nil, fmt.Errorf("train: %s, line %d: %w", path, n, engine.ErrInvalidUTF8)
		}
		var line trainLine
		if err := json.Unmarshal(data, &line); err != nil {
			return nil, fmt.Errorf("train: %s, line %d: %w", path, n, err)
		}
		e, err := encodeExample(ctx, enc, line, maskPrompt)
		if err == nil {
			err = enc.CheckVocabulary(e.ids)
		}
		if err != nil {
			return nil, fmt.Errorf("train: %s, line %d: %w", path, n, err)
		}
		e.ids = e.ids[:min(len(e.ids), longest)]
		if len(e.ids) > max(1, e.offset) {
			out = append(out, e)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("train: %s: %w", path, err)
	}
	return out, nil
}

// encodeExample tokenises as mlx-lm does.
func encodeExample(ctx context.Context, enc *prompt.Encoder, line trainLine, maskPrompt bool) (e example, err error) {
	messages := line.Messages
	switch {
	case line.Text != nil:
		if e.ids, err = enc.Tokenizer.Encode(*line.Text, true); err != nil {
			return e, err
		}
		if end := enc.EndToken; end >= 0 && (len(e.ids) == 0 || e.ids[len(e.ids)-1] != end) {
			e.ids = append(e.ids, end)
		}
		return e, nil
	case line.Prompt != nil && line.Completion != nil:
		messages = []engine.Message{{Role: "user", Content: *line.Prompt}, {Role: "assistant", Content: *line.Completion}}
	case len(messages) == 0:
		return e, errors.New("none of text, messages, and prompt with completion")
	}
	if e.ids, err = encodeChat(ctx, enc, messages, line.Tools, false); err != nil || !maskPrompt {
		return e, err
	}
	last := len(messages) - 1
	prompt, err := encodeChat(ctx, enc, messages[:last], line.Tools, messages[last].Role == "assistant")
	e.offset = len(prompt)
	return e, err
}

func encodeChat(ctx context.Context, enc *prompt.Encoder, messages []engine.Message, tools json.RawMessage, open bool) ([]int32, error) {
	if enc.Template == nil {
		return nil, fmt.Errorf("%w: train on lines with text", engine.ErrNoChatTemplate)
	}
	var extras map[string]any
	if len(tools) > 0 {
		extras = map[string]any{"tools": tools}
	}
	text, err := enc.Template.Render(ctx, messages, open, extras)
	if err != nil {
		return nil, err
	}
	return enc.Tokenizer.Encode(text, false)
}

// trainBatch is rows of one length: tokens, and the predictions that count. Logits are computed for these only: of a prompt
// that is masked, nothing but its states is needed.
type trainBatch struct {
	rows, length int
	ids          []int32 // [rows, length]
	picks        []int32 // positions, row after row, whose next token is predicted
	targets      []int32 // those tokens
	segments     []int32 // of packed rows: the number of the example that each position belongs to; nil otherwise
}

// padTo is the multiple that passes are padded to, so that few shapes occur; as in mlx-lm.
const padTo = 32

func padded(n int) int { return (n + padTo - 1) / padTo * padTo }

// makeBatches groups examples of like length, as mlx-lm does; those that do not fill the last batch are left out.
func makeBatches(examples []example, size, longest int) []trainBatch {
	examples = slices.Clone(examples)
	slices.SortStableFunc(examples, func(a, b example) int { return len(a.ids) - len(b.ids) })
	var out []trainBatch
	for group := range slices.Chunk(examples, size) {
		if len(group) < size {
			break
		}
		b := newTrainBatch(size, min(padded(len(group[size-1].ids)), longest-1))
		for row, e := range group {
			b.put(row, 0, e)
		}
		out = append(out, b)
	}
	return out
}

// packBatches puts as many examples into each row as it holds, longest first.
func packBatches(examples []example, size, longest int) []trainBatch {
	examples = slices.Clone(examples)
	slices.SortStableFunc(examples, func(a, b example) int { return len(b.ids) - len(a.ids) })
	var rows [][]example
	var free []int
	for _, e := range examples {
		row := slices.IndexFunc(free, func(n int) bool { return n >= len(e.ids) })
		if row < 0 {
			row = len(rows)
			rows, free = append(rows, nil), append(free, longest)
		}
		rows[row], free[row] = append(rows[row], e), free[row]-len(e.ids)
	}
	var out []trainBatch
	for group := range slices.Chunk(rows, size) {
		b := newTrainBatch(len(group), longest-1)
		b.segments = make([]int32, b.rows*b.length)
		for row, all := range group {
			at := 0
			for k, e := range all {
				b.put(row, at, e)
				for i := at; i < min(at+len(e.ids), b.length); i++ {
					b.segments[row*b.length+i] = int32(k + 1)
				}
				at += len(e.ids)
			}
		}
		out = append(out, b)
	}
	return out
}

func newTrainBatch(rows, length int) trainBatch {
	return trainBatch{rows: rows, length: length, ids: make([]int32, rows*length)}
}

// put writes an example from a position on. Its first token is not predicted; its last is, but predicts nothing.
func (b *trainBatch) put(row, at int, e example) {
	start := row * b.length
	copy(b.ids[start+at:start+b.length], e.ids)
	for i := max(1, e.offset); i < len(e.ids) && at+i-1 < b.length; i++ {
		b.predict(start+at+i-1, e.ids[i])
	}
	// mlx-lm also counts the prediction after the last token, of padding, where there is any.
	if b.segments == nil && len(e.ids) <= b.length {
		b.predict(start+len(e.ids)-1, 0)
	}
}

func (b *trainBatch) predict(position int, target int32) {
	b.picks, b.targets = append(b.picks, int32(position)), append(b.targets, target)
}

// batchOrder is the order of batches: every epoch another one, the same for a seed.
type batchOrder struct {
	batches []trainBatch
	seed    uint64
	epoch   int
	order   []int
}

// at is the batch of an iteration, counted from 0.
func (o *batchOrder) at(iteration int) *trainBatch {
	epoch := iteration / len(o.batches)
	if o.order == nil || epoch != o.epoch {
		o.epoch, o.order = epoch, rand.New(rand.NewPCG(o.seed, uint64(epoch))).Perm(len(o.batches))
	}
	return &o.batches[o.order[iteration%len(o.batches)]]
}

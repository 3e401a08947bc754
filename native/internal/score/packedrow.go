package score

import (
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// Texts are scored in one pass where kernels allow it: texts and the rest of every label lie one after the other in a single
// row, and every token is told what it sees. A text alone then costs one pass, whatever its labels are made of.

const (
	// maxFused bounds a row for the CUDA kernels: longer ones are faster in the batched form, whose attention is a matrix product.
	maxFused = 192
	// On a GPU rows and picks are padded to blocks, so that few shapes occur.
	fusedBlock, rowBlock, pickBlock = 16, 4, 16
	// maxPackedTokens bounds a row for the CPU kernels, and with it the memory of a pass.
	maxPackedTokens = 2048
)

// labelRow is texts with the rest of every label in one packed row.
type labelRow struct {
	kv.PackedRow
	rows  []int32 // tokens whose logits are wanted
	picks []pick  // every label's tokens
}

// pick is a label's token: its probability after a wanted row counts for a label of a text.
type pick struct {
	row, id     int32
	text, label int
}

// newLabelRow lays texts out after length positions of the past. labels are indices.
func (t *LabelTask) newLabelRow(length int, batch []ScoreRow, labels []int) *labelRow {
	p := &labelRow{PackedRow: kv.PackedRow{Past: length}}
	for b, row := range batch {
		text := p.AddText(row.IDs)
		answer := p.row(text.End - 1)
		for _, l := range labels {
			label := t.labels[l]
			p.picks = append(p.picks, pick{answer, label[0], b, l})
			at := len(p.IDs)
			p.Add(label[:len(label)-1], length+len(row.IDs), text)
			for k, id := range label[1:] {
				p.picks = append(p.picks, pick{p.row(at + k), id, b, l})
			}
		}
	}
	return p
}

// row asks for the logits of a token and returns their number.
func (p *labelRow) row(token int) int32 {
	p.rows = append(p.rows, int32(token))
	return int32(len(p.rows) - 1)
}

// rest is how many tokens of some labels come after their first ones.
func (t *LabelTask) rest(labels []int) int {
	n := 0
	for _, l := range labels {
		n += len(t.labels[l]) - 1
	}
	return n
}

// sum adds the picks' log-probabilities up for each text and label, as means over the label's tokens.
func (t *LabelTask) sum(scores [][]float64, picks []pick, values []float32) {
	for i, p := range picks {
		scores[p.text][p.label] += float64(values[i]) / float64(len(t.labels[p.label]))
	}
}

// emptyScores is room for the scores of texts.
func (t *LabelTask) emptyScores(texts int) [][]float64 {
	scores := make([][]float64, texts)
	for b := range scores {
		scores[b] = make([]float64, len(t.labels))
	}
	return scores
}

func roundUp(n, block int) int { return (n + block - 1) / block * block }

package native

// Texts are scored in one pass where kernels allow it: texts and the rest of every label lie one behind the other in a single
// row, and every token is told what it sees. A text alone then costs one pass, whatever its labels are made of.

const (
	// maxFused bounds a row for the CUDA kernels: longer ones are faster in the batched form, whose attention is a matrix product.
	maxFused = 192
	// On a GPU rows and picks are padded to blocks, so that few shapes occur.
	fusedBlock, rowBlock, pickBlock = 16, 4, 16
	// maxPackedTokens bounds a row for the CPU kernels, and with it the memory of a pass.
	maxPackedTokens = 2048
)

// packedRow is the layout of one pass.
type packedRow struct {
	ids, positions []int32
	first, second  []span  // what each token sees besides the past: tokens that follow the past, and those up to itself
	rows           []int32 // tokens whose logits are wanted
	picks          []pick  // every label's tokens
	past           int
}

// pick is a label's token: its probability behind a wanted row counts for a label of a text.
type pick struct {
	row, id     int32
	text, label int
}

// newPackedRow lays texts out behind length positions of the past. labels are indices.
func (t *labelTask) newPackedRow(length int, batch []scoreRow, labels []int) *packedRow {
	p := &packedRow{past: length}
	for b, row := range batch {
		begin := len(p.ids)
		p.add(row.ids, length, span{begin, begin})
		text := span{begin, len(p.ids)}
		answer := p.row(text.end - 1)
		for _, l := range labels {
			label := t.labels[l]
			p.picks = append(p.picks, pick{answer, label[0], b, l})
			at := len(p.ids)
			p.add(label[:len(label)-1], length+len(row.ids), text)
			for k, id := range label[1:] {
				p.picks = append(p.picks, pick{p.row(at + k), id, b, l})
			}
		}
	}
	return p
}

// add appends tokens from a position on, each of which sees the past, the tokens of a span, and those added with it up to itself.
func (p *packedRow) add(ids []int32, position int, sees span) {
	begin := len(p.ids)
	for k, id := range ids {
		p.ids, p.positions = append(p.ids, id), append(p.positions, int32(position+k))
		p.first, p.second = append(p.first, sees), append(p.second, span{begin, begin + k + 1})
	}
}

// row asks for the logits of a token and returns their number.
func (p *packedRow) row(token int) int32 {
	p.rows = append(p.rows, int32(token))
	return int32(len(p.rows) - 1)
}

// rest is how many tokens of some labels come after their first ones.
func (t *labelTask) rest(labels []int) int {
	n := 0
	for _, l := range labels {
		n += len(t.labels[l]) - 1
	}
	return n
}

// sum adds the picks' log-probabilities up for each text and label, as means over the label's tokens.
func (t *labelTask) sum(scores [][]float64, picks []pick, values []float32) {
	for i, p := range picks {
		scores[p.text][p.label] += float64(values[i]) / float64(len(t.labels[p.label]))
	}
}

// emptyScores is room for the scores of texts.
func (t *labelTask) emptyScores(texts int) [][]float64 {
	scores := make([][]float64, texts)
	for b := range scores {
		scores[b] = make([]float64, len(t.labels))
	}
	return scores
}

func roundUp(n, block int) int { return (n + block - 1) / block * block }

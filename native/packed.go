package native

import (
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/metal"
)

// Few texts are scored in one compiled pass: texts and the rest of every label lie one behind the other in a
// single row, and a mask says who sees what. A text alone then costs one pass, whatever its labels are made of.

const (
	// maxPacked bounds a packed row: longer ones are faster in the batched form, whose attention is a matrix product.
	maxPacked = 192
	// Rows and picks are padded to blocks, so that few shapes occur.
	packedBlock, rowBlock, pickBlock = 16, 4, 16
)

// packedRow is the layout of one pass.
type packedRow struct {
	ids, positions []int32
	visible        []bool  // [T, past+T]
	rows           []int32 // tokens whose logits are wanted
	picks          []int32 // row * vocab + id of every label's token
	owners         []pick  // of the picks that are no padding
	past, width    int     // width is past + T
}

type pick struct{ text, label int }

// pack lays a batch out, or returns nil if it is none for a packed pass.
func (t *labelTask) pack(past *history, batch []scoreRow) *packedRow {
	m := t.model
	if m.passes == nil || past.length == 0 {
		return nil
	}
	rest := 0
	for _, label := range t.labels {
		rest += len(label) - 1
	}
	total := 0
	for _, row := range batch {
		total += len(row.ids) + rest
	}
	total = roundUp(total, packedBlock)
	if total > maxPacked || past.length+total > fused.MaxPackedKeys {
		return nil
	}
	for _, window := range m.shape.windows {
		if window > 0 && past.length+total > window {
			return nil
		}
	}
	width := past.length + total
	p := &packedRow{past: past.length, width: width, visible: make([]bool, total*width)}
	for b, row := range batch {
		first := len(p.ids)
		p.add(row.ids, past.length, first, first)
		last := len(p.ids)
		answer := p.row(last - 1)
		for l, label := range t.labels {
			p.pick(answer, m.shape.vocabSize, label[0], pick{b, l})
			begin := len(p.ids)
			p.add(label[:len(label)-1], past.length+last-first, first, last)
			for k, id := range label[1:] {
				p.pick(p.row(begin+k), m.shape.vocabSize, id, pick{b, l})
			}
		}
	}
	p.pad(total)
	return p
}

// add appends tokens from a position on, each of which sees the tokens from first to last, those added with
// it up to itself, and all of the past.
func (p *packedRow) add(ids []int32, position, first, last int) {
	for k, id := range ids {
		at := len(p.ids)
		p.ids, p.positions = append(p.ids, id), append(p.positions, int32(position+k))
		sees := p.visible[at*p.width:][:p.width]
		for i := range p.past {
			sees[i] = true
		}
		for i := first; i < last; i++ {
			sees[p.past+i] = true
		}
		for i := at - k; i <= at; i++ {
			sees[p.past+i] = true
		}
	}
}

// row asks for the logits of a token and returns their number.
func (p *packedRow) row(token int) int {
	p.rows = append(p.rows, int32(token))
	return len(p.rows) - 1
}

func (p *packedRow) pick(row, vocab int, id int32, owner pick) {
	p.picks, p.owners = append(p.picks, int32(row*vocab)+id), append(p.owners, owner)
}

// pad fills up to whole blocks. Padding sees the past, so that its attention is a number.
func (p *packedRow) pad(total int) {
	p.add(make([]int32, total-len(p.ids)), p.past, 0, 0)
	for len(p.rows)%rowBlock != 0 {
		p.rows = append(p.rows, 0)
	}
	for len(p.picks)%pickBlock != 0 {
		p.picks = append(p.picks, 0)
	}
}

func roundUp(n, block int) int { return (n + block - 1) / block * block }

// packedState is a pass over a packed row.
type packedState struct {
	fusedState
	where, visible     *metal.Array
	pastKeys, pastVals []*metal.Array
}

func (st *packedState) positions(*metal.Scope, int, int) *metal.Array { return st.where }

func (st *packedState) attend(s *metal.Scope, layer int, q, k, v *metal.Array, _ float32) *metal.Array {
	return st.decoder.kernels.AttendPacked(s, q, st.pastKeys[layer], st.pastVals[layer], k, v, st.visible)
}

// tracePacked takes ids [1, T], positions [1, T], the mask bool [T, P+T], rows [R], picks [N] and every layer's keys
// and values of the shared prefix. It returns the log-probabilities of the picks, float32 [N].
func (n *network) tracePacked(s *metal.Scope, in []*metal.Array) []*metal.Array {
	st := &packedState{fusedState: fusedState{n.shape.fused}, where: in[1], visible: in[2]}
	for i := 5; i < len(in); i += 2 {
		st.pastKeys, st.pastVals = append(st.pastKeys, in[i]), append(st.pastVals, in[i+1])
	}
	rows, picks := in[3], in[4]
	h := n.arch.hidden(s, in[0], st)
	h = s.Take(s.Reshape(h, h.Dim(1), n.shape.hiddenSize), rows, 0)
	logits := s.AsType(n.arch.logits(s, h), metal.Float32)
	sums := s.LogSumExp(logits, -1, false)
	of := s.FloorDivide(picks, s.Scalar(float64(n.shape.vocabSize), metal.Int32))
	return []*metal.Array{s.Subtract(s.Take(s.Reshape(logits, -1), picks, 0), s.Take(sums, of, 0))}
}

// packedLogProbs is logProbs for a packed row.
func (t *labelTask) packedLogProbs(s *metal.Scope, past *history, p *packedRow, texts int) ([][]float64, error) {
	n := len(p.ids)
	in := []*metal.Array{
		s.FromInts(p.ids, 1, n), s.FromInts(p.positions, 1, n), s.FromBools(p.visible, n, p.width),
		s.FromInts(p.rows, len(p.rows)), s.FromInts(p.picks, len(p.picks)),
	}
	for i := range past.keys {
		in = append(in, past.keys[i], past.values[i])
	}
	out := t.model.passes.packed.Call(s, in...)
	if len(out) != 1 {
		return nil, s.Err()
	}
	values, err := out[0].Floats()
	if err != nil {
		return nil, err
	}
	scores := make([][]float64, texts)
	for b := range scores {
		scores[b] = make([]float64, len(t.labels))
	}
	for i, owner := range p.owners {
		scores[owner.text][owner.label] += float64(values[i]) / float64(len(t.labels[owner.label]))
	}
	return scores, nil
}

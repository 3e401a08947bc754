package native

import (
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// fusedRow is a packed row as the compiled CUDA pass takes it, padded to blocks.
type fusedRow struct {
	*packedRow
	visible []bool  // [T, past+T]
	flat    []int32 // row * vocab + id of every pick
	rowOf   []int32 // row of every pick
}

// packFused lays a batch out, or returns nil if it is none for the CUDA kernels.
func (t *labelTask) packFused(past *history, batch []scoreRow) *fusedRow {
	m := t.model
	if m.passes == nil || past.length == 0 {
		return nil
	}
	all := t.allLabels()
	total := len(batch) * t.rest(all)
	for _, row := range batch {
		total += len(row.ids)
	}
	total = roundUp(total, fusedBlock)
	if total > maxFused || past.length+total > fused.MaxPackedKeys {
		return nil
	}
	for _, window := range m.shape.windows {
		if window > 0 && past.length+total > window {
			return nil
		}
	}
	p := &fusedRow{packedRow: t.newPackedRow(past.length, batch, all)}
	// Padding sees the past, so that its attention is a number.
	for len(p.ids) < total {
		p.add([]int32{0}, past.length, span{})
	}
	for len(p.rows)%rowBlock != 0 {
		p.rows = append(p.rows, 0)
	}
	width := past.length + total
	p.visible = make([]bool, total*width)
	for at := range p.ids {
		sees := p.visible[at*width:][:width]
		for i := range past.length {
			sees[i] = true
		}
		for _, s := range []span{p.first[at], p.second[at]} {
			for i := s.begin; i < s.end; i++ {
				sees[past.length+i] = true
			}
		}
	}
	for _, pick := range p.picks {
		p.flat, p.rowOf = append(p.flat, pick.row*int32(m.shape.vocabSize)+pick.id), append(p.rowOf, pick.row)
	}
	for len(p.flat)%pickBlock != 0 {
		p.flat, p.rowOf = append(p.flat, 0), append(p.rowOf, 0)
	}
	return p
}

// packedState is a pass over a packed row by the CUDA kernels.
type packedState struct {
	fusedState
	where, visible     *mlxc.Array
	pastKeys, pastVals []*mlxc.Array
}

func (st *packedState) positions(*mlxc.Scope, int, int) *mlxc.Array { return st.where }

func (st *packedState) attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, _ float32) *mlxc.Array {
	return st.decoder.kernels.AttendPacked(s, q, st.pastKeys[layer], st.pastVals[layer], k, v, st.visible)
}

// tracePacked takes ids [1, T], positions [1, T], the mask bool [T, P+T], rows [R], picks [N], the picks' rows [N] and every layer's keys
// and values of the shared prefix. It returns the log-probabilities of the picks, float32 [N].
func (n *network) tracePacked(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	st := &packedState{fusedState: fusedState{n.shape.fused}, where: in[1], visible: in[2]}
	for i := 6; i < len(in); i += 2 {
		st.pastKeys, st.pastVals = append(st.pastKeys, in[i]), append(st.pastVals, in[i+1])
	}
	rows, picks, of := in[3], in[4], in[5]
	h := n.arch.hidden(s, in[0], st)
	kernels := n.shape.fused.kernels
	h = s.Squeeze(kernels.Rows(s, s.Reshape(h, h.Dim(1), n.shape.hiddenSize), s.Reshape(rows, 1, rows.Dim(0)), nil), 0)
	logits := s.AsType(n.arch.logits(s, h), mlxc.Float32)
	sums := s.LogSumExp(logits, -1, false)
	return []*mlxc.Array{kernels.Picks(s, logits, sums, picks, of)}
}

// fusedLogProbs is logProbs for a packed row.
func (t *labelTask) fusedLogProbs(s *mlxc.Scope, past *history, p *fusedRow, texts int) ([][]float64, error) {
	n := len(p.ids)
	in := []*mlxc.Array{
		s.FromInts(p.ids, 1, n), s.FromInts(p.positions, 1, n), s.FromBools(p.visible, n, past.length+n),
		s.FromInts(p.rows, len(p.rows)), s.FromInts(p.flat, len(p.flat)),
		s.FromInts(p.rowOf, len(p.rowOf)),
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
	scores := t.emptyScores(texts)
	t.sum(scores, p.picks, values)
	return scores, nil
}

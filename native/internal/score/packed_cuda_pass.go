package score

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// fusedRow is a packed row as the compiled CUDA pass takes it, padded to blocks.
type fusedRow struct {
	*labelRow
	visible []bool  // [T, past+T]
	flat    []int32 // row * vocab + id of every pick
	rowOf   []int32 // row of every pick
}

// packFused lays a batch out, or returns nil if it is none for the CUDA kernels.
func (t *LabelTask) packFused(past *kv.History, batch []ScoreRow) *fusedRow {
	sc := t.Scorer
	if sc.packed == nil || past.Length == 0 {
		return nil
	}
	all := t.allLabels()
	total := len(batch) * t.rest(all)
	for _, row := range batch {
		total += len(row.IDs)
	}
	total = roundUp(total, fusedBlock)
	if total > maxFused || past.Length+total > decoder.MaxPackedKeys {
		return nil
	}
	for _, window := range sc.Shape.Windows {
		if window > 0 && past.Length+total > window {
			return nil
		}
	}
	p := &fusedRow{labelRow: t.newLabelRow(past.Length, batch, all)}
	// Padding sees the past, so that its attention is a number.
	for len(p.IDs) < total {
		p.Add([]int32{0}, past.Length, kv.Span{})
	}
	for len(p.rows)%rowBlock != 0 {
		p.rows = append(p.rows, 0)
	}
	width := past.Length + total
	p.visible = make([]bool, total*width)
	for at := range p.IDs {
		sees := p.visible[at*width:][:width]
		for i := range past.Length {
			sees[i] = true
		}
		for _, s := range []kv.Span{p.First[at], p.Second[at]} {
			for i := s.Begin; i < s.End; i++ {
				sees[past.Length+i] = true
			}
		}
	}
	for _, pick := range p.picks {
		p.flat, p.rowOf = append(p.flat, pick.row*int32(sc.Shape.VocabSize)+pick.id), append(p.rowOf, pick.row)
	}
	for len(p.flat)%pickBlock != 0 {
		p.flat, p.rowOf = append(p.flat, 0), append(p.rowOf, 0)
	}
	return p
}

// packedMemory is the memory of a pass over a packed row by the CUDA kernels.
type packedMemory struct {
	decoder            *decoder.FusedDecoder
	visible            *mlxc.Array
	pastKeys, pastVals []*mlxc.Array
}

// Attend sees what is visible.
func (st *packedMemory) Attend(s *mlxc.Scope, layer int, q, k, v *mlxc.Array, _ float32) *mlxc.Array {
	return st.decoder.Kernels.AttendPacked(s, q, st.pastKeys[layer], st.pastVals[layer], k, v, st.visible)
}

// tracePacked takes ids [1, T], positions [1, T], the mask bool [T, P+T], rows [R], picks [N], the picks' rows [N] and every layer's keys
// and values of the shared prefix. It returns the log-probabilities of the picks, float32 [N].
func (n *Scorer) tracePacked(s *mlxc.Scope, in []*mlxc.Array) []*mlxc.Array {
	st := &packedMemory{decoder: n.CUDA, visible: in[2]}
	for i := 6; i < len(in); i += 2 {
		st.pastKeys, st.pastVals = append(st.pastKeys, in[i]), append(st.pastVals, in[i+1])
	}
	rows, picks, of := in[3], in[4], in[5]
	h := n.Arch.Hidden(s, in[0], &kv.Pass{At: in[1], Memory: st})
	kernels := n.CUDA.Kernels
	h = s.Squeeze(kernels.Rows(s, s.Reshape(h, h.Dim(1), n.Shape.HiddenSize), s.Reshape(rows, 1, rows.Dim(0)), nil), 0)
	logits := s.AsType(n.Arch.Logits(s, h), mlxc.Float32)
	sums := s.LogSumExp(logits, -1, false)
	return []*mlxc.Array{kernels.Picks(s, logits, sums, picks, of)}
}

// fusedLogProbs is LogProbs for a packed row.
func (t *LabelTask) fusedLogProbs(s *mlxc.Scope, past *kv.History, p *fusedRow, texts int) ([][]float64, error) {
	n := len(p.IDs)
	in := []*mlxc.Array{
		s.FromInts(p.IDs, 1, n), s.FromInts(p.Positions, 1, n), s.FromBools(p.visible, n, past.Length+n),
		s.FromInts(p.rows, len(p.rows)), s.FromInts(p.flat, len(p.flat)),
		s.FromInts(p.rowOf, len(p.rowOf)),
	}
	for i := range past.Keys {
		in = append(in, past.Keys[i], past.Values[i])
	}
	out := t.packed.Call(s, in...)
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

package native

import (
	"cmp"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// cpuLogProbs is logProbs by the CPU kernels: in one pass, or in several where texts or labels are too long for one.
func (t *labelTask) cpuLogProbs(s *mlxc.Scope, past *History, batch []scoreRow) ([][]float64, error) {
	all := t.allLabels()
	scores := t.emptyScores(len(batch))
	each := t.rest(all)
	for len(batch) > 0 {
		// As many texts as fit, and at least one.
		n, total := 0, 0
		for n < len(batch) && (n == 0 || total+len(batch[n].ids)+each <= maxPackedTokens) {
			total += len(batch[n].ids) + each
			n++
		}
		var err error
		if total <= maxPackedTokens {
			err = t.scorePacked(s, past.sequence, t.newLabelRow(past.length, batch[:n], all), scores[len(scores)-len(batch):])
		} else {
			err = t.scoreInGroups(s, past, batch[0], scores[len(scores)-len(batch):])
		}
		if err != nil {
			return nil, err
		}
		batch = batch[n:]
	}
	return scores, nil
}

// scorePacked runs one pass and adds its scores to those of the row's texts.
func (t *labelTask) scorePacked(parent *mlxc.Scope, past *Sequence, row *labelRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	h := t.arch.hidden(s, s.FromInts(row.ids, 1, len(row.ids)), newPackedPass(&row.PackedRow, past))
	h = s.Take(s.Reshape(h, len(row.ids), t.shape.hiddenSize), s.FromInts(row.rows, len(row.rows)), 0)
	slices.SortStableFunc(row.picks, func(a, b pick) int { return cmp.Compare(a.id, b.id) })
	rows, ids := make([]int32, len(row.picks)), make([]int32, len(row.picks))
	for i, p := range row.picks {
		rows[i], ids[i] = p.row, p.id
	}
	values, err := s.Scores(h, t.outputLayer(), s.FromInts(rows, len(rows)), s.FromInts(ids, len(ids))).Floats()
	if err != nil {
		return err
	}
	t.sum(scores, row.picks, values)
	return nil
}

// scoreInGroups scores one text whose labels are too many for a pass: its tokens but the last are prefilled, and groups of labels
// go on from there.
func (t *labelTask) scoreInGroups(parent *mlxc.Scope, past *History, row scoreRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	state := t.newSequence()
	if past.sequence != nil {
		state = past.sequence.share(s)
	}
	defer func() { err = errors.Join(err, state.free()) }()
	last := len(row.ids) - 1
	if err := t.network.prefill(s, state, row.ids[:last]); err != nil {
		return err
	}
	end := []scoreRow{{ids: row.ids[last:]}}
	for labels := t.allLabels(); len(labels) > 0; {
		n := 1
		for n < len(labels) && t.rest(labels[:n+1])+1 <= maxPackedTokens {
			n++
		}
		if err := t.scorePacked(s, state, t.newLabelRow(past.length+last, end, labels[:n]), scores); err != nil {
			return err
		}
		labels = labels[n:]
	}
	return nil
}

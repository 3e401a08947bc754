package score

import (
	"cmp"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// cpuLogProbs is logProbs by the CPU kernels: in one pass, or in several where texts or labels are too long for one.
func (t *LabelTask) cpuLogProbs(s *mlxc.Scope, past *kv.History, batch []ScoreRow) ([][]float64, error) {
	all := t.allLabels()
	scores := t.emptyScores(len(batch))
	each := t.rest(all)
	for len(batch) > 0 {
		// As many texts as fit, and at least one.
		n, total := 0, 0
		for n < len(batch) && (n == 0 || total+len(batch[n].IDs)+each <= maxPackedTokens) {
			total += len(batch[n].IDs) + each
			n++
		}
		var err error
		if total <= maxPackedTokens {
			err = t.scorePacked(s, past.Sequence, t.newLabelRow(past.Length, batch[:n], all), scores[len(scores)-len(batch):])
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
func (t *LabelTask) scorePacked(parent *mlxc.Scope, past *kv.Sequence, row *labelRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	h := t.Arch.Hidden(s, s.FromInts(row.IDs, 1, len(row.IDs)), kv.NewPackedPass(&row.PackedRow, past))
	h = s.Take(s.Reshape(h, len(row.IDs), t.Shape.HiddenSize), s.FromInts(row.rows, len(row.rows)), 0)
	slices.SortStableFunc(row.picks, func(a, b pick) int { return cmp.Compare(a.id, b.id) })
	rows, ids := make([]int32, len(row.picks)), make([]int32, len(row.picks))
	for i, p := range row.picks {
		rows[i], ids[i] = p.row, p.id
	}
	values, err := s.Scores(h, t.OutputLayer(), s.FromInts(rows, len(rows)), s.FromInts(ids, len(ids))).Floats()
	if err != nil {
		return err
	}
	t.sum(scores, row.picks, values)
	return nil
}

// scoreInGroups scores one text whose labels are too many for a pass: its tokens but the last are prefilled, and groups of labels
// go on from there.
func (t *LabelTask) scoreInGroups(parent *mlxc.Scope, past *kv.History, row ScoreRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	state := t.NewSequence()
	if past.Sequence != nil {
		state = past.Sequence.Share(s)
	}
	defer func() { err = errors.Join(err, state.Free()) }()
	last := len(row.IDs) - 1
	if err := t.Network.Prefill(s, state, row.IDs[:last]); err != nil {
		return err
	}
	end := []ScoreRow{{IDs: row.IDs[last:]}}
	for labels := t.allLabels(); len(labels) > 0; {
		n := 1
		for n < len(labels) && t.rest(labels[:n+1])+1 <= maxPackedTokens {
			n++
		}
		if err := t.scorePacked(s, state, t.newLabelRow(past.Length+last, end, labels[:n]), scores); err != nil {
			return err
		}
		labels = labels[n:]
	}
	return nil
}

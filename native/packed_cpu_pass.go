package native

import (
	"cmp"
	"errors"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// packedPass is a pass over a packed row by the CPU kernels. It reads a state's KV and keeps nothing.
type packedPass struct {
	row  *packedRow
	past *decodeState // nil for none
}

func (p packedPass) kernelPass(int, int) *kernelPass {
	row := p.row
	return &kernelPass{
		rows: 1, tokens: len(row.ids), positions: row.positions,
		visible: func(window int) []int32 {
			out := make([]int32, 0, len(row.ids)*mlxc.VisibleSize)
			for i := range row.ids {
				out = appendVisible(out, row.past, window, int(row.positions[i]), row.first[i], row.second[i])
			}
			return out
		},
		past: func(s *mlxc.Scope, layer int) []mlxc.PastKV {
			if row.past == 0 {
				return make([]mlxc.PastKV, 1)
			}
			return []mlxc.PastKV{p.past.caches[layer].(nn.Ring).Past(s, 0)}
		},
	}
}

// kernelOnly is the part of a state that MLX's ops ask for and the CPU kernels do not.
type kernelOnly struct{}

var errKernelsOnly = errors.New("a pass for the CPU kernels was given to MLX's ops")

func (kernelOnly) rope(s *mlxc.Scope, x *mlxc.Array, _ mlxc.RoPE) *mlxc.Array {
	s.Fail(errKernelsOnly)
	return x
}

func (kernelOnly) positions(s *mlxc.Scope, _, _ int) *mlxc.Array {
	s.Fail(errKernelsOnly)
	return s.Zeros(mlxc.Int32, 1)
}

func (kernelOnly) attend(s *mlxc.Scope, _ int, q, _, _ *mlxc.Array, _ float32) *mlxc.Array {
	s.Fail(errKernelsOnly)
	return q
}

func (kernelOnly) observe(*mlxc.Scope, int, string, *mlxc.Array) {}

// cpuPackedState is what the model runs for a packed pass on the CPU.
type cpuPackedState struct {
	kernelOnly
	packedPass
}

// cpuLogProbs is logProbs by the CPU kernels: in one pass, or in several where texts or labels are too long for one.
func (t *labelTask) cpuLogProbs(s *mlxc.Scope, past *history, batch []scoreRow) ([][]float64, error) {
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
			err = t.scorePacked(s, past.state, t.newPackedRow(past.length, batch[:n], all), scores[len(scores)-len(batch):])
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
func (t *labelTask) scorePacked(parent *mlxc.Scope, past *decodeState, row *packedRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	m := t.model
	h := m.arch.hidden(s, s.FromInts(row.ids, 1, len(row.ids)), cpuPackedState{packedPass: packedPass{row, past}})
	h = s.Take(s.Reshape(h, len(row.ids), m.shape.hiddenSize), s.FromInts(row.rows, len(row.rows)), 0)
	slices.SortStableFunc(row.picks, func(a, b pick) int { return cmp.Compare(a.id, b.id) })
	rows, ids := make([]int32, len(row.picks)), make([]int32, len(row.picks))
	for i, p := range row.picks {
		rows[i], ids[i] = p.row, p.id
	}
	values, err := s.Scores(h, m.outputLayer(), s.FromInts(rows, len(rows)), s.FromInts(ids, len(ids))).Floats()
	if err != nil {
		return err
	}
	t.sum(scores, row.picks, values)
	return nil
}

// scoreInGroups scores one text whose labels are too many for a pass: its tokens but the last are prefilled, and groups of labels
// go on from there.
func (t *labelTask) scoreInGroups(parent *mlxc.Scope, past *history, row scoreRow, scores [][]float64) (err error) {
	s := parent.Child()
	defer func() { err = errors.Join(err, s.Close()) }()
	m := t.model
	state := newDecodeState(m.shape)
	if past.state != nil {
		state = past.state.share(s)
	}
	defer func() { err = errors.Join(err, state.free()) }()
	last := len(row.ids) - 1
	if err := m.prefillInto(s, state, row.ids[:last]); err != nil {
		return err
	}
	end := []scoreRow{{ids: row.ids[last:]}}
	for labels := t.allLabels(); len(labels) > 0; {
		n := 1
		for n < len(labels) && t.rest(labels[:n+1])+1 <= maxPackedTokens {
			n++
		}
		if err := t.scorePacked(s, state, t.newPackedRow(past.length+last, end, labels[:n]), scores); err != nil {
			return err
		}
		labels = labels[n:]
	}
	return nil
}

// prefillInto runs tokens through the model, chunk by chunk, for their KV.
func (n *network) prefillInto(parent *mlxc.Scope, state *decodeState, ids []int32) error {
	for chunk := range slices.Chunk(ids, prefillChunk) {
		s := parent.Child()
		n.pass(s, state, s.FromInts(chunk, 1, len(chunk)))
		if err := errors.Join(s.Eval(state.arrays()...), s.Close()); err != nil {
			return err
		}
	}
	return nil
}

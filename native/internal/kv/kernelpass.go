package kv

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// KernelPass is what the CPU kernels must know of a pass of rows of tokens.
type KernelPass struct {
	Rows, Tokens int
	Positions    []int32 // of every token
	// Visible says what every token sees in a layer with a window, 0 for none: mlxc.VisibleSize numbers each.
	Visible func(window int) []int32
	// Past is the kept keys and values of a layer, of each row.
	Past func(s *mlxc.Scope, layer int) []mlxc.PastKV
	// Keep takes them back with those of the pass; nil if they are not to be kept.
	Keep func(s *mlxc.Scope, layer int, kept []mlxc.PastKV)
	// Stepwise passes run op by op: a layer's KV is unpacked, which must not be there for all layers at once.
	Stepwise bool
	// Around, if it is set, runs the layers of a stepwise pass its own way, and Share is told of arrays that they all read: layers may
	// be run again after the pass.
	Around func(s *mlxc.Scope, layer int, h, x *mlxc.Array, run KernelLayer) (sum, normed *mlxc.Array)
	Share  func(s *mlxc.Scope, a *mlxc.Array)
}

// KernelLayer takes states and their norm through a layer and returns both after it, normed for what comes next.
type KernelLayer func(s *mlxc.Scope, h, x *mlxc.Array) (sum, normed *mlxc.Array)

// RunLayer runs a layer as the pass wants it.
func (p *KernelPass) RunLayer(s *mlxc.Scope, layer int, h, x *mlxc.Array, run KernelLayer) (sum, normed *mlxc.Array) {
	if p.Around == nil {
		return run(s, h, x)
	}
	return p.Around(s, layer, h, x, run)
}

// Shared tells of an array that layers read, and returns it.
func (p *KernelPass) Shared(s *mlxc.Scope, a *mlxc.Array) *mlxc.Array {
	if p.Share != nil {
		p.Share(s, a)
	}
	return a
}

// nextTokens is a pass of the next tokens of one or several sequences, each with KV of its own.
func nextTokens(sequences []*Sequence, tokens int) *KernelPass {
	p := &KernelPass{Rows: len(sequences), Tokens: tokens}
	for _, st := range sequences {
		for t := range tokens {
			p.Positions = append(p.Positions, int32(st.Position()+t))
		}
	}
	p.Visible = func(window int) []int32 {
		out := make([]int32, 0, len(sequences)*tokens*mlxc.VisibleSize)
		for _, st := range sequences {
			for t := range tokens {
				if window == 0 && st.bound > 0 {
					out = st.appendBounded(out, t)
					continue
				}
				out = appendVisible(out, st.Position(), window, st.Position()+t, Span{0, t + 1}, Span{})
			}
		}
		return out
	}
	for _, st := range sequences {
		p.Stepwise = p.Stepwise || st.quantised
	}
	p.Past = func(s *mlxc.Scope, layer int) []mlxc.PastKV {
		past := make([]mlxc.PastKV, len(sequences))
		for i, st := range sequences {
			past[i] = st.Caches[layer].(Ring).Past(s, tokens)
		}
		return past
	}
	p.Keep = func(s *mlxc.Scope, layer int, kept []mlxc.PastKV) {
		for i, st := range sequences {
			st.Caches[layer].(Ring).Take(s, kept[i])
		}
	}
	return p
}

// appendBounded appends what the t-th token of a pass sees in a layer whose KV is bounded. As in mlx-lm it is a window over what is held,
// oldest first, and the tokens of the pass: the first positions, which are kept for ever, are seen by the first tokens of a pass only.
func (st *Sequence) appendBounded(out []int32, t int) []int32 {
	length := st.Position()
	held := min(length, st.bound-1)
	oldest := held + t + 1 - st.bound // in that order
	past, first := max(0, oldest), max(0, oldest-held)
	if past >= min(keptPositions, held) && length > held { // after the gap
		past += length - held
	}
	return append(out, int32(past), int32(first), 0, int32(t+1), 0)
}

// Span is a range of a pass's tokens.
type Span struct{ Begin, End int }

// PackedRow is texts that lie one after the other in one row, every token of which is told what it sees.
type PackedRow struct {
	IDs, Positions []int32
	First, Second  []Span // what each token sees besides the past: tokens that follow the past, and those up to itself
	Past           int    // how many positions of the past all see
}

// Add appends tokens from a position on, each of which sees the past, the tokens of a span, and those added with it up to itself.
func (p *PackedRow) Add(ids []int32, position int, sees Span) {
	begin := len(p.IDs)
	for k, id := range ids {
		p.IDs, p.Positions = append(p.IDs, id), append(p.Positions, int32(position+k))
		p.First, p.Second = append(p.First, sees), append(p.Second, Span{begin, begin + k + 1})
	}
}

// AddText appends a text that sees nothing but itself and the past, and returns where it is.
func (p *PackedRow) AddText(ids []int32) Span {
	begin := len(p.IDs)
	p.Add(ids, p.Past, Span{begin, begin})
	return Span{begin, len(p.IDs)}
}

// NewPackedPass is a pass over a packed row by the CPU kernels. It reads the KV of a sequence, or of none if that is nil, and keeps
// nothing.
func NewPackedPass(row *PackedRow, past *Sequence) *Pass {
	return &Pass{Kernel: &KernelPass{
		Rows: 1, Tokens: len(row.IDs), Positions: row.Positions,
		Visible: func(window int) []int32 {
			out := make([]int32, 0, len(row.IDs)*mlxc.VisibleSize)
			for i := range row.IDs {
				out = appendVisible(out, row.Past, window, int(row.Positions[i]), row.First[i], row.Second[i])
			}
			return out
		},
		Past: func(s *mlxc.Scope, layer int) []mlxc.PastKV {
			if row.Past == 0 {
				return make([]mlxc.PastKV, 1)
			}
			return []mlxc.PastKV{past.Caches[layer].(Ring).Past(s, 0)}
		},
	}}
}

// NewPackedBothWays is a pass over packed texts in which every token sees all of its text, in a layer with a window what is at
// most half a window away, as in NewBothWaysPass.
func NewPackedBothWays(row *PackedRow, texts []Span) *Pass {
	pass := NewPackedPass(row, nil)
	pass.Kernel.Visible = func(window int) []int32 {
		out := make([]int32, 0, len(row.IDs)*mlxc.VisibleSize)
		for _, text := range texts {
			for t := text.Begin; t < text.End; t++ {
				sees := text
				if window > 0 {
					sees = Span{max(text.Begin, t-window/2), min(text.End, t+window/2+1)}
				}
				out = append(out, 0, int32(sees.Begin), 0, int32(sees.End), 0)
			}
		}
		return out
	}
	return pass
}

// NewRowsPass is a pass by the CPU kernels over whole rows of tokens, of which nothing is kept: every token sees those before it in its
// row. segments, if it is not nil, is a number for each token; then it sees those next to it with its own number only.
func NewRowsPass(rows, tokens int, segments []int32) *Pass {
	p := &KernelPass{
		Rows: rows, Tokens: tokens, Stepwise: true,
		Past: func(*mlxc.Scope, int) []mlxc.PastKV { return make([]mlxc.PastKV, rows) },
		Visible: func(window int) []int32 {
			out := make([]int32, 0, rows*tokens*mlxc.VisibleSize)
			for row := range rows {
				begin := 0
				for t := range tokens {
					if at := row*tokens + t; t > 0 && segments != nil && segments[at] != segments[at-1] {
						begin = t
					}
					out = appendVisible(out, 0, window, t, Span{}, Span{begin, t + 1})
				}
			}
			return out
		},
	}
	for range rows {
		for t := range tokens {
			p.Positions = append(p.Positions, int32(t))
		}
	}
	return &Pass{Kernel: p}
}

// appendVisible appends what the token at a position sees of length past positions and of two spans of the pass. The positions of
// the first span follow the past, those of the second end at the token's own. A window reaches back over all three.
func appendVisible(out []int32, length, window, position int, first, second Span) []int32 {
	past := 0
	if window > 0 {
		oldest := position - window + 1
		past = min(max(0, oldest), length)
		first.Begin = min(max(first.Begin, first.Begin+oldest-length), first.End)
		second.Begin = max(second.Begin, second.End-window)
	}
	return append(out, int32(past), int32(first.Begin), int32(second.Begin), int32(first.End), int32(second.End))
}

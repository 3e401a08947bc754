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
	Past func(layer int) []mlxc.PastKV
	// Keep takes them back with those of the pass; nil if they are not to be kept.
	Keep func(s *mlxc.Scope, layer int, kept []mlxc.PastKV)
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
				out = appendVisible(out, st.Position(), window, st.Position()+t, Span{0, t + 1}, Span{})
			}
		}
		return out
	}
	p.Past = func(layer int) []mlxc.PastKV {
		past := make([]mlxc.PastKV, len(sequences))
		for i, st := range sequences {
			past[i] = st.Caches[layer].(Ring).Past(tokens)
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

// Span is a range of a pass's tokens.
type Span struct{ Begin, End int }

// PackedRow is texts that lie one behind the other in one row, every token of which is told what it sees.
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
		Past: func(layer int) []mlxc.PastKV {
			if row.Past == 0 {
				return make([]mlxc.PastKV, 1)
			}
			return []mlxc.PastKV{past.Caches[layer].(Ring).Past(0)}
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

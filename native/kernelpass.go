package native

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// KernelPass is what the CPU kernels must know of a pass of rows of tokens.
type KernelPass struct {
	rows, tokens int
	positions    []int32 // of every token
	// visible says what every token sees in a layer with a window, 0 for none: mlxc.VisibleSize numbers each.
	visible func(window int) []int32
	// past is the kept keys and values of a layer, of each row.
	past func(layer int) []mlxc.PastKV
	// keep takes them back with those of the pass; nil if they are not to be kept.
	keep func(s *mlxc.Scope, layer int, kept []mlxc.PastKV)
}

// nextTokens is a pass of the next tokens of one or several sequences, each with KV of its own.
func nextTokens(sequences []*Sequence, tokens int) *KernelPass {
	p := &KernelPass{rows: len(sequences), tokens: tokens}
	for _, st := range sequences {
		for t := range tokens {
			p.positions = append(p.positions, int32(st.position()+t))
		}
	}
	p.visible = func(window int) []int32 {
		out := make([]int32, 0, len(sequences)*tokens*mlxc.VisibleSize)
		for _, st := range sequences {
			for t := range tokens {
				out = appendVisible(out, st.position(), window, st.position()+t, Span{0, t + 1}, Span{})
			}
		}
		return out
	}
	p.past = func(layer int) []mlxc.PastKV {
		past := make([]mlxc.PastKV, len(sequences))
		for i, st := range sequences {
			past[i] = st.caches[layer].(nn.Ring).Past(tokens)
		}
		return past
	}
	p.keep = func(s *mlxc.Scope, layer int, kept []mlxc.PastKV) {
		for i, st := range sequences {
			st.caches[layer].(nn.Ring).Take(s, kept[i])
		}
	}
	return p
}

// Span is a range of a pass's tokens.
type Span struct{ begin, end int }

// PackedRow is texts that lie one behind the other in one row, every token of which is told what it sees.
type PackedRow struct {
	ids, positions []int32
	first, second  []Span // what each token sees besides the past: tokens that follow the past, and those up to itself
	past           int    // how many positions of the past all see
}

// add appends tokens from a position on, each of which sees the past, the tokens of a span, and those added with it up to itself.
func (p *PackedRow) add(ids []int32, position int, sees Span) {
	begin := len(p.ids)
	for k, id := range ids {
		p.ids, p.positions = append(p.ids, id), append(p.positions, int32(position+k))
		p.first, p.second = append(p.first, sees), append(p.second, Span{begin, begin + k + 1})
	}
}

// addText appends a text that sees nothing but itself and the past, and returns where it is.
func (p *PackedRow) addText(ids []int32) Span {
	begin := len(p.ids)
	p.add(ids, p.past, Span{begin, begin})
	return Span{begin, len(p.ids)}
}

// newPackedPass is a pass over a packed row by the CPU kernels. It reads the KV of a sequence, or of none if that is nil, and keeps
// nothing.
func newPackedPass(row *PackedRow, past *Sequence) *Pass {
	return &Pass{kernel: &KernelPass{
		rows: 1, tokens: len(row.ids), positions: row.positions,
		visible: func(window int) []int32 {
			out := make([]int32, 0, len(row.ids)*mlxc.VisibleSize)
			for i := range row.ids {
				out = appendVisible(out, row.past, window, int(row.positions[i]), row.first[i], row.second[i])
			}
			return out
		},
		past: func(layer int) []mlxc.PastKV {
			if row.past == 0 {
				return make([]mlxc.PastKV, 1)
			}
			return []mlxc.PastKV{past.caches[layer].(nn.Ring).Past(0)}
		},
	}}
}

// newPackedBothWays is a pass over packed texts in which every token sees all of its text, in a layer with a window what is at
// most half a window away, as in newBothWaysPass.
func newPackedBothWays(row *PackedRow, texts []Span) *Pass {
	pass := newPackedPass(row, nil)
	pass.kernel.visible = func(window int) []int32 {
		out := make([]int32, 0, len(row.ids)*mlxc.VisibleSize)
		for _, text := range texts {
			for t := text.begin; t < text.end; t++ {
				sees := text
				if window > 0 {
					sees = Span{max(text.begin, t-window/2), min(text.end, t+window/2+1)}
				}
				out = append(out, 0, int32(sees.begin), 0, int32(sees.end), 0)
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
		first.begin = min(max(first.begin, first.begin+oldest-length), first.end)
		second.begin = max(second.begin, second.end-window)
	}
	return append(out, int32(past), int32(first.begin), int32(second.begin), int32(first.end), int32(second.end))
}

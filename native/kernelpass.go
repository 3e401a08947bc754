package native

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// kernelPass is what the CPU kernels must know of a pass of rows of tokens.
type kernelPass struct {
	rows, tokens int
	positions    []int32 // of every token
	// visible says what every token sees in a layer with a window, 0 for none: mlxc.VisibleSize numbers each.
	visible func(window int) []int32
	// past is the kept keys and values of a layer, of each row.
	past func(s *mlxc.Scope, layer int) []mlxc.PastKV
	// keep takes them back with those of the pass; nil if they are not to be kept.
	keep func(s *mlxc.Scope, layer int, kept []mlxc.PastKV)
	// stepwise passes run op by op: somebody looks at what ops compute, or a layer's KV is unpacked, which must not be there for all
	// layers at once.
	stepwise bool
}

// kernelState is a state that the CPU kernels can run a pass over.
type kernelState interface {
	// kernelPass is nil if the state keeps its KV for MLX's ops.
	kernelPass(rows, tokens int) *kernelPass
}

func passOf(st state, rows, tokens int) *kernelPass {
	if k, ok := st.(kernelState); ok {
		return k.kernelPass(rows, tokens)
	}
	return nil
}

// stepwisePassOf is passOf for a state that observes.
func stepwisePassOf(st state, rows, tokens int) *kernelPass {
	p := passOf(st, rows, tokens)
	if p != nil {
		p.stepwise = true
	}
	return p
}

// passOver is a pass of the next tokens of one or several sequences, each with KV of its own.
func passOver(states []*decodeState, tokens int) *kernelPass {
	p := &kernelPass{rows: len(states), tokens: tokens}
	for _, st := range states {
		for t := range tokens {
			p.positions = append(p.positions, int32(st.position()+t))
		}
	}
	p.visible = func(window int) []int32 {
		out := make([]int32, 0, len(states)*tokens*mlxc.VisibleSize)
		for _, st := range states {
			for t := range tokens {
				if window == 0 && st.bound > 0 {
					out = st.appendBounded(out, t)
					continue
				}
				out = appendVisible(out, st.position(), window, st.position()+t, span{0, t + 1}, span{})
			}
		}
		return out
	}
	for _, st := range states {
		p.stepwise = p.stepwise || st.packed
	}
	p.past = func(s *mlxc.Scope, layer int) []mlxc.PastKV {
		past := make([]mlxc.PastKV, len(states))
		for i, st := range states {
			past[i] = st.caches[layer].(nn.Ring).Past(s, tokens)
		}
		return past
	}
	p.keep = func(s *mlxc.Scope, layer int, kept []mlxc.PastKV) {
		for i, st := range states {
			st.caches[layer].(nn.Ring).Take(s, kept[i])
		}
	}
	return p
}

// appendBounded appends what the t-th token of a pass sees in a layer whose KV is bounded. As in mlx-lm it is a window over what is held,
// oldest first, and the tokens of the pass: the first positions, which are kept for ever, are seen by the first tokens of a pass only.
func (st *decodeState) appendBounded(out []int32, t int) []int32 {
	length := st.position()
	held := min(length, st.bound-1)
	oldest := held + t + 1 - st.bound // in that order
	past, first := max(0, oldest), max(0, oldest-held)
	if past >= min(keptPositions, held) && length > held { // behind the gap
		past += length - held
	}
	return append(out, int32(past), int32(first), 0, int32(t+1), 0)
}

// span is a range of a pass's tokens.
type span struct{ begin, end int }

// appendVisible appends what the token at a position sees of length past positions and of two spans of the pass. The positions of
// the first span follow the past, those of the second end at the token's own. A window reaches back over all three.
func appendVisible(out []int32, length, window, position int, first, second span) []int32 {
	past := 0
	if window > 0 {
		oldest := position - window + 1
		past = min(max(0, oldest), length)
		first.begin = min(max(first.begin, first.begin+oldest-length), first.end)
		second.begin = max(second.begin, second.end-window)
	}
	return append(out, int32(past), int32(first.begin), int32(second.begin), int32(first.end), int32(second.end))
}

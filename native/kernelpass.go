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
	past func(layer int) []mlxc.PastKV
	// keep takes them back with those of the pass; nil if they are not to be kept.
	keep func(s *mlxc.Scope, layer int, kept []mlxc.PastKV)
	// watched passes show what their ops compute, so they run op by op.
	watched bool
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

// watchedPassOf is passOf for a state that observes.
func watchedPassOf(st state, rows, tokens int) *kernelPass {
	p := passOf(st, rows, tokens)
	if p != nil {
		p.watched = true
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
				out = appendVisible(out, st.position(), window, st.position()+t, span{0, t + 1}, span{})
			}
		}
		return out
	}
	p.past = func(layer int) []mlxc.PastKV {
		past := make([]mlxc.PastKV, len(states))
		for i, st := range states {
			past[i] = st.caches[layer].(nn.Ring).Past(tokens)
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

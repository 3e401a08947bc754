package decode

import (
	"math"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// constrain tells the grammar the token that the logits [1, vocab] follow, and forbids the tokens that may not come
// next. over is set if that token ends the text.
func (st *Stream) constrain(s *mlxc.Scope, logits, token *mlxc.Array) (_ *mlxc.Array, over bool, err error) {
	if st.sampled > 0 { // before that, token is the prompt's last
		id, err := token.Int()
		if err != nil {
			return nil, false, err
		}
		if st.stops[int32(id)] {
			return nil, true, nil
		}
		if err := st.matcher.Accept(int32(id)); err != nil {
			return nil, false, st.brokenOff(err)
		}
	}
	allowed, err := st.matcher.Allowed()
	if err != nil {
		return nil, false, st.brokenOff(err)
	}
	if !slices.Contains(allowed, true) { // a part of the grammar that is reached only now, such as one that only refers to itself
		return nil, false, &engine.OptionError{Option: st.options.Grammar.Option(), Reason: "nothing can follow the text so far"}
	}
	never := s.Scalar(math.Inf(-1), logits.DType())
	return s.Where(s.FromBools(allowed, 1, len(allowed)), logits, never), false, nil
}

// brokenOff is the error of a text in mid-way: a limit of the grammar library.
func (st *Stream) brokenOff(err error) error {
	return &engine.OptionError{Option: st.options.Grammar.Option(), Reason: "the text cannot go on: " + err.Error(), Err: err}
}

package decode

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// tokenLogits takes a token, uint32 [1], of one member into its state by the kernel. It returns the logits [1, vocab], and leaves the most
// likely token in b.Best.
func (b *decodeBatch) tokenLogits(s *mlxc.Scope, st *Stream, token *mlxc.Array) (*mlxc.Array, error) {
	if err := b.assignPlaces(s); err != nil {
		return nil, err
	}
	if err := b.drawn.free(); err != nil {
		return nil, err
	}
	var places []decoder.TokenPlace
	for _, first := range b.network.Kinds.First {
		next := st.State.Caches[first].(kv.Slotted).Next()
		places = append(places, decoder.TokenPlace{At: next.At, Filled: next.Filled, Room: b.layers[first].Room()})
	}
	var logits *mlxc.Array
	logits, b.Best = b.network.Token.Run(s, token, b.arrays(), slices.Index(b.rows, st), st.State.Position(), places)
	for _, c := range st.Slotted() {
		c.Advance()
	}
	return logits, s.Err()
}

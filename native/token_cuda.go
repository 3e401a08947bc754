package native

import (
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
)

// Tokens of a stream that decodes alone are one launch each (fused.Token). Its KV lies in the buffers of a batch, which nobody shares, since
// the kernel writes in place.

// prepareToken makes the kernel, if there is one for the model.
func (n *network) prepareToken() error {
	d, ok := n.arch.(*decoder)
	if !ok || d.cuda == nil || d.bidirectional {
		return nil
	}
	var err error
	n.token, err = fused.NewToken(n.weights, n.lease, d.tokenModel(n.kinds))
	return err
}

func (d *decoder) tokenModel(kinds layerKinds) fused.TokenModel {
	m := fused.TokenModel{
		Shape: d.cuda.kernels.Shape(), VocabSize: d.vocabSize, Embed: d.embed.Output(), Head: d.output(), Norm: d.norm, Kinds: len(kinds.first),
	}
	if d.embedScale != 0 {
		m.EmbedScale = roundToBFloat16(float32(d.embedScale))
	}
	for i, l := range d.cuda.layers {
		m.Layers = append(m.Layers, fused.TokenLayer{
			QKV: l.qkv, O: l.o, GateUp: l.gateUp, Down: l.down, InputNorm: l.inputNorm, MLPNorm: l.preMLPNorm,
			PostAttentionNorm: l.postAttentionNorm, PostMLPNorm: l.postMLPNorm, QNorm: l.qNorm, KNorm: l.kNorm,
			RoPE: l.rope, Kind: kinds.of[i],
		})
	}
	return m
}

// tokenLogits takes a token, uint32 [1], of one member into its state by the kernel. It returns the logits [1, vocab], and leaves the most
// likely token in b.best.
func (b *decodeBatch) tokenLogits(s *mlxc.Scope, st *stream, token *mlxc.Array) (*mlxc.Array, error) {
	if err := b.seat(s); err != nil {
		return nil, err
	}
	if err := b.drawn.free(); err != nil {
		return nil, err
	}
	var places []fused.TokenPlace
	for _, first := range b.network.kinds.first {
		next := st.state.caches[first].(nn.Slotted).Next()
		places = append(places, fused.TokenPlace{At: next.At, Filled: next.Filled, Room: b.layers[first].Room()})
	}
	var logits *mlxc.Array
	logits, b.best = b.network.token.Run(s, token, b.arrays(), slices.Index(b.rows, st), st.state.position(), places)
	for _, c := range st.slotted() {
		c.Advance()
	}
	return logits, s.Err()
}

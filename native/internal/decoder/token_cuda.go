package decoder

import (
	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Tokens of a stream that decodes alone are one launch each (fused.Token). Its KV lies in the buffers of a batch, which nobody shares, since
// the kernel writes in place.

// TokenPlace is where a token's keys and values go in the layers of a kind.
type TokenPlace = fused.TokenPlace

// TokenKernel computes a token of one stream in one launch, as fused.Token does.
type TokenKernel interface {
	// Prepare begins to compile, beside what the caller does meanwhile.
	Prepare()
	// Run takes a token, uint32 [1], at a position into a row of buffers of keys and values [rows, kv_heads, room, head_dim], two for each
	// layer. It writes to them in place, which MLX does not notice: they must be in row-major order and share no memory with other arrays.
	Run(s *mlxc.Scope, token *mlxc.Array, kv []*mlxc.Array, row, position int, places []TokenPlace) (logits, best *mlxc.Array)
	Close()
}

// Drawing is how the CUDA kernel for that draws a token.
type Drawing = fused.Drawing

// Drawer draws tokens from rows of logits in one launch, as fused.Kernels does.
type Drawer interface {
	// Draws is the type of the logits.
	Draws() mlxc.DType
	// Draw draws a token, uint32 [N], from each of the rows which, int32 [N], of logits [rows, vocab], with settings float32 [N, 4] of Drawings and
	// keys uint32 [N, 2].
	Draw(s *mlxc.Scope, logits, which, settings, keys *mlxc.Array) *mlxc.Array
}

// MaxPackedKeys is how many keys the CUDA kernels for packed rows take.
const MaxPackedKeys = fused.MaxPackedKeys

// prepareToken makes the kernel, if there is one for the model.
func (n *Network) prepareToken() error {
	d, ok := n.Arch.(*decoder)
	if !ok || d.cuda == nil || d.bidirectional {
		return nil
	}
	token, err := fused.NewToken(n.Weights, n.Lease, d.tokenModel(n.Kinds))
	if token != nil {
		n.Token = token
	}
	return err
}

func (d *decoder) tokenModel(kinds layerKinds) fused.TokenModel {
	m := fused.TokenModel{
		Shape: d.cuda.Kernels.Shape(), VocabSize: d.vocabSize, Embed: d.embed.Output(), Head: d.output(), Norm: d.norm, Kinds: len(kinds.First),
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

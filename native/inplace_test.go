package native

import (
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/decode"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// inPlace stands in for the CUDA kernel of a token where there is no GPU. It computes with MLX's ops, but treats memory as the kernel does: buffers are
// what lies at their address in row-major order, whatever MLX says of strides, and keys and values are written there without MLX's
// knowledge, so that they change for whoever else has that memory.
type inPlace struct{ network *decoder.Network }

// counted counts the tokens of a kernel.
type counted struct {
	decoder.TokenKernel
	runs atomic.Int64
}

func (c *counted) Run(s *mlxc.Scope, token *mlxc.Array, kv []*mlxc.Array, row, position int, places []decoder.TokenPlace) (logits, best *mlxc.Array) {
	c.runs.Add(1)
	return c.TokenKernel.Run(s, token, kv, row, position, places)
}

func (*inPlace) Prepare() {}
func (*inPlace) Close()   {}

func (k *inPlace) Run(s *mlxc.Scope, token *mlxc.Array, kv []*mlxc.Array, row, position int, places []decoder.TokenPlace) (logits, best *mlxc.Array) {
	where := []int32{int32(position)}
	for _, p := range places {
		where = append(where, int32(p.At), int32(p.Filled))
	}
	memory, mine := make([][]byte, len(kv)), make([]*mlxc.Array, len(kv))
	for i, a := range kv {
		all, _, err := a.Memory()
		if err != nil {
			s.Fail(err)
			return token, token
		}
		size := a.NBytes() / a.Dim(0) // whatever strides say
		memory[i] = all[row*size:][:size]
		mine[i] = fromBytes(s, memory[i], a)
	}
	logits, written := k.network.TokenPass(s, s.Reshape(token, 1, 1), s.FromInts(where, len(where), 1), mine)
	best = decode.MostLikely(s, logits, decoder.LogProbs(s, logits, false), false)
	for i, a := range written {
		from, _, err := s.Contiguous(a).Memory()
		if err != nil {
			s.Fail(err)
			return token, token
		}
		place := places[slices.Index(k.network.Kinds.First, firstOf(k.network, i/2))]
		if place.Room != a.Dim(2) {
			panic("the kernel is told of other room than there is")
		}
		width := len(from) / (a.Dim(1) * place.Room)
		for head := range a.Dim(1) {
			at := (head*place.Room + place.At) * width
			copy(memory[i][at:at+width], from[at:at+width])
		}
	}
	return logits, best
}

// firstOf is the first layer that has the same places as a layer.
func firstOf(n *decoder.Network, layer int) int {
	for _, first := range n.Kinds.First {
		if n.Shape.Windows[first] == n.Shape.Windows[layer] {
			return first
		}
	}
	return -1
}

// fromBytes is an array [1, ...] of bfloat16 numbers like a row of another one.
func fromBytes(s *mlxc.Scope, data []byte, like *mlxc.Array) *mlxc.Array {
	values := make([]float32, len(data)/2)
	for i := range values {
		values[i] = math.Float32frombits(uint32(data[2*i])<<16 | uint32(data[2*i+1])<<24)
	}
	return s.AsType(s.FromFloats(values, 1, like.Dim(1), like.Dim(2), like.Dim(3)), mlxc.BFloat16)
}

// openInPlace opens a model whose streams decode as they do on an NVIDIA GPU: by the kernel where there is one, of which a process has one at a
// time, and else by inPlace.
func openInPlace(t *testing.T, dir string, o engine.NativeOptions) (*Model, *counted) {
	o.Exact = !mlxc.HasCUDA()
	m := openPath(t, dir, o)
	kernel := &counted{TokenKernel: m.network.Token}
	if o.Exact {
		kernel.TokenKernel = &inPlace{m.network}
	}
	require.NotNil(t, kernel.TokenKernel, "the kernel does not serve this model, or another has it")
	require.NoError(t, m.owner.Do(t.Context(), func() error {
		m.scheduler.Batching, m.network.Token = true, kernel
		return nil
	}))
	return m, kernel
}

// twoKeyHeads is the trained model with every key head twice: what it computes is the same, but positions of a head do not lie behind those of the one
// before where a cache is a view of a longer one.
func twoKeyHeads(t *testing.T) string {
	dir := testenv.CopyModel(t)
	file := filepath.Join(dir, "model.safetensors")
	mlxtest.OnThread(t, func(s *mlxc.Scope) {
		weights := s.LoadSafetensors(file)
		for name, w := range weights {
			if strings.HasSuffix(name, "k_proj.weight") || strings.HasSuffix(name, "v_proj.weight") {
				weights[name] = s.Contiguous(s.Concatenate(0, w, w))
			}
		}
		require.NoError(t, s.ReplaceSafetensors(file, weights, map[string]string{"format": "mlx"}))
	})
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["num_key_value_heads"] = 2 })
	return dir
}

// The kernel of a token gets memory of its own, in the order that it takes it for: behind prompts that are computed, that are kept, that are cut back from longer
// ones, and that come from a file, the answers are those of a model without any of it.
func TestTheTokenKernelWritesToMemoryOfItsOwn(t *testing.T) {
	for name, dir := range map[string]string{"one key head": testenv.Model(t), "two key heads": twoKeyHeads(t)} {
		t.Run(name, func(t *testing.T) {
			plain := openPath(t, dir, engine.NativeOptions{Exact: true})
			m, kernel := openInPlace(t, dir, engine.NativeOptions{PromptCache: 64 << 20})
			o := engine.DefaultGenerateOptions()
			o.IgnoreEOS, o.MaxTokens, o.LogProbs = true, 40, true // more than a window
			prompts := alikePrompts(t, plain)
			if !testenv.Slow() {
				prompts = prompts[:9]
			}
			want := make([]answer, len(prompts))
			check := func(t *testing.T, m *Model, options engine.GenerateOptions) {
				for i, ids := range prompts {
					var got answer
					got.run(t.Context(), m, engine.Prompt{IDs: ids}, options)
					requireTheSameButForRounding(t, want[i], got)
				}
			}
			for i, ids := range prompts {
				want[i].run(t.Context(), plain, engine.Prompt{IDs: ids}, o)
			}
			for range 2 {
				check(t, m, o)
			}
			require.Positive(t, kernel.runs.Load())
			file := filepath.Join(t.TempDir(), "prompts")
			require.NoError(t, m.SavePromptCache(t.Context(), file))
			check(t, m, o)
			require.NoError(t, m.Close())
			loaded, _ := openInPlace(t, dir, engine.NativeOptions{PromptCache: 64 << 20})
			require.NoError(t, loaded.LoadPromptCache(t.Context(), file))
			for range 2 {
				check(t, loaded, o)
			}
		})
	}
}

// Requests that decode each by itself at the same time, after the same kept prompt.
func TestStreamsBehindOneKeptPromptDoNotWriteToEachOther(t *testing.T) {
	plain := openWith(t, engine.NativeOptions{Exact: true})
	m, kernel := openInPlace(t, testenv.Model(t), engine.NativeOptions{PromptCache: 64 << 20})
	o := engine.DefaultGenerateOptions()
	o.IgnoreEOS, o.MaxTokens, o.LogProbs, o.Solo = true, 30, true, true
	o.Temperature, o.HasSeed = 1, true
	prompt := engine.Prompt{IDs: numbers(300, 100)}
	want, got := make([]answer, 4), make([]answer, 4)
	for round := range 2 {
		var all sync.WaitGroup
		for i := range got {
			seeded := o
			seeded.Seed = uint64(i)
			if round == 0 {
				want[i].run(t.Context(), plain, prompt, seeded)
			}
			got[i] = answer{}
			all.Go(func() { got[i].run(t.Context(), m, prompt, seeded) })
		}
		all.Wait()
		same := 0
		for i := range got {
			same += requireTheSameUntilApart(t, want[i], got[i])
		}
		require.Greater(t, same, len(got)*o.MaxTokens/3, "tokens that are the same")
	}
	require.Positive(t, kernel.runs.Load())
}

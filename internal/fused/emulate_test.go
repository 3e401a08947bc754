//go:build linux

package fused_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/fused"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// onThread runs work on an owner thread.
func onThread(t *testing.T, work func(s *mlxc.Scope)) {
	t.Helper()
	lease, err := mlxc.Acquire()
	require.NoError(t, err)
	require.NoError(t, lease.Do(t.Context(), func() {
		s := lease.NewScope()
		defer func() { require.NoError(t, s.Close()) }()
		work(s)
	}))
	require.NoError(t, lease.Release(func() {}))
}

// program is a kernel that runs as a program of the CPU.
type program struct {
	in  io.Writer
	out io.Reader
}

// startProgram compiles a source and gives the program the first contents of its pointers.
func startProgram(t *testing.T, source string, pointers [][]byte) program {
	t.Helper()
	run := exec.Command(compileOnce(t, source))
	in, err := run.StdinPipe()
	require.NoError(t, err)
	out, err := run.StdoutPipe()
	require.NoError(t, err)
	var complaints bytes.Buffer
	run.Stderr = &complaints
	require.NoError(t, run.Start())
	t.Cleanup(func() {
		require.NoError(t, errors.Join(in.Close(), run.Wait()), complaints.String())
	})
	for _, a := range pointers {
		require.NoError(t, binary.Write(in, binary.NativeEndian, int64(len(a))))
	}
	for _, a := range pointers {
		_, err := in.Write(a)
		require.NoError(t, err)
	}
	return program{in, out}
}

// emulated is a running kernel of a token.
type emulated struct {
	program
	t     *testing.T
	vocab int
	half  bool
}

// start compiles the kernel for the CPU and gives it its arrays, with room for so many positions in each layer. change may change the workspace.
func start(t *testing.T, s *mlxc.Scope, m *plainModel, blocks int, rooms []int, change func(workspace []byte)) *emulated {
	t.Helper()
	kernel, err := m.Emulate(s, blocks)
	require.NoError(t, err)
	arrays := [][]byte{make([]byte, 4)}
	for i, a := range kernel.Fixed {
		memory, _, err := s.Contiguous(a).Memory()
		require.NoError(t, err)
		memory = bytes.Clone(memory)
		if i == 9 && change != nil {
			change(memory)
		}
		arrays = append(arrays, memory)
	}
	for i := range m.Layers {
		for range 2 { // what nobody has written is something
			arrays = append(arrays, bytes.Repeat([]byte{0x41}, 2*m.KVHeads*rooms[i]*m.HeadDim))
		}
	}
	arrays = append(arrays, make([]byte, 2*m.VocabSize), make([]byte, 4))
	return &emulated{program: startProgram(t, kernel.Source, arrays), t: t, vocab: m.VocabSize, half: m.DType == mlxc.Float16}
}

// run takes a token at a position, which goes to row 0, with the places of each kind.
func (e *emulated) run(token, position int, places []fused.TokenPlace) (logits []float32, best int) {
	e.t.Helper()
	numbers := []int32{int32(token), int32(position), 0}
	for _, p := range places {
		numbers = append(numbers, int32(p.At), int32(p.Filled), int32(p.Room))
	}
	require.NoError(e.t, binary.Write(e.in, binary.NativeEndian, numbers))
	words := make([]uint16, e.vocab)
	var id uint32
	require.NoError(e.t, binary.Read(e.out, binary.NativeEndian, words))
	require.NoError(e.t, binary.Read(e.out, binary.NativeEndian, &id))
	for _, w := range words {
		logits = append(logits, number(w, e.half))
	}
	return logits, int(id)
}

func number(w uint16, half bool) float32 {
	if !half {
		return math.Float32frombits(uint32(w) << 16)
	}
	sign, exponent, rest := float64(1-2*int(w>>15)), int(w>>10&31), float64(w&1023)
	if exponent == 0 {
		return float32(sign * math.Ldexp(rest, -24))
	}
	return float32(sign * math.Ldexp(1024+rest, exponent-25))
}

// The source of the kernel of a token, compiled for the CPU, computes what its model is: in models of many shapes, over the edges of tiles and windows, with
// any number of blocks, and where the count of steps begins anew.
func TestTheKernelOfATokenComputesItsModel(t *testing.T) {
	base := fused.Shape{Heads: 4, KVHeads: 1, HeadDim: 32, HiddenSize: 128, Intermediate: 256, RMSNormEps: 1e-6, AttentionScale: 0.2, DType: mlxc.BFloat16}
	with := func(change func(*shape)) shape {
		c := shape{Shape: base, vocab: 300, windows: []int{0, 0}}
		change(&c)
		return c
	}
	gemma := func(c *shape) {
		c.QKNorm, c.PostNorm, c.GELU, c.embedding, c.windows = true, true, true, 11.3125, []int{24, 0}
	}
	for name, c := range map[string]struct {
		shape
		blocks, steps int
		tick          uint32
	}{
		"Gemma, beyond a window and a tile": {with(gemma), 3, 68, 0},
		"Llama":                             {with(func(c *shape) { c.KVHeads, c.freqs, c.untied = 2, true, true }), 2, 5, 0},
		"float16":                           {with(func(c *shape) { gemma(c); c.DType, c.KVHeads = mlxc.Float16, 2 }), 2, 5, 0},
		"4 bits in groups of 32":            {with(func(c *shape) { gemma(c); c.group = 32 }), 2, 5, 0},
		"4 bits in groups of 64, rows that end within a unit of work": {with(func(c *shape) { c.group, c.HiddenSize, c.Intermediate = 64, 192, 320 }), 2, 5, 0},
		"4 bits in groups of 128":                                     {with(func(c *shape) { c.group, c.QKNorm = 128, true }), 2, 5, 0},
		"heads of 64":                                                 {with(func(c *shape) { c.Heads, c.KVHeads, c.HeadDim, c.vocab = 3, 1, 64, 97 }), 1, 5, 0},
		"heads of 256, more blocks than keys":                         {with(func(c *shape) { gemma(c); c.Heads, c.HeadDim = 2, 256 }), 5, 4, 0},
		"the count of steps begins anew":                              {with(gemma), 2, 5, 0xf0000000 - 17},
	} {
		// Each is compiled anew.
		if quick := []string{"Gemma, beyond a window and a tile", "Llama", "4 bits in groups of 32"}; !slices.Contains(quick, name) && !testenv.Slow() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			onThread(t, func(s *mlxc.Scope) {
				m, err := newModel(s, c.shape)
				require.NoError(t, err)
				rooms := make([]int, len(c.windows))
				for i, window := range c.windows {
					if rooms[i] = window; window == 0 {
						rooms[i] = 96
					}
				}
				kernel := start(t, s, m, c.blocks, rooms, func(workspace []byte) {
					binary.NativeEndian.PutUint32(workspace, c.tick)
				})
				var wrong, size float64
				token := 7
				for position := range c.steps {
					places := make([]fused.TokenPlace, m.Kinds)
					for i, l := range m.Layers {
						places[l.Kind] = fused.TokenPlace{At: position % rooms[i], Filled: min(position+1, rooms[i]), Room: rooms[i]}
					}
					want := m.next(token)
					got, best := kernel.run(token, position, places)
					first, second, most := math.Inf(-1), math.Inf(-1), 0
					for i, x := range want {
						wrong += (float64(got[i]) - x) * (float64(got[i]) - x)
						size += x * x
						if x > first {
							first, second, most = x, first, i
						} else {
							second = max(second, x)
						}
					}
					require.Less(t, math.Sqrt(wrong/size), 0.02, "position %d", position)
					if first-second > 0.2 {
						require.Equal(t, most, best, "position %d", position)
					}
					token = (token*31 + position) % c.vocab
				}
				t.Logf("relative error of %d logits: %.2g", c.steps*c.vocab, math.Sqrt(wrong/size))
			})
		})
	}
}

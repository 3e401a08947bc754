package fused

import (
	_ "embed" // what the CPU has in place of a GPU
	"errors"
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

//go:embed testdata/emulate.h
var emulation string

// EmulatedToken is the kernel of a token as a program for a CPU, with the arrays that it gets.
type EmulatedToken struct {
	Source string
	Fixed  []*mlxc.Array
}

// Emulate makes the program of a model, with so many blocks. owner owns the arrays.
func (m *TokenModel) Emulate(owner *mlxc.Scope, blocks int) (EmulatedToken, error) {
	matrices, bits, group, ok := m.matrices()
	if !ok || !m.fits() {
		return EmulatedToken{}, errors.New("the kernel does not serve this model")
	}
	device := mlxc.CUDADevice{Multiprocessors: blocks, SharedBytes: 227 << 10}
	blocks = m.blocks(device)
	source, shared := m.source(device, bits, group, len(matrices)-6, emulation)
	if shared > device.SharedBytes {
		return EmulatedToken{}, fmt.Errorf("%d bytes of shared memory", shared)
	}
	fixed, err := m.fixed(owner, matrices, blocks)
	if err != nil {
		return EmulatedToken{}, err
	}
	pointers, numbers := 1+len(fixed)+2*len(m.Layers)+2, 2+3*m.Kinds
	var arguments []string
	for i := range pointers {
		cast := ""
		if i == 9 {
			cast = "(const float*)"
		}
		arguments = append(arguments, fmt.Sprintf("%sa->pointers[%d]", cast, i))
	}
	for i := range numbers {
		arguments = append(arguments, fmt.Sprintf("a->numbers[%d]", i))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\nthread_local unsigned char memory[SHARED_BYTES] __attribute__((aligned(128)));\n", source)
	b.WriteString("static void begin() { std::memset(memory, 0x7f, sizeof memory); }\n")
	fmt.Fprintf(&b, "static void call(void* p) {\n  auto* a = static_cast<emulation::Arguments*>(p);\n  go_mlx_token(%s);\n}\n", strings.Join(arguments, ", "))
	fmt.Fprintf(&b, "int main() { emulation::serve(call, %d, %d, BLOCKS, THREADS, begin); }\n", pointers, numbers)
	return EmulatedToken{b.String(), fixed}, nil
}

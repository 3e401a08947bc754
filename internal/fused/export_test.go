//go:build linux

package fused

import (
	_ "embed" // what the CPU has in place of a GPU
	"errors"
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

var (
	//go:embed testdata/emulate.h
	emulation string
	//go:embed testdata/emulate_machine.h
	emulatedMachine string
	//go:embed testdata/emulate_types.h
	emulatedTypes string
)

// Emulated is a kernel as a program for a CPU.
type Emulated struct {
	Source string
	Fixed  []*mlxc.Array // that every launch of the kernel of a token gets
}

// serve is the source of a program that runs a kernel: so many pointers, of which fresh ones are new for every run and the last ones are results.
func serve(source, kernel string, casts map[int]string, pointers, fresh, results, numbers int, blocks, threads, begin string) string {
	var arguments []string
	for i := range pointers {
		arguments = append(arguments, fmt.Sprintf("(%s)a->pointers[%d]", casts[i], i))
		if casts[i] == "" {
			arguments[i] = fmt.Sprintf("a->pointers[%d]", i)
		}
	}
	for i := range numbers {
		arguments = append(arguments, fmt.Sprintf("a->numbers[%d]", i))
	}
	return fmt.Sprintf(`%s
static void begin() { %s }
static void call(void* p) {
  auto* a = static_cast<emulation::Arguments*>(p);
  %s(%s);
}
int main() { emulation::serve(call, {%d, %d, %d, %d, %s, %s}, begin); }
`, source, begin, kernel, strings.Join(arguments, ", "), pointers, fresh, results, numbers, blocks, threads)
}

// Emulate makes the program of a model's kernel of a token, with so many blocks. owner owns the arrays.
func (m *TokenModel) Emulate(owner *mlxc.Scope, blocks int) (Emulated, error) {
	matrices, bits, group, ok := m.matrices()
	if !ok || !m.fits() {
		return Emulated{}, errors.New("the kernel does not serve this model")
	}
	device := mlxc.CUDADevice{Multiprocessors: blocks, SharedBytes: 227 << 10}
	source, shared := m.source(device, bits, group, len(matrices)-6, emulation+emulatedMachine)
	if shared > device.SharedBytes {
		return Emulated{}, fmt.Errorf("%d bytes of shared memory", shared)
	}
	fixed, err := m.fixed(owner, matrices, m.blocks(device))
	if err != nil {
		return Emulated{}, err
	}
	source += "\nthread_local unsigned char memory[SHARED_BYTES] __attribute__((aligned(128)));\n"
	return Emulated{serve(source, "go_mlx_token", map[int]string{9: "const float*"}, 1+len(fixed)+2*len(m.Layers)+2, 1, 2, 2+3*m.Kinds,
		"BLOCKS", "THREADS", "std::memset(memory, 0x7f, sizeof memory);"), fixed}, nil
}

// EmulateDraw is the kernel that draws tokens, for rows of a vocabulary.
func EmulateDraw(dtype mlxc.DType, rows, vocab int) string {
	k := newDraw()
	source := k.source([]int{vocab}, dtype, []int{2, 1, 2, 2})
	source = strings.Replace(source, typesHeader, emulation+emulatedTypes, 1)
	return serve(source, "go_mlx_draw", map[int]string{0: "const T*", 1: "const int*", 2: "const float*", 3: "const uint32_t*", 4: "uint32_t*"}, 5, 4, 1, 0,
		fmt.Sprint(rows), fmt.Sprint(drawThreads), "")
}

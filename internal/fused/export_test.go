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
func serve(source, kernel string, casts map[int]string, pointers, fresh, results, numbers int, grid, threads, together, begin string, constants ...string) string {
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
	arguments = append(arguments, constants...)
	return fmt.Sprintf(`%s
static void begin() { %s }
static void call(void* p) {
  auto* a = static_cast<emulation::Arguments*>(p);
  %s(%s);
}
int main() { emulation::serve(call, {%d, %d, %d, %d, {%s}, %s, %s}, begin); }
`, source, begin, kernel, strings.Join(arguments, ", "), pointers, fresh, results, numbers, grid, threads, together)
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
		"BLOCKS, 1, 1", "THREADS", "BLOCKS", "std::memset(memory, 0x7f, sizeof memory);"), fixed}, nil
}

// NewEmulated is Kernels whose launches run makes: of a program for a CPU, to which inputs, strided or in row-major order, are given in order and which puts out one array.
func NewEmulated(owner *mlxc.Scope, shape Shape, run func(s *mlxc.Scope, source string, strided []bool, inputs []*mlxc.Array, out mlxc.Output) *mlxc.Array) (*Kernels, error) {
	k := newKernels(shape)
	k.launched = func(s *mlxc.Scope, of *kernel, l launch, inputs []*mlxc.Array) *mlxc.Array {
		ranks := make([]int, len(inputs))
		casts := map[int]string{}
		var numbers []string
		strided := make([]bool, len(inputs))
		pointer := func(declared string) string {
			kind, _, _ := strings.Cut(declared, " ")
			return kind + "*"
		}
		for i, a := range inputs {
			ranks[i] = a.NDim()
			casts[i] = "const " + pointer(of.inputs[i])
			if of.layouts[i].Shape {
				for axis := range a.NDim() {
					numbers = append(numbers, fmt.Sprint(a.Dim(axis)))
				}
			}
			if strided[i] = of.layouts[i].Strides; strided[i] {
				_, strides, err := a.Memory()
				if err != nil {
					s.Fail(err)
				}
				for _, stride := range strides {
					numbers = append(numbers, fmt.Sprint(stride))
				}
			}
		}
		casts[len(inputs)] = pointer(of.output)
		source := strings.Replace(of.source(l.constants, shape.DType, ranks), typesHeader, emulation+emulatedTypes, 1)
		blocks := make([]string, 3)
		for i := range blocks {
			blocks[i] = fmt.Sprint((l.grid[i] + l.group[i] - 1) / l.group[i])
		}
		return run(s, serve(source, of.name, casts, len(inputs)+1, len(inputs), 1, 0, strings.Join(blocks, ", "), fmt.Sprint(l.group[0]), "4", "",
			numbers...), strided, inputs, l.output)
	}
	return k, k.makeConstants(owner)
}

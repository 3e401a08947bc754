package fused

import (
	_ "embed" // what all kernels begin with
	"fmt"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

var (
	//go:embed types.cuh
	types string
	//go:embed multiply_tile.cuh
	multiplyTile string
)

// typesHeader is what the source of every kernel but that of a token begins with.
var typesHeader = types + multiplyTile

const maxConstants = 5 // of a kernel

// kernel is a CUDA kernel that is compiled for each set of its constants when that is first launched, or taken from the cache of
// compiled kernels. MLX could compile it too, but takes a second for each, as it puts its own headers in front, and keeps none.
type kernel struct {
	name, header, body string
	inputs             []string // "type name"; the body may read a name_shape and name_strides too
	output             string   // "type name"
	constants          []string // compile-time integers
	programs           map[[maxConstants]int]*mlxc.Program
	layouts            []mlxc.Layout // which parts of each input's layout the body reads
}

// launch is one use of a kernel.
type launch struct {
	grid, group [3]int // in threads
	constants   []int  // one for each name
	output      mlxc.Output
}

// newKernel is a kernel in the parts of its source. Its header comes after those that all have.
func newKernel(name, header, body string, inputs []string, output string, constants ...string) *kernel {
	k := &kernel{name: "go_mlx_" + name, header: header, body: body, inputs: inputs, output: output, constants: constants}
	k.programs = map[[maxConstants]int]*mlxc.Program{}
	for _, input := range inputs {
		_, name, _ := strings.Cut(input, " ")
		k.layouts = append(k.layouts, mlxc.Layout{
			Shape: strings.Contains(body, name+"_shape["), Strides: strings.Contains(body, name+"_strides["),
		})
	}
	return k
}

// source is the text for some constants and a model's type. ranks are the inputs' numbers of dimensions.
func (k *kernel) source(constants []int, dtype mlxc.DType, ranks []int) string {
	var b, arrays strings.Builder
	element := map[mlxc.DType]int{mlxc.Float32: 0, mlxc.Float16: 1, mlxc.BFloat16: 2}
	fmt.Fprintf(&b, "#define ELEMENT %d\n%s%s%s", element[dtype], typesHeader, common, k.header)
	var parameters []string
	for _, input := range k.inputs {
		kind, name, _ := strings.Cut(input, " ")
		parameters = append(parameters, fmt.Sprintf("const %s* __restrict__ %s", kind, name))
	}
	kind, name, _ := strings.Cut(k.output, " ")
	parameters = append(parameters, fmt.Sprintf("%s* __restrict__ %s", kind, name))
	for i, input := range k.inputs {
		_, name, _ := strings.Cut(input, " ")
		numbers := func(what string) {
			var names []string
			for axis := range ranks[i] {
				names = append(names, fmt.Sprintf("%s_%s%d", name, what, axis))
				parameters = append(parameters, "int "+names[axis])
			}
			fmt.Fprintf(&arrays, "  const int64_t %s_%s[] = {%s};\n", name, what, strings.Join(names, ", "))
		}
		if k.layouts[i].Shape {
			numbers("shape")
		}
		if k.layouts[i].Strides {
			numbers("strides")
		}
	}
	for i, name := range k.constants {
		fmt.Fprintf(&arrays, "  constexpr int %s = %d;\n", name, constants[i])
	}
	fmt.Fprintf(&b, "extern \"C\" __global__ void %s(%s) {\n%s%s}\n", k.name, strings.Join(parameters, ", "), arrays.String(), k.body)
	return b.String()
}

// run applies a kernel. Inputs are not made contiguous: the body reads their strides.
func (k *Kernels) run(s *mlxc.Scope, of *kernel, l launch, inputs ...*mlxc.Array) *mlxc.Array {
	if k.launched != nil {
		return k.launched(s, of, l, inputs)
	}
	program, err := k.program(of, l, inputs)
	if err != nil {
		s.Fail(err)
		return inputs[0] // the error is latched
	}
	return s.RunProgram(program, mlxc.ProgramLaunch{
		Grid: l.grid, Group: l.group, Outputs: []mlxc.Output{l.output}, Layouts: of.layouts,
	}, inputs, nil)[0]
}

// program is a kernel compiled for a launch.
func (k *Kernels) program(of *kernel, l launch, inputs []*mlxc.Array) (*mlxc.Program, error) {
	var key [maxConstants]int
	copy(key[:], l.constants)
	if p := of.programs[key]; p != nil {
		return p, nil
	}
	ranks := make([]int, len(inputs))
	for i, a := range inputs {
		ranks[i] = a.NDim()
	}
	code, err := compile(of.source(l.constants, k.shape.DType, ranks), k.device)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", of.name, err)
	}
	p, err := mlxc.NewProgram(of.name, code, nil)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", of.name, err)
	}
	of.programs[key] = p
	return p, nil
}

// compile is the machine code of a source, from the cache if it is there.
func compile(source string, device mlxc.CUDADevice) ([]byte, error) {
	key := fmt.Sprintf("%d.%d driver %d compiler %d\n%s", device.Major, device.Minor, device.Driver, device.Compiler, source)
	return openCache().get(key, func() ([]byte, error) { return mlxc.CompileCUDA(source, device) })
}

func (k *kernel) close() {
	for _, p := range k.programs {
		p.Close()
	}
	clear(k.programs)
}

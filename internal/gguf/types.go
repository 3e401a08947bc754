package gguf

import "fmt"

// Type is a tensor's type, by the number that GGUF gives it.
type Type uint32

// The types that can be read.
const (
	F32   Type = 0
	F16   Type = 1
	Q4_0  Type = 2
	Q4_1  Type = 3
	Q5_0  Type = 6
	Q5_1  Type = 7
	Q8_0  Type = 8
	Q2K   Type = 10
	Q3K   Type = 11
	Q4K   Type = 12
	Q5K   Type = 13
	Q6K   Type = 14
	IQ4NL Type = 20
	IQ4XS Type = 23
	BF16  Type = 30
)

// layouts say how many values a block of a type has, and how many bytes; unpack is of types that are not quantised.
var layouts = map[Type]struct {
	name          string
	values, bytes int
	unpack        func(block []byte, out []float32)
}{
	F32: {"F32", 1, 4, unpackF32}, F16: {"F16", 1, 2, unpackF16}, BF16: {"BF16", 1, 2, unpackBF16},
	Q4_0: {"Q4_0", 32, 18, nil}, Q4_1: {"Q4_1", 32, 20, nil}, Q5_0: {"Q5_0", 32, 22, nil},
	Q5_1: {"Q5_1", 32, 24, nil}, Q8_0: {"Q8_0", 32, 34, nil}, 9: {"Q8_1", 32, 36, nil},
	Q2K: {"Q2_K", 256, 84, nil}, Q3K: {"Q3_K", 256, 110, nil}, Q4K: {"Q4_K", 256, 144, nil},
	Q5K: {"Q5_K", 256, 176, nil}, Q6K: {"Q6_K", 256, 210, nil}, 15: {"Q8_K", 256, 292, nil},
	IQ4NL: {"IQ4_NL", 32, 18, nil}, IQ4XS: {"IQ4_XS", 256, 136, nil},
	16: {"IQ2_XXS", 256, 66, nil}, 17: {"IQ2_XS", 256, 74, nil}, 18: {"IQ3_XXS", 256, 98, nil}, 19: {"IQ1_S", 256, 50, nil},
	21: {"IQ3_S", 256, 110, nil}, 22: {"IQ2_S", 256, 82, nil}, 29: {"IQ1_M", 256, 56, nil}, 34: {"TQ1_0", 256, 54, nil},
	35: {"TQ2_0", 256, 66, nil}, 39: {"MXFP4", 32, 17, nil}, 40: {"NVFP4", 64, 36, nil},
	24: {"I8", 1, 1, nil}, 25: {"I16", 1, 2, nil}, 26: {"I32", 1, 4, nil}, 27: {"I64", 1, 8, nil}, 28: {"F64", 1, 8, nil},
}

func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("number %d", uint32(t))
}

// TypeError is a tensor of a type that cannot be read.
type TypeError struct {
	Tensor string
	Type   Type
}

func (e *TypeError) Error() string {
	return fmt.Sprintf("tensor %q is of type %v, which is not supported; there are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, "+
		"IQ4_NL and IQ4_XS: get the model in one of these, or make it with llama-quantize --allow-requantize FILE OUT Q8_0", e.Tensor, e.Type)
}

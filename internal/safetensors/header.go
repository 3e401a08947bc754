// Package safetensors reads the headers of safetensors files and checks them against the files' sizes.
// MLX reads the data itself but trusts the header; a truncated file must be found before that.
//
// Format: https://github.com/huggingface/safetensors#format
package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"os"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrMalformed is wrapped by every error about a file's contents.
var ErrMalformed = errors.New("malformed safetensors file")

// maxHeader is the format's own limit on the header's length.
const maxHeader = 100_000_000

// Tensor is one entry of a header.
type Tensor struct {
	DType  string // "BF16", "F32", "U32", ...
	Shape  []int
	Offset [2]int64 // begin and end in the data section
}

// Elements is the number of elements.
func (t Tensor) Elements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// Bytes is the length of the data.
func (t Tensor) Bytes() int64 { return t.Offset[1] - t.Offset[0] }

var elementBits = map[string]uint64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
	"U16": 16, "I16": 16, "F16": 16, "BF16": 16,
	"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}

// ReadFile reads and checks the header of a file.
func ReadFile(path string) (map[string]Tensor, error) {
	tensors, _, err := ReadFileMetadata(path)
	return tensors, err
}

// ReadFileMetadata is ReadFile with the file's metadata.
func ReadFileMetadata(path string) (map[string]Tensor, map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	tensors, metadata, err := Read(f, stat.Size())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return tensors, metadata, nil
}

// DataStart is where the data section of a file begins, from which tensors' offsets count.
func DataStart(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var length uint64
	if err := binary.Read(f, binary.LittleEndian, &length); err != nil || length > maxHeader {
		return 0, fmt.Errorf("%s: %w: no header", path, ErrMalformed)
	}
	return 8 + int64(length), nil
}

// Read reads and checks the header of a file of the given size.
func Read(r io.Reader, size int64) (tensors map[string]Tensor, metadata map[string]string, err error) {
	fail := func(format string, args ...any) (map[string]Tensor, map[string]string, error) {
		return nil, nil, fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	var length uint64
	if err := binary.Read(r, binary.LittleEndian, &length); err != nil {
		return fail("shorter than 8 bytes: download or copy it again")
	}
	if length > maxHeader {
		return fail("header of %d bytes: it is no safetensors file, or is damaged", length)
	}
	if int64(length) > size-8 {
		return fail("header of %d bytes in a file of %d: it is truncated, copy it again", length, size)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(r, data); err != nil {
		return fail("header is cut off: %v", err)
	}
	// Other than encoding/json this package takes no key for another one, in capitals, and none twice.
	var entries map[string]jsontext.Value
	if err := json.Unmarshal(data, &entries); err != nil || entries == nil {
		return fail("the header is no JSON object%s", because(err))
	}
	available := size - 8 - int64(length)
	tensors = make(map[string]Tensor, len(entries))
	for name, raw := range entries {
		if name == "__metadata__" {
			if err := json.Unmarshal(raw, &metadata); err != nil {
				return fail("__metadata__ is no object of texts")
			}
			continue
		}
		var entry struct {
			DType       string  `json:"dtype"`
			Shape       []int   `json:"shape"`
			DataOffsets []int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &entry); err != nil || entry.Shape == nil {
			return fail("tensor %q: its entry is %.120s, and not a dtype, a shape and data_offsets", name, raw)
		}
		if len(entry.DataOffsets) != 2 {
			return fail("tensor %q: data_offsets has %d values, want 2", name, len(entry.DataOffsets))
		}
		t := Tensor{DType: entry.DType, Shape: entry.Shape, Offset: [2]int64(entry.DataOffsets)}
		if t.Offset[0] < 0 || t.Offset[1] < t.Offset[0] {
			return fail("tensor %q: data from byte %d to %d", name, t.Offset[0], t.Offset[1])
		}
		if t.Offset[1] > available {
			return fail("tensor %q: data ends at byte %d but the file holds %d: it is truncated, copy it again", name, t.Offset[1], available)
		}
		width, known := elementBits[t.DType]
		if !known {
			return fail("tensor %q: unknown dtype %q", name, t.DType)
		}
		total := width
		for _, d := range t.Shape {
			hi, lo := bits.Mul64(total, uint64(d))
			if d < 0 || hi != 0 {
				return fail("tensor %q: shape %v", name, t.Shape)
			}
			total = lo
		}
		if total != uint64(t.Bytes())*8 {
			return fail("tensor %q: %d bytes do not hold shape %v of %s", name, t.Bytes(), t.Shape, t.DType)
		}
		tensors[name] = t
	}
	// Weights are changed where they lie, so no byte may belong to two tensors; the format forbids it too.
	names := slices.SortedFunc(maps.Keys(tensors), func(a, b string) int {
		return cmp.Or(cmp.Compare(tensors[a].Offset[0], tensors[b].Offset[0]), cmp.Compare(tensors[a].Offset[1], tensors[b].Offset[1]))
	})
	last := ""
	for _, name := range names {
		if t := tensors[name]; t.Bytes() > 0 {
			if t.Offset[0] < tensors[last].Offset[1] {
				return fail("tensors %q and %q have bytes in common", last, name)
			}
			last = name
		}
	}
	return tensors, metadata, nil
}

// because is what a parser says, without the name of its package.
func because(err error) string {
	if syntax := (*jsontext.SyntacticError)(nil); errors.As(err, &syntax) {
		return fmt.Sprintf(": %v at byte %d", syntax.Err, syntax.ByteOffset)
	}
	return ""
}

// TypeName is the name that MLX gives a type, "bfloat16" of "BF16", of those in which models compute.
func TypeName(dtype string) string {
	names := map[string]string{"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
	if name, ok := names[dtype]; ok {
		return name
	}
	return dtype
}

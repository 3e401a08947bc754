package checkpoint

import (
	"fmt"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// weightFile is a file whose tensors are read directly into their arrays' memory.
type weightFile struct {
	*mlxc.WeightFile
	start   int64 // of the data section
	tensors map[string]safetensors.Tensor
	from    *gguf.Checkpoint // the GGUF checkpoint that the bytes are converted from; nil for a safetensors file
}

// fileTypes are the types that tensors of a weightFile may have.
var fileTypes = map[string]mlxc.DType{
	"BF16": mlxc.BFloat16, "F16": mlxc.Float16, "F32": mlxc.Float32, "U32": mlxc.Uint32, "I32": mlxc.Int32,
	"U8": mlxc.Uint8, "I8": mlxc.Int8, "U16": mlxc.Uint16, "I16": mlxc.Int16,
}

// openFile makes the arrays of a file with the header that was read of it. It returns false, and MLX reads the file, if a tensor has a type of
// which there are no such arrays, or is not aligned.
func (w *Weights) openFile(path string, tensors map[string]safetensors.Tensor) bool {
	start, err := safetensors.DataStart(path)
	if err != nil {
		w.Scope.Fail(err)
		return true
	}
	for _, t := range tensors {
		dtype, ok := fileTypes[t.DType]
		if !ok || (start+t.Offset[0])%int64(dtype.Size()) != 0 {
			return false
		}
	}
	file, err := mlxc.OpenWeightFile(path, start)
	if err != nil {
		w.Scope.Fail(err)
		return true
	}
	w.files = append(w.files, &weightFile{WeightFile: file, start: start, tensors: tensors})
	for name, t := range tensors {
		w.arrays[name] = file.Array(w.Scope, start+t.Offset[0], fileTypes[t.DType], t.Shape...)
	}
	return true
}

// openRoom makes the arrays of a GGUF file, which is converted directly into their memory. It returns false, and MLX asks for bytes of the file, if a
// tensor is not aligned.
func (w *Weights) openRoom(c *gguf.Checkpoint) bool {
	size := int64(0)
	for _, t := range c.Virtual {
		dtype, ok := fileTypes[t.DType]
		if !ok || t.Offset[0]%int64(dtype.Size()) != 0 {
			return false
		}
		size = max(size, t.Offset[1])
	}
	room, err := mlxc.NewWeightRoom(size)
	if err != nil {
		w.Scope.Fail(err)
		return true
	}
	w.files = append(w.files, &weightFile{WeightFile: room, tensors: c.Virtual, from: c})
	w.arrays = map[string]*mlxc.Array{}
	for name, t := range c.Virtual {
		w.arrays[name] = room.Array(w.Scope, t.Offset[0], fileTypes[t.DType], t.Shape...)
	}
	return true
}

// convert writes tensors into their arrays' memory.
func (f *weightFile) convert(names []string) error {
	out := map[string][]byte{}
	for _, name := range names {
		t := f.tensors[name]
		bytes, err := f.Bytes(t.Offset[0], t.Bytes())
		if err != nil {
			return err
		}
		out[name] = bytes
	}
	if err := f.from.ReadTensors(out); err != nil {
		return fmt.Errorf("read %s: %w", f.from.Path, err)
	}
	return nil
}

// splitNames divides the tensors of a GGUF file that are used into those that are made first, and those of about heldBack that are made last.
// The parts of a matrix stay together.
func (f *weightFile) splitNames(used map[string]bool) (first, last []string) {
	total, held := int64(0), int64(0)
	for name, t := range f.tensors {
		if used[name] {
			first = append(first, name)
			total += t.Bytes()
		}
	}
	slices.Sort(first)
	stem := func(name string) string { return name[:strings.LastIndexByte(name, '.')+1] }
	n := len(first)
	for n > 0 && held < min(heldBack, total/3) {
		held += f.tensors[first[n-1]].Bytes()
		for n--; n > 0 && stem(first[n-1]) == stem(first[n]); n-- {
			held += f.tensors[first[n-1]].Bytes()
		}
	}
	return first[:n], first[n:]
}

// heldBack is how much of the weights is read last, after BeforeLast: at most this, and at most a third of them.
const heldBack = 48 << 20

func (w *Weights) beforeLast() {
	if w.BeforeLast != nil {
		w.BeforeLast()
	}
}

// readFiles reads the tensors that are used.
func (w *Weights) readFiles() error {
	var parts [][]mlxc.Range // of each file
	total := int64(0)
	for _, f := range w.files {
		var some []mlxc.Range
		for name, t := range f.tensors {
			if f.from == nil && w.used[name] {
				some = append(some, mlxc.Range{Offset: f.start + t.Offset[0], Length: t.Bytes()})
				total += t.Bytes()
			}
		}
		parts = append(parts, some)
	}
	first := total - min(heldBack, total/3)
	for i, f := range w.files {
		if f.from != nil {
			first, last := f.splitNames(w.used)
			if err := f.convert(first); err != nil {
				return err
			}
			w.beforeLast()
			if err := f.convert(last); err != nil {
				return err
			}
			continue
		}
		var now, last []mlxc.Range
		for _, p := range parts[i] {
			n := min(p.Length, max(first, 0))
			if first -= p.Length; n > 0 {
				now = append(now, mlxc.Range{Offset: p.Offset, Length: n})
			}
			if n < p.Length {
				last = append(last, mlxc.Range{Offset: p.Offset + n, Length: p.Length - n})
			}
		}
		if err := f.Read(now); err != nil {
			return err
		}
		if len(last) > 0 {
			w.beforeLast()
		}
		if err := f.Read(last); err != nil {
			return err
		}
	}
	return nil
}

// CloseFiles closes what openFile and openRoom opened; arrays stay.
func (w *Weights) CloseFiles() {
	for _, f := range w.files {
		f.Close()
	}
}

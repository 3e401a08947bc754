package checkpoint

import (
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// weightFile is a safetensors file whose tensors are read to where they stay.
type weightFile struct {
	*mlxc.WeightFile
	start   int64 // of the data section
	tensors map[string]safetensors.Tensor
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
	w.files = append(w.files, &weightFile{file, start, tensors})
	for name, t := range tensors {
		w.arrays[name] = file.Array(w.Scope, start+t.Offset[0], fileTypes[t.DType], t.Shape...)
	}
	return true
}

// readFiles reads the tensors that are used.
func (w *Weights) readFiles() error {
	for _, f := range w.files {
		var parts []mlxc.Range
		for name, t := range f.tensors {
			if w.used[name] {
				parts = append(parts, mlxc.Range{Offset: f.start + t.Offset[0], Length: t.Bytes()})
			}
		}
		if err := f.Read(parts); err != nil {
			return err
		}
	}
	return nil
}

// CloseFiles closes what openFile opened; arrays stay.
func (w *Weights) CloseFiles() {
	for _, f := range w.files {
		f.Close()
	}
}

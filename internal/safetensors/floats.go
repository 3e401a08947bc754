package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
)

// ReadFloats reads every tensor of a file, all of which must be float32.
func ReadFloats(path string) (map[string][]float32, error) {
	tensors, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	data = data[8+binary.LittleEndian.Uint64(data):]
	out := make(map[string][]float32, len(tensors))
	for name, t := range tensors {
		if t.DType != "F32" {
			return nil, fmt.Errorf("%s: tensor %q is %s, not F32", path, name, t.DType)
		}
		values := make([]float32, t.Elements())
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[t.Offset[0]+int64(4*i):]))
		}
		out[name] = values
	}
	return out, nil
}

package metal

/*
#include "glue.h"
*/
import "C"

// LoadGGUF reads the tensors of a GGUF file under the names that they have there; packed ones come as weight
// (uint32), scales and biases (float16), as MLX's affine format has them. Check the file with the gguf package
// first.
func (s *Scope) LoadGGUF(path string) map[string]*Array {
	const op = "load gguf"
	if !s.ready(op) {
		return nil
	}
	gguf, keys := C.mlx_io_gguf_new(), C.mlx_vector_string_new()
	defer C.mlx_io_gguf_free(gguf)
	defer C.mlx_vector_string_free(keys)
	load := func(file *C.char, cpu C.mlx_stream) C.int { return C.mlx_load_gguf(&gguf, file, cpu) }
	if fromFile(path, load) != 0 || C.mlx_io_gguf_get_keys(&keys, gguf) != 0 {
		s.err = lastError(op)
		return nil
	}
	out := map[string]*Array{}
	for i := range C.mlx_vector_string_size(keys) {
		var key *C.char
		if C.mlx_vector_string_get(&key, keys, i) != 0 {
			s.err = lastError(op)
			return nil
		}
		a := s.fresh()
		if s.done(op, a, C.mlx_io_gguf_get_array(&a.h, gguf, key)); s.err != nil {
			return nil
		}
		out[C.GoString(key)] = a
	}
	return out
}

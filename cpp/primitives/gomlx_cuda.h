// CUDA programs of our own as MLX ops: compiled here, kept by the caller, and launched with arrays as parameters. In a library
// that was built against an MLX without CUDA everything is an error. Functions return 0 or set the error slot.
#pragma once

#include <stddef.h>

#include "gomlx_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int multiprocessors;
  int major, minor;  // compute capability
  int shared_bytes;  // that a block can have
  int driver;        // the CUDA version that the driver knows, as 1000 major + 10 minor
  int compiler;      // NVRTC's, likewise
} gomlx_cuda_device;

GOMLX_API int gomlx_cuda_describe(gomlx_cuda_device* out, int index);

// Compiles a source without any includes for a compute capability. code is freed with gomlx_cuda_free.
GOMLX_API int gomlx_cuda_compile(char** code, size_t* size, const char* source, int major, int minor);
GOMLX_API void gomlx_cuda_free(char* code);

// A compiled kernel with the arrays that are the same in every launch.
typedef struct gomlx_cuda_program gomlx_cuda_program;

// What a kernel wants to know of an array's layout.
enum { GOMLX_SHAPE = 1, GOMLX_STRIDES = 2 };

typedef struct {
  int grid[3], group[3]; // in threads
  int shared_bytes;
  int outputs;
  const int* shapes; // the outputs' shapes, one after the other
  const int* ranks;
  const mlx_dtype* types;
  const int* numbers; // parameters after the outputs
  int number_count;
  const int* layouts; // of the first inputs
  int layout_count;
} gomlx_cuda_launch;

// kernel is the name of an extern "C" kernel in the code.
GOMLX_API int gomlx_cuda_program_new(gomlx_cuda_program** out, const char* kernel, const char* code, size_t size, const mlx_array* fixed, int fixed_count);
GOMLX_API void gomlx_cuda_program_free(gomlx_cuda_program* program);

// The kernel's parameters are pointers to first, the fixed arrays, last and the outputs, then the numbers, and then of every input with a layout
// its shape and its strides in elements, an int for each dimension. All other arrays must be in row-major order. A program may write to its inputs: that is the caller's affair, as MLX does not know of it.
GOMLX_API int gomlx_cuda_program_run(mlx_array* outputs, const gomlx_cuda_program* program, const mlx_array* first, int first_count,
                                     const mlx_array* last, int last_count, const gomlx_cuda_launch* launch, mlx_stream stream);

#ifdef __cplusplus
}
#endif

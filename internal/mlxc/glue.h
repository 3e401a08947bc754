// What cgo cannot say itself: the thread-local error slot, batch frees and the closure trampoline.
#pragma once

#include "mlx/c/mlx.h"

// Replaces mlx-c's default handler, which prints and exits, by one that stores the message in a slot
// of the calling thread.
void gomlx_install_error_handler(void);

// The message of this thread's last error, "" if there was none since the last clear.
const char* gomlx_error(void);
void gomlx_clear_error(void);

// Frees n handles; returns the number that failed.
int gomlx_free_arrays(mlx_array* arrays, size_t n);

// A closure that calls back into Go; handle is a runtime/cgo.Handle.
mlx_closure gomlx_closure_new(uintptr_t handle);

// Names that MLX takes as strings, so that no call has to copy one from Go.
extern const char* const gomlx_affine;
extern const char* const gomlx_mask_modes[3];

// What one launch of a custom kernel needs besides its inputs.
typedef struct {
  int grid[3];  // threads, not blocks
  int group[3];
  int outputs;
  const int* shapes;      // the outputs' shapes, one behind the other
  const int* ranks;       // how many of them belong to each output
  const mlx_dtype* types;
  int constants;
  const char* const* names; // of the compile-time integers
  const int* values;
  mlx_dtype element; // the compile-time type T
} gomlx_launch;

int gomlx_cuda_kernel_apply(mlx_vector_array* out, mlx_fast_cuda_kernel kernel, const mlx_array* in, int inputs,
                            const gomlx_launch* launch, mlx_stream stream);

// A reader that calls back into Go; handle is a runtime/cgo.Handle of a VirtualFile. The name is copied.
mlx_io_reader gomlx_reader_new(uintptr_t handle, const char* name);

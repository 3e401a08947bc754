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

// A reader that calls back into Go; handle is a runtime/cgo.Handle of a VirtualFile. The name is copied.
mlx_io_reader gomlx_reader_new(uintptr_t handle, const char* name);

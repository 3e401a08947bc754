#include "glue.h"

#include <stdio.h>
#include <stdlib.h>

const char* const gomlx_affine = "affine";
const char* const gomlx_mask_modes[3] = {"", "causal", "array"};

static _Thread_local char error_slot[4096];

static void store_error(const char* msg, void* data) {
  (void)data;
  snprintf(error_slot, sizeof error_slot, "%s", msg);
}

void gomlx_install_error_handler(void) {
  mlx_set_error_handler(store_error, NULL, NULL);
}

const char* gomlx_error(void) {
  return error_slot;
}

void gomlx_clear_error(void) {
  error_slot[0] = '\0';
}

int gomlx_free_arrays(mlx_array* arrays, size_t n) {
  int failed = 0;
  for (size_t i = 0; i < n; i++)
    failed += mlx_array_free(arrays[i]) != 0;
  return failed;
}

extern int gomlxClosureCall(mlx_vector_array* out, mlx_vector_array in, uintptr_t handle);
extern void gomlxClosureFree(uintptr_t handle);

static int call_go(mlx_vector_array* out, const mlx_vector_array in, void* payload) {
  return gomlxClosureCall(out, in, (uintptr_t)payload);
}

static void free_go(void* payload) {
  gomlxClosureFree((uintptr_t)payload);
}

mlx_closure gomlx_closure_new(uintptr_t handle) {
  return mlx_closure_new_func_payload(call_go, (void*)handle, free_go);
}

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

int gomlx_cuda_kernel_apply(mlx_vector_array* out, mlx_fast_cuda_kernel kernel, const mlx_array* in, int inputs,
                            const gomlx_launch* launch, mlx_stream stream) {
  mlx_fast_cuda_kernel_config config = mlx_fast_cuda_kernel_config_new();
  const int *grid = launch->grid, *group = launch->group, *shape = launch->shapes;
  int rc = mlx_fast_cuda_kernel_config_set_grid(config, grid[0], grid[1], grid[2]);
  rc = rc || mlx_fast_cuda_kernel_config_set_thread_group(config, group[0], group[1], group[2]);
  rc = rc || mlx_fast_cuda_kernel_config_add_template_arg_dtype(config, "T", launch->element);
  for (int i = 0; i < launch->constants; i++)
    rc = rc || mlx_fast_cuda_kernel_config_add_template_arg_int(config, launch->names[i], launch->values[i]);
  for (int i = 0; i < launch->outputs; shape += launch->ranks[i++])
    rc = rc || mlx_fast_cuda_kernel_config_add_output_arg(config, shape, launch->ranks[i], launch->types[i]);
  if (rc == 0) {
    mlx_vector_array args = mlx_vector_array_new_data(in, inputs);
    rc = mlx_fast_cuda_kernel_apply(out, kernel, args, config, stream);
    mlx_vector_array_free(args);
  }
  mlx_fast_cuda_kernel_config_free(config);
  return rc;
}

extern size_t gomlxReaderRead(uintptr_t handle, void* data, size_t n);
extern size_t gomlxReaderReadAt(uintptr_t handle, void* data, size_t n, size_t offset);
extern int gomlxReaderSeek(uintptr_t handle, int64_t offset, int whence);
extern size_t gomlxReaderTell(uintptr_t handle);
extern void gomlxReaderFree(uintptr_t handle);

typedef struct {
  uintptr_t handle;
  char name[1024];
} go_reader;

static bool reader_ok(void* r) {
  (void)r;
  return true;
}

static size_t reader_tell(void* r) {
  return gomlxReaderTell(((go_reader*)r)->handle);
}

static int reader_seek(void* r, int64_t offset, int whence) {
  return gomlxReaderSeek(((go_reader*)r)->handle, offset, whence);
}

static size_t reader_read(void* r, char* data, size_t n) {
  return gomlxReaderRead(((go_reader*)r)->handle, data, n);
}

static size_t reader_read_at(void* r, char* data, size_t n, size_t offset) {
  return gomlxReaderReadAt(((go_reader*)r)->handle, data, n, offset);
}

static const char* reader_name(void* r) {
  return ((go_reader*)r)->name;
}

static void reader_free(void* r) {
  gomlxReaderFree(((go_reader*)r)->handle);
  free(r);
}

mlx_io_reader gomlx_reader_new(uintptr_t handle, const char* name) {
  go_reader* r = malloc(sizeof *r);
  r->handle = handle;
  snprintf(r->name, sizeof r->name, "%s", name);
  mlx_io_vtable table = {
      .is_open = reader_ok, .good = reader_ok, .tell = reader_tell, .seek = reader_seek, .read = reader_read,
      .read_at_offset = reader_read_at, .label = reader_name, .free = reader_free};
  return mlx_io_reader_new(r, table);
}

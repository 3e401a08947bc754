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

// Arrays that lie in a mapped file.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>

#include "boundary.h"

namespace {

using namespace mlx::core;

struct Mapped {
  char* data;
  size_t size;
  ~Mapped() { munmap(data, size); }
};

// MLX's buffers on the CPU begin with their size, and arrays with what is behind it. So an array at p is one whose
// buffer begins that much before p; nothing is written there.
size_t header_of_buffers() {
  static const size_t header = [] {
    allocator::Buffer b = allocator::malloc(64);
    size_t n = static_cast<char*>(b.raw_ptr()) - static_cast<char*>(b.ptr());
    allocator::free(b);
    return n;
  }();
  return header;
}

} // namespace

struct gomlx_mapping {
  std::shared_ptr<Mapped> file;
};

int gomlx_map_file(gomlx_mapping** out, const char* path) {
  return gomlx::guarded([&] {
    if (is_available(Device::gpu)) throw std::runtime_error("files are mapped for the CPU only");
    auto fail = [&] { throw std::system_error(errno, std::generic_category(), path); };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) fail();
    struct stat info;
    void* data = MAP_FAILED;
    if (fstat(fd, &info) == 0 && info.st_size > 0) data = mmap(nullptr, size_t(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    const int error = errno;
    close(fd);
    errno = error;
    if (data == MAP_FAILED) fail();
    madvise(data, size_t(info.st_size), MADV_WILLNEED);
    auto file = std::make_shared<Mapped>(static_cast<char*>(data), size_t(info.st_size));
    *out = new gomlx_mapping{std::move(file)};
  });
}

int gomlx_map_array(mlx_array* out, const gomlx_mapping* m, size_t offset, const int* shape, int ndim, mlx_dtype dtype) {
  return gomlx::guarded([&] {
    Dtype type = gomlx::unwrap(dtype);
    Shape dims(shape, shape + ndim);
    size_t bytes = type.size();
    for (int d : dims) bytes *= size_t(d);
    char* data = m->file->data + offset;
    if (offset > m->file->size || bytes > m->file->size - offset) throw std::out_of_range("the tensor ends behind the file");
    if (reinterpret_cast<uintptr_t>(data) % type.size() != 0 || offset < header_of_buffers()) throw std::invalid_argument("the tensor is not aligned");
    array a(allocator::Buffer(data - header_of_buffers()), dims, type, [keep = m->file](allocator::Buffer) {});
    if (a.data<char>() != data) throw std::runtime_error("this MLX lays buffers out in another way");
    gomlx::give(out, std::move(a));
  });
}

void gomlx_map_release(gomlx_mapping* m) {
  delete m;
}

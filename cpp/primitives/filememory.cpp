// Arrays that lie in memory as they lie in a file: the parts of it that are used are read straight to where they stay.
//
// Why the file is not mapped: a mapping has pages of 4 KB, and weights that are read once a token miss the processor's page
// table caches all the time. In large pages, which files cannot have on Linux, decoding is a tenth faster; reading a file
// that the system has in memory costs less than a tenth of a second a gigabyte and thread. Nor can the file be cut under us.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "../kernels/pool.h"
#include "boundary.h"

namespace {

using namespace mlx::core;

constexpr size_t large_page = 2 << 20;

std::atomic<size_t> held{0}; // bytes read and not given back

// Address space for a whole file. Only what is written takes memory.
struct Memory {
  char* reserved = nullptr;
  size_t length = 0;
  char* data = nullptr; // of the file's first byte
  size_t size = 0;
  size_t read = 0; // bytes

  // The byte at `start` of the file is where a cache line begins, and with it, as a rule, every tensor after it.
  Memory(size_t n, size_t start) : length(n + 2 * large_page), size(n) {
    void* p = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "room for weights");
    reserved = static_cast<char*>(p);
    // A page before the data for the header of a buffer that begins with it.
    constexpr size_t line = 64;
    char* pages = reserved + large_page + (large_page - reinterpret_cast<uintptr_t>(reserved) % large_page) % large_page;
    data = pages + (line - start % line) % line;
#if defined(MADV_HUGEPAGE)
    madvise(pages, size + line, MADV_HUGEPAGE);
#endif
  }
  Memory(const Memory&) = delete;
  ~Memory() {
    munmap(reserved, length);
    held.fetch_sub(read);
  }
};

// MLX's buffers on the CPU begin with their size, and arrays with what follows that. So an array at p is one whose
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

struct gomlx_file {
  std::string path;
  int fd;
  std::shared_ptr<Memory> memory;
};

int gomlx_file_open(gomlx_file** out, const char* path, size_t start) {
  return gomlx::guarded([&] {
    if (is_available(Device::gpu)) throw std::runtime_error("weights stay where they are read to on the CPU only");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
      const int error = errno;
      if (fd >= 0) close(fd);
      throw std::system_error(error, std::generic_category(), path);
    }
    try {
      *out = new gomlx_file{path, fd, std::make_shared<Memory>(size_t(info.st_size), start)};
    } catch (...) {
      close(fd);
      throw;
    }
  });
}

int gomlx_file_read(gomlx_file* f, const size_t* offsets, const size_t* lengths, size_t n) {
  return gomlx::guarded([&] {
    constexpr size_t piece = 8 << 20;
    struct Piece { size_t offset, length; };
    std::vector<Piece> pieces;
    for (size_t i = 0; i < n; i++) {
      if (offsets[i] > f->memory->size || lengths[i] > f->memory->size - offsets[i]) throw std::out_of_range(f->path + ": a tensor ends past the end of the file");
      for (size_t at = 0; at < lengths[i]; at += piece) pieces.push_back({offsets[i] + at, std::min(piece, lengths[i] - at)});
    }
    struct Work { gomlx_file* f; const std::vector<Piece>& pieces; std::atomic<int> error{0}; } work{f, pieces};
    gomlx::pool_run(long(pieces.size()), [](void* p, long i, int) {
      Work& w = *static_cast<Work*>(p);
      Piece piece = w.pieces[size_t(i)];
      while (piece.length > 0 && w.error.load() == 0) {
        const ssize_t got = pread(w.f->fd, w.f->memory->data + piece.offset, piece.length, off_t(piece.offset));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
          w.error.store(got < 0 ? errno : EIO); // the file is shorter than it was
          return;
        }
        piece.offset += size_t(got), piece.length -= size_t(got);
      }
    }, &work);
    if (int error = work.error.load()) throw std::system_error(error, std::generic_category(), f->path);
    for (size_t i = 0; i < n; i++) f->memory->read += lengths[i], held.fetch_add(lengths[i]);
  });
}

size_t gomlx_file_bytes(void) { return held.load(); }

int gomlx_file_array(mlx_array* out, const gomlx_file* f, size_t offset, const int* shape, int ndim, mlx_dtype dtype) {
  return gomlx::guarded([&] {
    Dtype type = gomlx::unwrap(dtype);
    Shape dims(shape, shape + ndim);
    size_t bytes = type.size();
    for (int d : dims) bytes *= size_t(d);
    if (offset > f->memory->size || bytes > f->memory->size - offset) throw std::out_of_range(f->path + ": a tensor ends past the end of the file");
    char* data = f->memory->data + offset;
    if (reinterpret_cast<uintptr_t>(data) % type.size() != 0) throw std::invalid_argument(f->path + ": a tensor is not aligned");
    array a(allocator::Buffer(data - header_of_buffers()), dims, type, [keep = f->memory](allocator::Buffer) {});
    if (a.data<char>() != data) throw std::runtime_error("this MLX lays buffers out in another way");
    gomlx::give(out, std::move(a));
  });
}

int gomlx_file_room(gomlx_file** out, size_t size) {
  return gomlx::guarded([&] {
    if (is_available(Device::gpu)) throw std::runtime_error("weights stay where they are read to on the CPU only");
    *out = new gomlx_file{"weights", -1, std::make_shared<Memory>(size, 0)};
  });
}

int gomlx_file_bytes_at(void** out, gomlx_file* f, size_t offset, size_t length) {
  return gomlx::guarded([&] {
    if (offset > f->memory->size || length > f->memory->size - offset) throw std::out_of_range(f->path + ": a tensor ends past the end of the file");
    f->memory->read += length, held.fetch_add(length);
    *out = f->memory->data + offset;
  });
}

void gomlx_file_close(gomlx_file* f) {
  if (f->fd >= 0) close(f->fd);
  delete f;
}

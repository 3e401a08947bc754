// The driver and the compiler come with MLX's CUDA library: their functions are looked up by name, so that this file
// needs no header of CUDA and serves every MLX.
#include "gomlx_cuda.h"

#include <dlfcn.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "boundary.h"
#include "mlx/fast.h"

namespace {

using mlx::core::array;
using gomlx::unwrap;

template <class F> F find(const char* name) {
  void* f = dlsym(RTLD_DEFAULT, name);
  if (!f) throw std::runtime_error(std::string("this MLX has no CUDA: no ") + name);
  return reinterpret_cast<F>(f);
}

void check(int code, const char* what) {
  if (code != 0) throw std::runtime_error(std::string(what) + ": CUDA error " + std::to_string(code));
}

// One program of NVRTC's.
class Compilation {
 public:
  explicit Compilation(const char* source) {
    check(find<int (*)(void**, const char*, const char*, int, const char* const*, const char* const*)>("nvrtcCreateProgram")(&program_, source, "go_mlx.cu", 0, nullptr, nullptr),
          "nvrtcCreateProgram");
  }
  ~Compilation() { find<int (*)(void**)>("nvrtcDestroyProgram")(&program_); }
  Compilation(const Compilation&) = delete;
  Compilation& operator=(const Compilation&) = delete;

  void run(const std::vector<const char*>& options) {
    if (find<int (*)(void*, int, const char* const*)>("nvrtcCompileProgram")(program_, int(options.size()), options.data()) != 0) {
      throw std::runtime_error("a CUDA kernel does not compile: " + text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog"));
    }
  }

  std::string code() { return text("nvrtcGetCUBINSize", "nvrtcGetCUBIN"); }

 private:
  std::string text(const char* size_of, const char* get) {
    size_t size = 0;
    check(find<int (*)(void*, size_t*)>(size_of)(program_, &size), size_of);
    std::string out(size, 0);
    check(find<int (*)(void*, char*)>(get)(program_, out.data()), get);
    return out;
  }

  void* program_ = nullptr;
};

void append(std::vector<array>& to, const mlx_array* arrays, int n) {
  for (int i = 0; i < n; i++) to.push_back(unwrap(arrays[i]));
}

} // namespace

struct gomlx_cuda_program {
  std::string kernel, code;
  std::vector<array> fixed;
};

int gomlx_cuda_describe(gomlx_cuda_device* out, int index) {
  return gomlx::guarded([&] {
    check(find<int (*)(unsigned)>("cuInit")(0), "cuInit");
    int device = 0;
    check(find<int (*)(int*, int)>("cuDeviceGet")(&device, index), "cuDeviceGet");
    auto attribute = find<int (*)(int*, int, int)>("cuDeviceGetAttribute");
    // The numbers of cuda.h's CUdevice_attribute.
    const std::pair<int*, int> wanted[] = {{&out->multiprocessors, 16}, {&out->major, 75}, {&out->minor, 76}, {&out->shared_bytes, 97}};
    for (auto [value, number] : wanted) check(attribute(value, number, device), "cuDeviceGetAttribute");
    check(find<int (*)(int*)>("cuDriverGetVersion")(&out->driver), "cuDriverGetVersion");
    int major = 0, minor = 0;
    check(find<int (*)(int*, int*)>("nvrtcVersion")(&major, &minor), "nvrtcVersion");
    out->compiler = 1000 * major + 10 * minor;
  });
}

int gomlx_cuda_compile(char** code, size_t* size, const char* source, int major, int minor) {
  return gomlx::guarded([&] {
    Compilation c(source);
    const std::string arch = "--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor);
    c.run({arch.c_str(), "--std=c++17"});
    const std::string made = c.code();
    *code = new char[made.size()];
    std::memcpy(*code, made.data(), made.size());
    *size = made.size();
  });
}

void gomlx_cuda_free(char* code) {
  delete[] code;
}

int gomlx_cuda_program_new(gomlx_cuda_program** out, const char* kernel, const char* code, size_t size, const mlx_array* fixed, int fixed_count) {
  return gomlx::guarded([&] {
    auto* p = new gomlx_cuda_program{kernel, std::string(code, size), {}};
    try {
      append(p->fixed, fixed, fixed_count);
    } catch (...) {
      delete p;
      throw;
    }
    *out = p;
  });
}

void gomlx_cuda_program_free(gomlx_cuda_program* program) {
  delete program;
}

int gomlx_cuda_program_run(mlx_array* outputs, const gomlx_cuda_program* program, const mlx_array* first, int first_count,
                           const mlx_array* last, int last_count, const gomlx_cuda_launch* launch, mlx_stream stream) {
  return gomlx::guarded([&] {
    std::vector<array> inputs;
    inputs.reserve(size_t(first_count) + program->fixed.size() + size_t(last_count));
    append(inputs, first, first_count);
    inputs.insert(inputs.end(), program->fixed.begin(), program->fixed.end());
    append(inputs, last, last_count);
    std::vector<mlx::core::Shape> shapes;
    std::vector<mlx::core::Dtype> types;
    const int* dim = launch->shapes;
    for (int i = 0; i < launch->outputs; dim += launch->ranks[i++]) {
      shapes.emplace_back(dim, dim + launch->ranks[i]);
      types.push_back(unwrap(launch->types[i]));
    }
    std::vector<mlx::core::fast::ScalarArg> numbers(launch->numbers, launch->numbers + launch->number_count);
    auto made = mlx::core::fast::precompiled_cuda_kernel(
        program->kernel, program->code, inputs, shapes, types, numbers, {launch->blocks * launch->threads, 1, 1}, {launch->threads, 1, 1},
        launch->shared_bytes, std::nullopt, false, unwrap(stream));
    for (int i = 0; i < launch->outputs; i++) gomlx::give(&outputs[i], std::move(made[i]));
  });
}

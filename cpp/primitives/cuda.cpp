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
#include "mlx/primitives.h"

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

// A launch whose kernel also gets the layouts of inputs, which are known only when it is evaluated.
class Launch : public mlx::core::Primitive {
 public:
  Launch(mlx::core::Stream s, std::string kernel, std::string code, const gomlx_cuda_launch& l)
      : Primitive(s), kernel_(std::move(kernel)), code_(std::move(code)), grid_{l.grid[0], l.grid[1], l.grid[2]},
        group_{l.group[0], l.group[1], l.group[2]}, shared_(l.shared_bytes), layouts_(l.layouts, l.layouts + l.layout_count),
        numbers_(l.numbers, l.numbers + l.number_count) {}
  const char* name() const override { return "gomlx::Launch"; }
  void eval_cpu(const std::vector<array>&, std::vector<array>&) override { throw std::runtime_error(kernel_ + " is for the GPU"); }

  // A pass that is repeated comes here again with the same layouts, so what MLX made of them is kept.
  void eval_gpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    std::vector<int> numbers = numbers_;
    for (size_t i = 0; i < layouts_.size(); i++) {
      const array& a = inputs[i];
      if (layouts_[i] & GOMLX_SHAPE) numbers.insert(numbers.end(), a.shape().begin(), a.shape().end());
      if (layouts_[i] & GOMLX_STRIDES) {
        for (int64_t stride : a.strides()) {
          if (stride != int(stride)) throw std::runtime_error(kernel_ + ": an input is too large");
          numbers.push_back(int(stride));
        }
      }
    }
    if (!made_ || numbers != made_with_) {
      std::vector<mlx::core::Shape> shapes;
      std::vector<mlx::core::Dtype> types;
      for (const array& a : outputs) {
        shapes.push_back(a.shape());
        types.push_back(a.dtype());
      }
      std::vector<mlx::core::fast::ScalarArg> scalars(numbers.begin(), numbers.end());
      made_ = mlx::core::fast::precompiled_cuda_kernel(kernel_, code_, inputs, shapes, types, scalars, grid_, group_, shared_, std::nullopt, false, stream())
                  .front().primitive_ptr();
      made_with_ = std::move(numbers);
    }
    made_->eval_gpu(inputs, outputs);
  }

 private:
  std::string kernel_, code_;
  std::tuple<int, int, int> grid_, group_;
  int shared_;
  std::vector<int> layouts_, numbers_, made_with_;
  std::shared_ptr<mlx::core::Primitive> made_;
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
    const auto s = unwrap(stream);
    std::vector<array> made;
    if (launch->layout_count > 0) {
      made = array::make_arrays(shapes, types, std::make_shared<Launch>(s, program->kernel, program->code, *launch), inputs);
    } else {
      const int *grid = launch->grid, *group = launch->group;
      std::vector<mlx::core::fast::ScalarArg> numbers(launch->numbers, launch->numbers + launch->number_count);
      made = mlx::core::fast::precompiled_cuda_kernel(program->kernel, program->code, inputs, shapes, types, numbers, {grid[0], grid[1], grid[2]},
                                                      {group[0], group[1], group[2]}, launch->shared_bytes, std::nullopt, false, s);
    }
    for (int i = 0; i < launch->outputs; i++) gomlx::give(&outputs[i], std::move(made[i]));
  });
}

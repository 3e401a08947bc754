// What the ops of this folder share: reading operands, checking layers, and the KV of a pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "../kernels/level.h"
#include "../kernels/pool.h"
#include "boundary.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace gomlx {
namespace {

using mlx::core::array;
using mlx::core::Dtype;
using mlx::core::Shape;
using mlx::core::Stream;
namespace mx = mlx::core;

inline Type type_of(Dtype d, const char* what) {
  if (d == mx::float32) return Type::f32;
  if (d == mx::float16) return Type::f16;
  if (d == mx::bfloat16) return Type::bf16;
  throw std::invalid_argument(std::string(what) + " must be float32, float16 or bfloat16");
}

[[noreturn]] inline void refuse(const std::string& why) {
  throw std::invalid_argument(why);
}

inline void want_type(const array& a, Dtype d, const char* what) {
  if (a.dtype() != d) refuse(std::string(what) + " has the wrong type");
}

// Copies a strided array of elements of some size in row-major order.
inline void copy_strided(const char* from, char* to, const Shape& shape, const mx::Strides& strides, size_t element) {
  size_t n = 1;
  for (int d : shape) n *= size_t(d);
  std::vector<int> at(shape.size(), 0);
  for (size_t i = 0; i < n; i++, to += element) {
    int64_t offset = 0;
    for (size_t axis = 0; axis < shape.size(); axis++) offset += at[axis] * strides[axis];
    std::memcpy(to, from + offset * int64_t(element), element);
    for (size_t axis = shape.size(); axis-- > 0;) {
      if (++at[axis] < shape[axis]) break;
      at[axis] = 0;
    }
  }
}

// A layer's operands among the inputs of an op.
struct Layer {
  long rows, columns;
  Type type;
  int bits, group;
  int at; // of the weights; scales follow, and biases if there are some
  bool biased;
  int bias; // -1 without
  bool interleaved;
};

struct KV;

// An op of this folder. An evaluation asks it for operands in row-major order and for room for results.
class Kernel : public mx::Primitive {
 public:
  explicit Kernel(Stream s) : Primitive(s) {}
  void eval_gpu(const std::vector<array>&, std::vector<array>&) override { throw std::runtime_error(std::string(name()) + " is for the CPU"); }

 protected:
  mx::cpu::CommandEncoder& encoder() { return mx::cpu::get_command_encoder(stream()); }

  // The data of an operand, of a copy if it is not in row-major order.
  const void* in(const array& a) {
    if (a.flags().row_contiguous) return a.data<void>();
    array copy(a.shape(), a.dtype(), nullptr, {});
    copy.set_data(mx::allocator::malloc(copy.nbytes()));
    encoder().dispatch([from = a.data<char>(), to = copy.data<char>(), shape = a.shape(), strides = a.strides(), element = a.itemsize()] {
      copy_strided(from, to, shape, strides, element);
    });
    const void* data = copy.data<void>();
    encoder().add_temporary(std::move(copy));
    return data;
  }

  Matrix matrix(const Layer& l, const std::vector<array>& inputs) {
    Matrix m{in(inputs[l.at]), l.type, l.rows, l.columns, l.bits, l.group};
    if (l.bits) m.scales = in(inputs[l.at + 1]);
    if (l.biased) m.biases = in(inputs[l.at + 2]);
    m.interleaved = l.interleaved;
    return m;
  }

  void* room(array& out) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return out.data<void>();
  }

  // The KV that take_kv took, when it is evaluated: inputs from `next` on and outputs from `out` on, which it moves past them.
  KV kv_of(const std::vector<array>& inputs, size_t& next, std::vector<array>& outputs, size_t& out, const gomlx_past* past, bool keep, long rows);

  void* scratch(size_t bytes) {
    constexpr size_t row = 4096; // so that the number of rows, an int, is enough for any size
    array a({int((bytes + row - 1) / row), int(row)}, mx::uint8, nullptr, {});
    a.set_data(mx::allocator::malloc(a.nbytes()));
    void* data = a.data<void>();
    encoder().add_temporary(std::move(a));
    return data;
  }
};

template <class K, class... Args> array make_one(Stream s, Shape shape, Dtype type, std::vector<array> inputs, Args&&... args) {
  return array(std::move(shape), type, std::make_shared<K>(s, std::forward<Args>(args)...), std::move(inputs));
}

// Checks a layer for inputs of some columns (0: any) and a type, and appends its operands.
inline Layer take(const gomlx_linear& l, long columns, std::vector<array>& inputs) {
  const array& w = unwrap(l.weights);
  if (w.ndim() != 2) refuse("weights are not a matrix");
  Layer layer{w.shape(0), w.shape(1), Type::f32, l.bits, l.group, int(inputs.size()), l.biases.ctx != nullptr, -1, l.interleaved != 0};
  inputs.push_back(w);
  if (l.bits) {
    if (!(l.bits >= 2 && l.bits <= 6) && l.bits != 8) refuse("weights of " + std::to_string(l.bits) + " bits");
    if ((l.group != 16 || l.bits == 4) && l.group != 32 && l.group != 64 && l.group != 128) refuse("groups of " + std::to_string(l.group));
    want_type(w, mx::uint32, "packed weights");
    layer.columns = long(w.shape(1)) * 32 / l.bits;
    const array& scales = unwrap(l.scales);
    Shape shape{int(layer.rows), int(layer.columns / l.group)};
    if (layer.columns % l.group || scales.shape() != shape) refuse("scales do not fit packed weights");
    layer.type = type_of(scales.dtype(), "scales");
    inputs.push_back(scales);
    if (layer.biased) {
      const array& biases = unwrap(l.biases);
      if (biases.shape() != shape || biases.dtype() != scales.dtype()) refuse("biases do not fit packed weights");
      inputs.push_back(biases);
    }
  } else {
    layer.type = type_of(w.dtype(), "weights");
  }
  if (columns && layer.columns != columns) refuse("inputs of " + std::to_string(columns) + " for a layer of " + std::to_string(layer.columns));
  if (l.bias.ctx) {
    const array& bias = unwrap(l.bias);
    if (bias.shape() != Shape{int(layer.rows)}) refuse("a bias does not fit its layer");
    layer.bias = int(inputs.size());
    inputs.push_back(bias);
  }
  return layer;
}

inline Shape with_last(const array& x, long last) {
  Shape shape = x.shape();
  shape.back() = int(last);
  return shape;
}

inline void at_least_one_axis(const array& x) {
  if (x.ndim() == 0 || x.size() == 0) refuse("an operand is empty");
}

inline Gate gate_of(int gate) {
  switch (gate) {
    case GOMLX_GATE_NONE: return Gate::none;
    case GOMLX_GATE_GELU: return Gate::gelu;
    case GOMLX_GATE_SILU: return Gate::silu;
  }
  refuse("unknown gate");
}

inline void norm_fits(const array& weight, const array& x, const char* what) {
  if (weight.shape() != Shape{x.shape(-1)} || weight.dtype() != x.dtype()) refuse(std::string(what) + " does not fit what it norms");
}

// Cosines and sines of n positions: [n][2 half]. Angles are position * scale / base^(i / half), or divided by wavelengths[i] if those are given.
inline void rotate(const int32_t* positions, long n, const float* wavelengths, float base, float scale, long half, float* to) {
  std::vector<double> steps(half);
  for (long i = 0; i < half; i++) steps[i] = wavelengths ? 1 / double(wavelengths[i]) : std::pow(double(base), -double(i) / double(half));
  struct Work { const std::vector<double>& steps; const int32_t* positions; float* to; float scale; long n; } work{steps, positions, to, scale, n};
  constexpr long per_task = 16;
  pool_run((n + per_task - 1) / per_task, [](void* p, long task, int) {
    const Work& w = *static_cast<const Work*>(p);
    const long half = long(w.steps.size());
    for (long t = task * per_task; t < std::min(w.n, (task + 1) * per_task); t++)
      for (long i = 0; i < half; i++) {
        double angle = double(w.positions[t]) * double(w.scale) * w.steps[i];
        w.to[2 * half * t + i] = float(std::cos(angle)), w.to[2 * half * t + half + i] = float(std::sin(angle));
      }
  }, &work);
}

// The KV of one layer in a pass: the kept keys and values of each row, and the rooms that they and those of the pass are in
// afterwards.
struct KV {
  // A row's room before and after: the same memory if the old one is the row's own and large enough.
  struct Room { char *keys, *values; const char *old_keys, *old_values; long size, old_size, sinks; };
  std::vector<Past> past;
  std::vector<Room> rooms; // none if the pass's own are not kept

  // Puts the pass's own keys and values, which attention left in a.own, into the rooms.
  void keep(const Attention& a) {
    struct Work { const Attention& a; std::vector<Room>& rooms; } work{a, rooms};
    pool_run(long(rooms.size()), [](void* p, long r, int) {
      const Work& w = *static_cast<const Work*>(p);
      keep_row(w.a, r, w.rooms[r]);
    }, &work);
  }

 private:
  // Puts a row's new keys and values after its old ones; what finds no room replaces the oldest.
  static void keep_row(const Attention& a, long row, const Room& to) {
    const long slots = a.heads + 2 * a.kv_heads, length = a.past[row].length, position = a.head_dim * size_of(a.type);
    const char* own = static_cast<const char*>(a.own) + row * a.tokens * slots * position;
    for (long h = 0; h < a.kv_heads; h++) {
      if (to.old_keys) {
        const long held = std::min(length, std::min(to.old_size, to.size));
        std::memcpy(to.keys + h * to.size * position, to.old_keys + h * to.old_size * position, size_t(held * position));
        std::memcpy(to.values + h * to.size * position, to.old_values + h * to.old_size * position, size_t(held * position));
      }
      const Past place{nullptr, nullptr, to.size, length + a.tokens, to.sinks};
      for (long t = 0; t < a.tokens; t++) {
        if (length + t >= to.sinks && length + t < place.oldest()) { // those of the pass that are gone when it is done
          t = place.oldest() - length - 1;
          continue;
        }
        const long at = place.place(length + t);
        std::memcpy(to.keys + (h * to.size + at) * position, own + (t * slots + a.heads + h) * position, size_t(position));
        std::memcpy(to.values + (h * to.size + at) * position, own + (t * slots + a.heads + a.kv_heads + h) * position, size_t(position));
      }
    }
  }
};

inline KV Kernel::kv_of(const std::vector<array>& inputs, size_t& next, std::vector<array>& outputs, size_t& out, const gomlx_past* past, bool keep, long rows) {
  KV kv{std::vector<Past>(rows, Past{nullptr, nullptr, 1, 0, 0}), std::vector<KV::Room>(keep ? rows : 0, KV::Room{})};
  for (long r = 0; r < rows; r++) {
    const bool held = past[r].length > 0;
    if (held) kv.past[r] = {in(inputs[next]), in(inputs[next + 1]), inputs[next].shape(2), past[r].length, past[r].sinks};
    if (keep) {
      array &keys = outputs[out], &values = outputs[out + 1];
      KV::Room& to = kv.rooms[r];
      to.size = past[r].room, to.sinks = past[r].sinks;
      if (held) {
        const array &old_keys = inputs[next], &old_values = inputs[next + 1];
        // MLX's own count of holders will not do: every result of an op has a copy of the op's inputs, and the work of the pass before
        // holds its results until it is done.
        if (past[r].owned && kv.past[r].room == to.size && old_keys.flags().row_contiguous && old_values.flags().row_contiguous) {
          keys.copy_shared_buffer(old_keys), values.copy_shared_buffer(old_values);
          to.keys = keys.data<char>(), to.values = values.data<char>();
        } else {
          to.old_keys = static_cast<const char*>(kv.past[r].keys), to.old_values = static_cast<const char*>(kv.past[r].values), to.old_size = kv.past[r].room;
        }
      }
      if (!to.keys) to.keys = static_cast<char*>(room(keys)), to.values = static_cast<char*>(room(values));
      out += 2;
    }
    if (held) next += 2;
  }
  return kv;
}

// Takes the operands of a layer's KV: kv is the keys and values of each row, empty where the length is 0. It appends those that
// are there to inputs, and with keep the shapes of what the pass keeps to outputs.
inline void take_kv(const mlx_array* kv, const gomlx_past* past, bool keep, long rows, int kv_heads, int head_dim, Dtype type, std::vector<array>& inputs, std::vector<Shape>& outputs) {
  for (long r = 0; r < rows; r++) {
    long room = 0;
    if (past[r].sinks < 0 || past[r].length < 0) refuse("a negative length");
    if (past[r].length > 0) {
      for (int i = 0; i < 2; i++) {
        const array& held = unwrap(kv[2 * r + i]);
        if (held.ndim() != 4 || held.shape(0) != 1 || held.shape(1) != kv_heads || held.shape(3) != head_dim || held.dtype() != type || held.shape(2) < 1) refuse("kept keys or values do not fit");
        if (i == 1 && held.shape(2) != room) refuse("kept keys and values differ in length");
        room = held.shape(2);
        inputs.push_back(held);
      }
    }
    if (past[r].length > room && past[r].sinks >= room && room > 0) refuse("a room of sinks only");
    if (!keep) continue;
    if (past[r].room <= past[r].sinks || past[r].room < room || (past[r].room > room && past[r].length > room)) refuse("a room that has gone round cannot change");
    for (int i = 0; i < 2; i++) outputs.push_back({1, kv_heads, past[r].room, head_dim});
  }
}

} // namespace
} // namespace gomlx

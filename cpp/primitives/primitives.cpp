// The kernels as MLX primitives. Each checks its operands when the op is made; evaluating it puts one job into the queue
// of the stream's thread, which has the kernels' threads help.
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

Type type_of(Dtype d, const char* what) {
  if (d == mx::float32) return Type::f32;
  if (d == mx::float16) return Type::f16;
  if (d == mx::bfloat16) return Type::bf16;
  throw std::invalid_argument(std::string(what) + " must be float32, float16 or bfloat16");
}

[[noreturn]] void refuse(const std::string& why) {
  throw std::invalid_argument(why);
}

void want_type(const array& a, Dtype d, const char* what) {
  if (a.dtype() != d) refuse(std::string(what) + " has the wrong type");
}

// Copies a strided array of elements of some size in row-major order.
void copy_strided(const char* from, char* to, const Shape& shape, const mx::Strides& strides, size_t element) {
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
  int at; // of the weights; scales and biases are behind it
  int bias; // -1 without
};

// An op of this file. An evaluation asks it for operands in row-major order and for room for results.
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
    if (l.bits) m.scales = in(inputs[l.at + 1]), m.biases = in(inputs[l.at + 2]);
    return m;
  }

  void* room(array& out) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    return out.data<void>();
  }

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
Layer take(const gomlx_linear& l, long columns, std::vector<array>& inputs) {
  const array& w = unwrap(l.weights);
  if (w.ndim() != 2) refuse("weights are not a matrix");
  Layer layer{w.shape(0), w.shape(1), Type::f32, l.bits, l.group, int(inputs.size()), -1};
  inputs.push_back(w);
  if (l.bits) {
    if (!(l.bits >= 2 && l.bits <= 6) && l.bits != 8) refuse("weights of " + std::to_string(l.bits) + " bits");
    if (l.group != 32 && l.group != 64 && l.group != 128) refuse("groups of " + std::to_string(l.group));
    want_type(w, mx::uint32, "packed weights");
    layer.columns = long(w.shape(1)) * 32 / l.bits;
    const array &scales = unwrap(l.scales), &biases = unwrap(l.biases);
    Shape shape{int(layer.rows), int(layer.columns / l.group)};
    if (layer.columns % l.group || scales.shape() != shape || biases.shape() != shape || biases.dtype() != scales.dtype()) refuse("scales and biases do not fit packed weights");
    layer.type = type_of(scales.dtype(), "scales");
    inputs.push_back(scales);
    inputs.push_back(biases);
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

Shape with_last(const array& x, long last) {
  Shape shape = x.shape();
  shape.back() = int(last);
  return shape;
}

void at_least_one_axis(const array& x) {
  if (x.ndim() == 0 || x.size() == 0) refuse("an operand is empty");
}

class Apply : public Kernel {
 public:
  Apply(Stream s, std::vector<Layer> layers, Gate gate) : Kernel(s), layers_(std::move(layers)), gate_(gate) {}
  const char* name() const override { return "gomlx::Apply"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& x = inputs[0];
    array& out = outputs[0];
    std::vector<Matrix> parts;
    std::vector<const void*> bias;
    for (const Layer& l : layers_) {
      parts.push_back(matrix(l, inputs));
      bias.push_back(l.bias < 0 ? nullptr : in(inputs[l.bias]));
    }
    const long k = x.shape(-1), m = long(x.size()) / k, columns = out.shape(-1);
    const Type type = type_of(x.dtype(), "x"), out_type = type_of(out.dtype(), "out");
    encoder().dispatch([=, x = in(x), to = room(out), gate = gate_] {
      level().product({x, type, m, k, parts.data(), bias.data(), int(parts.size()), gate, to, out_type, columns});
    });
  }

 private:
  std::vector<Layer> layers_;
  Gate gate_;
};

class Lookup : public Kernel {
 public:
  Lookup(Stream s, Layer table, float scale) : Kernel(s), table_(table), scale_(scale) {}
  const char* name() const override { return "gomlx::Lookup"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    encoder().dispatch([m = matrix(table_, inputs), ids = static_cast<const int32_t*>(in(inputs[0])), n = long(inputs[0].size()), scale = scale_, to = room(outputs[0])] {
      level().lookup(m, ids, n, scale, to);
    });
  }

 private:
  Layer table_;
  float scale_;
};

class Rotation : public Kernel {
 public:
  Rotation(Stream s, float base, float scale, int head_dim) : Kernel(s), base_(base), scale_(scale), half_(head_dim / 2) {}
  const char* name() const override { return "gomlx::Rotation"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const float* wavelengths = inputs.size() > 1 ? static_cast<const float*>(in(inputs[1])) : nullptr;
    encoder().dispatch([=, base = base_, scale = scale_, half = half_, n = long(inputs[0].size()), positions = static_cast<const int32_t*>(in(inputs[0])), to = static_cast<float*>(room(outputs[0]))] {
      std::vector<double> steps(half);
      for (int i = 0; i < half; i++) steps[i] = wavelengths ? 1 / double(wavelengths[i]) : std::pow(double(base), -double(i) / half);
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
    });
  }

 private:
  float base_, scale_;
  int half_;
};

// What Attend knows of the pass.
struct Shapes {
  long rows, tokens, heads, kv_heads, head_dim;
  float eps, scale;
  bool neighbours, normed, keep;
  std::vector<long> lengths, rooms;
};

class Attend : public Kernel {
 public:
  Attend(Stream s, Shapes shapes) : Kernel(s), s_(std::move(shapes)) {}
  const char* name() const override { return "gomlx::Attend"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const Type type = type_of(outputs[0].dtype(), "out");
    const long slots = s_.heads + 2 * s_.kv_heads, position = s_.head_dim * size_of(type);
    Attention a{};
    a.qkv = static_cast<const float*>(in(inputs[0]));
    a.rotation = static_cast<const float*>(in(inputs[1]));
    a.visible = static_cast<const Visible*>(in(inputs[2]));
    size_t next = 3;
    if (s_.normed) a.q_norm = in(inputs[next++]), a.k_norm = in(inputs[next++]);
    a.eps = s_.eps, a.scale = s_.scale, a.neighbours = s_.neighbours;
    a.rows = s_.rows, a.tokens = s_.tokens, a.heads = s_.heads, a.kv_heads = s_.kv_heads, a.head_dim = s_.head_dim, a.type = type;
    a.own = scratch(size_t(s_.rows * s_.tokens * slots * position));
    a.out = room(outputs[0]);
    // A row's room before and after. The same memory if nobody else holds the old one and it is large enough.
    struct Room { char *keys, *values; const char *old_keys, *old_values; long size, old_size; };
    std::vector<Past> past(s_.rows, Past{nullptr, nullptr, 1, 0});
    std::vector<Room> rooms(s_.keep ? s_.rows : 0, Room{});
    for (long r = 0; r < s_.rows; r++) {
      if (s_.lengths[r] > 0) {
        const array &keys = inputs[next], &values = inputs[next + 1];
        past[r] = {in(keys), in(values), keys.shape(2), s_.lengths[r]};
      }
      if (s_.keep) {
        array &keys = outputs[1 + 2 * r], &values = outputs[2 + 2 * r];
        Room& room = rooms[r];
        room.size = s_.rooms[r];
        if (s_.lengths[r] > 0) {
          const array &old_keys = inputs[next], &old_values = inputs[next + 1];
          if (past[r].room == room.size && reusable(old_keys) && reusable(old_values)) {
            keys.copy_shared_buffer(old_keys), values.copy_shared_buffer(old_values);
            room.keys = keys.data<char>(), room.values = values.data<char>();
          } else {
            room.old_keys = static_cast<const char*>(past[r].keys), room.old_values = static_cast<const char*>(past[r].values), room.old_size = past[r].room;
          }
        }
        if (!room.keys) room.keys = static_cast<char*>(this->room(keys)), room.values = static_cast<char*>(this->room(values));
      }
      if (s_.lengths[r] > 0) next += 2;
    }
    encoder().dispatch([a, past = std::move(past), rooms = std::move(rooms), position]() mutable {
      a.past = past.data();
      level().attention(a);
      struct Work { const Attention& a; std::vector<Room>& rooms; long position; } work{a, rooms, position};
      pool_run(long(rooms.size()), [](void* p, long r, int) {
        const Work& w = *static_cast<const Work*>(p);
        keep(w.a, r, w.rooms[r].keys, w.rooms[r].values, w.rooms[r].old_keys, w.rooms[r].old_values, w.rooms[r].size, w.rooms[r].old_size, w.position);
      }, &work);
    });
  }

 private:
  static bool reusable(const array& a) { return a.is_donatable() && a.flags().row_contiguous; }

  // Puts a row's new keys and values behind its old ones; what does not fit goes over the oldest.
  static void keep(const Attention& a, long row, char* keys, char* values, const char* old_keys, const char* old_values, long room, long old_room, long position) {
    const long slots = a.heads + 2 * a.kv_heads, length = a.past[row].length;
    const char* own = static_cast<const char*>(a.own) + row * a.tokens * slots * position;
    for (long h = 0; h < a.kv_heads; h++) {
      if (old_keys) {
        const long held = std::min(length, std::min(old_room, room));
        std::memcpy(keys + h * room * position, old_keys + h * old_room * position, size_t(held * position));
        std::memcpy(values + h * room * position, old_values + h * old_room * position, size_t(held * position));
      }
      for (long t = std::max(0L, a.tokens - room); t < a.tokens; t++) {
        const long at = (length + t) % room;
        std::memcpy(keys + (h * room + at) * position, own + (t * slots + a.heads + h) * position, size_t(position));
        std::memcpy(values + (h * room + at) * position, own + (t * slots + a.heads + a.kv_heads + h) * position, size_t(position));
      }
    }
  }

  Shapes s_;
};

class AddThenNorm : public Kernel {
 public:
  AddThenNorm(Stream s, bool post, float eps, bool clip) : Kernel(s), post_(post), clip_(clip), eps_(eps) {}
  const char* name() const override { return "gomlx::AddNorm"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& h = inputs[0];
    AddNorm a{in(h), static_cast<const float*>(in(inputs[1])), nullptr, in(inputs[2]), eps_, clip_, long(h.size()) / h.shape(-1), h.shape(-1), type_of(h.dtype(), "h"), nullptr, nullptr};
    if (post_) a.post = in(inputs[3]);
    a.sum = room(outputs[0]), a.normed = room(outputs[1]);
    encoder().dispatch([a] { level().add_norm(a); });
  }

 private:
  bool post_, clip_;
  float eps_;
};

class Norm : public Kernel {
 public:
  Norm(Stream s, float eps) : Kernel(s), eps_(eps) {}
  const char* name() const override { return "gomlx::RMSNorm"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& x = inputs[0];
    encoder().dispatch([x = in(x), w = in(inputs[1]), to = room(outputs[0]), n = long(x.shape(-1)), rows = long(x.size()) / x.shape(-1), eps = eps_, type = type_of(x.dtype(), "x")] {
      level().rms_norm(x, w, to, rows, n, eps, type);
    });
  }

 private:
  float eps_;
};

class Gated : public Kernel {
 public:
  Gated(Stream s, Gate gate) : Kernel(s), gate_(gate) {}
  const char* name() const override { return "gomlx::Gate"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const long n = outputs[0].shape(-1);
    encoder().dispatch([x = static_cast<const float*>(in(inputs[0])), to = room(outputs[0]), n, rows = long(outputs[0].size()) / n, gate = gate_, type = type_of(outputs[0].dtype(), "out")] {
      level().gate(x, to, rows, n, gate, type);
    });
  }

 private:
  Gate gate_;
};

class PickedScores : public Kernel {
 public:
  PickedScores(Stream s, Layer layer) : Kernel(s), layer_(layer) {}
  const char* name() const override { return "gomlx::Scores"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& x = inputs[0];
    Scores s{in(x), type_of(x.dtype(), "x"), x.shape(0), x.shape(1), matrix(layer_, inputs), static_cast<const int32_t*>(in(inputs[1])), static_cast<const int32_t*>(in(inputs[2])), long(inputs[1].size()), static_cast<float*>(room(outputs[0]))};
    encoder().dispatch([s] { level().scores(s); });
  }

 private:
  Layer layer_;
};

class LogSoftmax : public Kernel {
 public:
  explicit LogSoftmax(Stream s) : Kernel(s) {}
  const char* name() const override { return "gomlx::LogSoftmax"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& x = inputs[0];
    encoder().dispatch([x = static_cast<const float*>(in(x)), to = static_cast<float*>(room(outputs[0])), n = long(x.shape(-1)), rows = long(x.size()) / x.shape(-1)] {
      level().log_softmax(x, to, rows, n);
    });
  }
};

Gate gate_of(int gate) {
  switch (gate) {
    case GOMLX_GATE_NONE: return Gate::none;
    case GOMLX_GATE_GELU: return Gate::gelu;
    case GOMLX_GATE_SILU: return Gate::silu;
  }
  refuse("unknown gate");
}

void norm_fits(const array& weight, const array& x, const char* what) {
  if (weight.shape() != Shape{x.shape(-1)} || weight.dtype() != x.dtype()) refuse(std::string(what) + " does not fit what it norms");
}

} // namespace
} // namespace gomlx

using namespace gomlx;

const char* gomlx_cpu_level(void) {
  const char* name = nullptr;
  guarded([&] { name = level().name; });
  return name;
}

void gomlx_cpu_set_threads(int n) { pool_set_threads(n); }
int gomlx_cpu_threads(void) { return pool_threads(); }

int gomlx_apply(mlx_array* out, mlx_array x_, const gomlx_linear* parts, int n, int gate, int wide, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    type_of(x.dtype(), "x");
    if (n < 1 || n > 8) refuse("one to eight layers go together");
    std::vector<array> inputs{x};
    std::vector<Layer> layers;
    long outputs = 0;
    for (int i = 0; i < n; i++) {
      layers.push_back(take(parts[i], x.shape(-1), inputs));
      if (layers[i].bias >= 0 && inputs[layers[i].bias].dtype() != x.dtype()) refuse("a bias has another type than the inputs");
      outputs += layers[i].rows;
    }
    if (gate_of(gate) != Gate::none) {
      if (n != 2 || layers[0].rows != layers[1].rows) refuse("a gate joins two layers of one size");
      outputs = layers[0].rows;
    }
    give(out, make_one<Apply>(unwrap(s), with_last(x, outputs), wide ? mx::float32 : x.dtype(), inputs, std::move(layers), gate_of(gate)));
  });
}

int gomlx_lookup(mlx_array* out, const gomlx_linear* table, mlx_array ids_, float scale, mlx_stream s) {
  return guarded([&] {
    const array& ids = unwrap(ids_);
    at_least_one_axis(ids);
    if (ids.dtype() != mx::int32 && ids.dtype() != mx::uint32) refuse("ids have the wrong type");
    std::vector<array> inputs{ids};
    Layer layer = take(*table, 0, inputs);
    Shape shape = ids.shape();
    shape.push_back(int(layer.columns));
    give(out, make_one<Lookup>(unwrap(s), shape, inputs[layer.bits ? layer.at + 1 : layer.at].dtype(), inputs, layer, scale));
  });
}

int gomlx_rotation(mlx_array* out, mlx_array positions_, mlx_array wavelengths, float base, float scale, int head_dim, mlx_stream s) {
  return guarded([&] {
    const array& positions = unwrap(positions_);
    at_least_one_axis(positions);
    want_type(positions, mx::int32, "positions");
    if (head_dim < 2 || head_dim % 2) refuse("an odd head_dim");
    std::vector<array> inputs{positions};
    if (wavelengths.ctx) {
      inputs.push_back(unwrap(wavelengths));
      want_type(inputs[1], mx::float32, "wavelengths");
      if (inputs[1].shape() != Shape{head_dim / 2}) refuse("wavelengths do not fit head_dim");
    }
    Shape shape = positions.shape();
    shape.push_back(head_dim);
    give(out, make_one<Rotation>(unwrap(s), shape, mx::float32, inputs, base, scale, head_dim));
  });
}

int gomlx_attend(mlx_array* out, mlx_array* kept, mlx_array qkv_, mlx_array rotation_, mlx_array q_norm, mlx_array k_norm, mlx_array visible_,
                 const mlx_array* kv, const int* lengths, const int* rooms, const gomlx_attention* a, mlx_dtype dtype, mlx_stream s) {
  return guarded([&] {
    const array &qkv = unwrap(qkv_), &rotation = unwrap(rotation_), &visible = unwrap(visible_);
    at_least_one_axis(qkv);
    const Dtype type = unwrap(dtype);
    type_of(type, "keys and values");
    if (a->heads < 1 || a->kv_heads < 1 || a->heads % a->kv_heads || a->head_dim < 2 || a->head_dim % 2) refuse("heads do not fit together");
    if (qkv.ndim() != 3) refuse("queries, keys and values are not [rows, tokens, ...]");
    Shapes shapes{qkv.shape(0), qkv.shape(1), a->heads, a->kv_heads, a->head_dim, a->eps, a->scale, a->neighbours != 0, q_norm.ctx != nullptr, a->keep != 0, {}, {}};
    want_type(qkv, mx::float32, "queries, keys and values");
    want_type(rotation, mx::float32, "the rotation");
    want_type(visible, mx::int32, "what is visible");
    if (qkv.shape(2) != (a->heads + 2 * a->kv_heads) * a->head_dim) refuse("queries, keys and values do not fit the heads");
    if (rotation.shape() != Shape{qkv.shape(0), qkv.shape(1), a->head_dim}) refuse("the rotation does not fit");
    if (visible.shape() != Shape{qkv.shape(0), qkv.shape(1), 5}) refuse("what is visible does not fit");
    std::vector<array> inputs{qkv, rotation, visible};
    if (shapes.normed) {
      for (mlx_array n : {q_norm, k_norm}) {
        inputs.push_back(unwrap(n));
        if (inputs.back().shape() != Shape{a->head_dim} || inputs.back().dtype() != type) refuse("a norm does not fit the heads");
      }
    }
    std::vector<Shape> out_shapes{{qkv.shape(0), qkv.shape(1), a->heads * a->head_dim}};
    for (long r = 0; r < shapes.rows; r++) {
      shapes.lengths.push_back(lengths[r]);
      long room = 0;
      if (lengths[r] > 0) {
        for (int i = 0; i < 2; i++) {
          const array& held = unwrap(kv[2 * r + i]);
          if (held.ndim() != 4 || held.shape(0) != 1 || held.shape(1) != a->kv_heads || held.shape(3) != a->head_dim || held.dtype() != type || held.shape(2) < 1) refuse("kept keys or values do not fit");
          if (i == 1 && held.shape(2) != room) refuse("kept keys and values differ in length");
          room = held.shape(2);
          inputs.push_back(held);
        }
      }
      if (!shapes.keep) continue;
      if (rooms[r] < 1 || rooms[r] < room || (rooms[r] > room && lengths[r] > room)) refuse("a room that has gone round cannot change");
      shapes.rooms.push_back(rooms[r]);
      for (int i = 0; i < 2; i++) out_shapes.push_back({1, a->kv_heads, rooms[r], a->head_dim});
    }
    std::vector<Dtype> types(out_shapes.size(), type);
    auto outs = array::make_arrays(out_shapes, types, std::make_shared<Attend>(unwrap(s), std::move(shapes)), inputs);
    give(out, outs[0]);
    for (size_t i = 1; i < outs.size(); i++) give(&kept[i - 1], outs[i]);
  });
}

int gomlx_add_norm(mlx_array* sum, mlx_array* normed, mlx_array h_, mlx_array y_, mlx_array post, mlx_array next, float eps, int clip, mlx_stream s) {
  return guarded([&] {
    const array &h = unwrap(h_), &y = unwrap(y_);
    at_least_one_axis(h);
    type_of(h.dtype(), "h");
    want_type(y, mx::float32, "y");
    if (h.shape() != y.shape()) refuse("what is added has another shape");
    std::vector<array> inputs{h, y, unwrap(next)};
    norm_fits(inputs[2], h, "the next norm");
    if (post.ctx) {
      inputs.push_back(unwrap(post));
      norm_fits(inputs[3], h, "the norm behind a block");
    }
    auto outs = array::make_arrays({h.shape(), h.shape()}, {h.dtype(), h.dtype()}, std::make_shared<AddThenNorm>(unwrap(s), post.ctx != nullptr, eps, clip != 0), inputs);
    give(sum, outs[0]);
    give(normed, outs[1]);
  });
}

int gomlx_rms_norm(mlx_array* out, mlx_array x_, mlx_array weight, float eps, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    type_of(x.dtype(), "x");
    norm_fits(unwrap(weight), x, "a norm");
    give(out, make_one<Norm>(unwrap(s), x.shape(), x.dtype(), {x, unwrap(weight)}, eps));
  });
}

int gomlx_gate(mlx_array* out, mlx_array gate_up, int gate, mlx_dtype dtype, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(gate_up);
    at_least_one_axis(x);
    want_type(x, mx::float32, "gate and up");
    type_of(unwrap(dtype), "out");
    if (x.shape(-1) % 2 || gate_of(gate) == Gate::none) refuse("gate and up are not two halves");
    give(out, make_one<Gated>(unwrap(s), with_last(x, x.shape(-1) / 2), unwrap(dtype), {x}, gate_of(gate)));
  });
}

int gomlx_scores(mlx_array* out, mlx_array x_, const gomlx_linear* layer, mlx_array rows, mlx_array ids, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    type_of(x.dtype(), "x");
    if (x.ndim() != 2) refuse("x is not [rows, inputs]");
    std::vector<array> inputs{x, unwrap(rows), unwrap(ids)};
    want_type(inputs[1], mx::int32, "rows");
    want_type(inputs[2], mx::int32, "ids");
    if (inputs[1].shape() != inputs[2].shape() || inputs[1].ndim() != 1) refuse("rows and ids do not fit");
    Layer l = take(*layer, x.shape(1), inputs);
    if (l.bias >= 0) refuse("scores of a layer with a bias");
    give(out, make_one<PickedScores>(unwrap(s), inputs[1].shape(), mx::float32, inputs, l));
  });
}

int gomlx_log_softmax(mlx_array* out, mlx_array x_, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    want_type(x, mx::float32, "x");
    give(out, make_one<LogSoftmax>(unwrap(s), x.shape(), mx::float32, {x}));
  });
}

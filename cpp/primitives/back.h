// The way back through the ops of primitives.cpp, as ops. Weights of a model are frozen: a gradient is there for what goes
// through a layer, and for LoRAs.
#pragma once

#include "kernel.h"

namespace gomlx {
namespace {

[[noreturn]] inline void frozen(const char* op) {
  refuse(std::string(op) + " has no gradient of weights, positions or ids");
}

inline void want_only(const std::vector<int>& argnums, int last, const char* op) {
  for (int n : argnums)
    if (n > last) frozen(op);
}

// Where a layer's LoRA is among the inputs of an op; -1 without.
struct LoRA {
  int a = -1, b = -1;
  float scale = 0;
};

// A LoRA whose A [columns, rank] is to be transposed to a_rows.
struct Transposed {
  LowRank of;
  const float* a; // null if a_rows is there already

  void transpose() const {
    if (!a) return;
    float* to = const_cast<float*>(of.a_rows);
    for (long from = 0; from < of.columns; from += 16) // whole lines of the cache
      for (long r = 0; r < of.rank; r++)
        for (long i = from; i < std::min(from + 16, of.columns); i++) to[r * of.columns + i] = a[i * of.rank + r];
  }
};

// An op with layers, some of them with LoRAs. Its inputs begin with x.
class Layered : public Kernel {
 public:
  Layered(Stream s, std::vector<Layer> layers, std::vector<LoRA> loras) : Kernel(s), layers_(std::move(layers)), loras_(std::move(loras)) {}

 protected:
  Transposed low_rank(size_t part, const std::vector<array>& inputs) {
    const LoRA& l = loras_[part];
    const array& a = inputs[l.a];
    const long columns = layers_[part].columns, rank = a.shape(1);
    const LowRank known{a.data<float>(), static_cast<const float*>(in(inputs[l.b])), rank, columns, layers_[part].rows, l.scale};
    // A loaded adapter's A lies column by column, so it has been transposed for good.
    if (a.strides()[0] == 1 && a.strides()[1] == columns) return {known, nullptr};
    auto* a_rows = static_cast<float*>(scratch(size_t(rank * columns) * 4));
    LowRank made = known;
    made.a_rows = a_rows;
    return {made, static_cast<const float*>(in(a))};
  }

  std::vector<Layer> layers_;
  std::vector<LoRA> loras_; // as many as layers, or none
};

// Back through layers: inputs are those of the op, and the gradient of its result, in x's type or float32. Results are the gradient of x, if
// `inward`, and those of A and B of every LoRA.
class ProjectBack : public Layered {
 public:
  ProjectBack(Stream s, std::vector<Layer> layers, std::vector<LoRA> loras, bool inward) : Layered(s, std::move(layers), std::move(loras)), inward_(inward) {}
  const char* name() const override { return "gomlx::ProjectBack"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array &x = inputs[0], &dy = inputs.back();
    const long k = x.shape(-1), m = long(x.size()) / k, columns = dy.shape(-1);
    Work w{};
    w.type = type_of(x.dtype(), "x"), w.given = type_of(dy.dtype(), "a gradient");
    w.m = m, w.k = k, w.columns = columns, w.dy = in(dy), w.x = in(x);
    bool packed = false;
    for (const Layer& l : layers_) {
      w.parts.push_back(matrix(l, inputs));
      packed = packed || l.bits;
    }
    size_t next = 0;
    if (inward_) {
      // As in the forward pass, numbers of bfloat16 models are multiplied as such, and summed in float32.
      w.multiplied = w.type == Type::bf16 ? Type::bf16 : w.given;
      w.weights = w.type == Type::f16 && packed ? Type::f32 : w.type;
      w.transposed = scratch(size_t(k * columns * size_of(w.weights)));
      if (w.multiplied != w.given) w.narrow = scratch(size_t(m * columns * size_of(w.multiplied)));
      w.dx = room(outputs[next++]);
      w.wide_dx = static_cast<float*>(w.type == Type::f32 ? w.dx : scratch(size_t(m * k * 4)));
    }
    long column = 0;
    for (size_t i = 0; i < layers_.size(); i++) {
      if (i < loras_.size() && loras_[i].a >= 0) {
        const Transposed t = low_rank(i, inputs);
        float *da = static_cast<float*>(room(outputs[next++])), *db = static_cast<float*>(room(outputs[next++]));
        float* work = static_cast<float*>(scratch(size_t(t.of.rank * (2 * m + k)) * 4));
        if (w.given != Type::f32 && !w.wide_dy) w.wide_dy = static_cast<float*>(scratch(size_t(m * columns) * 4));
        w.loras.push_back({t, {t.of, w.x, w.type, m, nullptr, columns, w.wide_dx, da, db, work}, column});
      }
      column += layers_[i].rows;
    }
    encoder().dispatch([w = std::move(w)] { w.run(); });
  }

 private:
  struct Added { Transposed of; BackLowRank back; long column; };
  struct Work {
    Type type, given, multiplied, weights;
    long m, k, columns;
    const void *dy, *x;
    std::vector<Matrix> parts;
    void *transposed, *narrow, *dx;
    float *wide_dx, *wide_dy;
    std::vector<Added> loras;

    void run() const {
      const Level& kernels = level();
      if (dx) {
        kernels.transpose(parts.data(), int(parts.size()), transposed, weights);
        if (narrow) kernels.narrow(static_cast<const float*>(dy), narrow, m * columns, multiplied);
        const Matrix back{transposed, weights, k, columns};
        kernels.product({narrow ? narrow : dy, multiplied, m, columns, &back, nullptr, 1, Gate::none, wide_dx, Type::f32, k});
      }
      if (wide_dy) kernels.widen(dy, wide_dy, m * columns, given);
      for (const Added& l : loras) {
        BackLowRank back = l.back;
        back.dy = (wide_dy ? wide_dy : static_cast<const float*>(dy)) + l.column;
        l.of.transpose();
        kernels.back_low_rank(back);
      }
      if (dx && type != Type::f32) kernels.narrow(wide_dx, dx, m * k, type);
    }
  };

  bool inward_;
};

// The gradients of the inputs that argnums names, of an op over layers whose result has the gradient dy.
inline std::vector<array> project_back(Stream s, const std::vector<Layer>& layers, const std::vector<LoRA>& loras, std::vector<array> inputs, const array& dy, const std::vector<int>& argnums) {
  const bool inward = std::find(argnums.begin(), argnums.end(), 0) != argnums.end();
  std::vector<int> given;
  std::vector<Shape> shapes;
  std::vector<Dtype> types;
  auto give = [&](int input) { given.push_back(input), shapes.push_back(inputs[input].shape()), types.push_back(inputs[input].dtype()); };
  if (inward) give(0);
  for (const LoRA& l : loras)
    if (l.a >= 0) give(l.a), give(l.b);
  inputs.push_back(dy);
  auto outs = array::make_arrays(shapes, types, std::make_shared<ProjectBack>(s, layers, loras, inward), inputs);
  std::vector<array> out;
  for (int n : argnums) {
    const auto at = std::find(given.begin(), given.end(), n);
    if (at == given.end()) frozen("a linear layer");
    out.push_back(outs[at - given.begin()]);
  }
  return out;
}

// Back through AddNorm, or through a norm alone. Inputs are what was normed, the norm, the gradients of the results, [y, the norm after a block].
class AddNormBack : public Kernel {
 public:
  AddNormBack(Stream s, float eps, bool clip) : Kernel(s), clip_(clip), eps_(eps) {}
  const char* name() const override { return "gomlx::AddNormBack"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& sum = inputs[0];
    const bool added = outputs.size() > 1, post = inputs.size() > 4;
    BackAddNorm b{};
    b.sum = in(sum), b.next = in(inputs[1]), b.dnormed = in(inputs[2]), b.eps = eps_, b.clip = clip_;
    b.rows = long(sum.size()) / sum.shape(-1), b.n = sum.shape(-1), b.type = type_of(sum.dtype(), "a sum");
    if (added) b.dsum = in(inputs[3]);
    if (post) b.y = static_cast<const float*>(in(inputs[4])), b.post = in(inputs[5]);
    b.dh = room(outputs[0]);
    if (added) b.dy = static_cast<float*>(room(outputs[1]));
    encoder().dispatch([b] { level().back_add_norm(b); });
  }

 private:
  bool clip_;
  float eps_;
};

// Back through a gate. Inputs are both halves, and the gradient of the result.
class GateBack : public Kernel {
 public:
  GateBack(Stream s, Gate gate) : Kernel(s), gate_(gate) {}
  const char* name() const override { return "gomlx::GateBack"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& dout = inputs[1];
    encoder().dispatch([x = static_cast<const float*>(in(inputs[0])), d = in(dout), to = static_cast<float*>(room(outputs[0])), n = long(dout.shape(-1)), rows = long(dout.size()) / dout.shape(-1), gate = gate_, type = type_of(dout.dtype(), "a gradient")] {
      level().back_gate(x, d, to, rows, n, gate, type);
    });
  }

 private:
  Gate gate_;
};

// What Attend knows of the pass.
struct Shapes {
  long rows, tokens, heads, kv_heads, head_dim;
  float eps, scale;
  bool neighbours, normed, keep;
  std::vector<gomlx_past> past;
};

// Back through attention without past keys. Inputs are those of the op, and the gradient of its result.
class AttendBack : public Kernel {
 public:
  AttendBack(Stream s, Shapes shapes) : Kernel(s), s_(std::move(shapes)) {}
  const char* name() const override { return "gomlx::AttendBack"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const Type type = type_of(inputs.back().dtype(), "a gradient");
    BackAttention b{};
    Attention& a = b.of;
    a.qkv = static_cast<const float*>(in(inputs[0])), a.rotation = static_cast<const float*>(in(inputs[1])), a.visible = static_cast<const Visible*>(in(inputs[2]));
    if (s_.normed) a.q_norm = in(inputs[3]), a.k_norm = in(inputs[4]);
    a.eps = s_.eps, a.scale = s_.scale, a.neighbours = s_.neighbours;
    a.rows = s_.rows, a.tokens = s_.tokens, a.heads = s_.heads, a.kv_heads = s_.kv_heads, a.head_dim = s_.head_dim, a.type = type;
    a.own = scratch(size_t(s_.rows * s_.tokens * (s_.heads + 2 * s_.kv_heads) * s_.head_dim * size_of(type)));
    b.dout = in(inputs.back()), b.dqkv = static_cast<float*>(room(outputs[0]));
    b.work = static_cast<float*>(scratch(size_t(units_at_once(a) * 2 * (a.heads / a.kv_heads) * a.tokens * a.tokens) * 4));
    encoder().dispatch([b] { level().back_attention(b); });
  }

 private:
  Shapes s_;
};

} // namespace
} // namespace gomlx

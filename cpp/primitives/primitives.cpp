// The kernels as MLX primitives. Each checks its operands when the op is made; evaluating it puts one job into the queue
// of the stream's thread, which has the kernels' threads help.
#include "back.h"

namespace gomlx {
namespace {

// Layers with what LoRAs add to them, or two layers with a gate.
class Apply : public Layered {
 public:
  Apply(Stream s, std::vector<Layer> layers, std::vector<LoRA> loras, Gate gate, bool many) : Layered(s, std::move(layers), std::move(loras)), gate_(gate), many_(many) {}
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
    void* to = room(out);
    std::vector<Added> added;
    for (size_t i = 0, column = 0; i < loras_.size(); column += layers_[i++].rows) {
      if (loras_[i].a < 0) continue;
      const Transposed t = low_rank(i, inputs);
      added.push_back({t, {t.of, in(x), type, m, static_cast<float*>(to) + column, columns}});
    }
    encoder().dispatch([=, x = in(x), gate = gate_, many = many_] {
      level().product({x, type, m, k, parts.data(), bias.data(), int(parts.size()), gate, to, out_type, columns, many});
      for (const Added& l : added) {
        l.of.transpose();
        level().add_low_rank(l.add);
      }
    });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums, const std::vector<array>&) override {
    array dy = cotangents[0];
    if (gate_ != Gate::none) { // both halves are computed again
      const array& x = primals[0];
      const array halves = make_one<Apply>(stream(), with_last(x, 2 * layers_[0].rows), mx::float32, primals, layers_, loras_, Gate::none, many_);
      dy = make_one<GateBack>(stream(), halves.shape(), mx::float32, {halves, dy}, gate_);
    }
    return project_back(stream(), layers_, loras_, primals, dy, argnums);
  }

 private:
  struct Added { Transposed of; AddLowRank add; };
  Gate gate_;
  bool many_;
};

class Lookup : public Kernel {
 public:
  Lookup(Stream s, Layer table, float scale) : Kernel(s), table_(table), scale_(scale) {}
  const char* name() const override { return "gomlx::Lookup"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    encoder().dispatch([m = matrix(table_, inputs), ids = static_cast<const int32_t*>(in(inputs[0])), n = long(inputs[0].size()), scale = scale_, to = room(outputs[0]), type = type_of(outputs[0].dtype(), "out")] {
      level().lookup(m, ids, n, scale, to, type);
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
      rotate(positions, n, wavelengths, base, scale, half, to);
    });
  }

 private:
  float base_, scale_;
  int half_;
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
    size_t out = 1;
    KV kv = kv_of(inputs, next, outputs, out, s_.past.data(), s_.keep, s_.rows);
    encoder().dispatch([a, kv = std::move(kv)]() mutable {
      a.past = kv.past.data();
      level().attention(a);
      kv.keep(a);
    });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums, const std::vector<array>&) override {
    want_only(argnums, 0, "attention");
    for (const gomlx_past& past : s_.past)
      if (past.length > 0 || s_.keep) refuse("attention to kept keys has no gradient");
    std::vector<array> inputs = primals;
    inputs.push_back(cotangents[0]);
    return {make_one<AttendBack>(stream(), primals[0].shape(), mx::float32, std::move(inputs), s_)};
  }

 private:
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

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums, const std::vector<array>& outputs) override {
    want_only(argnums, 1, "the sum with its norm");
    const array &h = primals[0], &y = primals[1];
    std::vector<array> inputs{outputs[0], primals[2], cotangents[1], cotangents[0]};
    if (post_) inputs.push_back(y), inputs.push_back(primals[3]);
    auto outs = array::make_arrays({h.shape(), y.shape()}, {h.dtype(), mx::float32}, std::make_shared<AddNormBack>(stream(), eps_, clip_), inputs);
    std::vector<array> out;
    for (int n : argnums) out.push_back(outs[n]);
    return out;
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

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums, const std::vector<array>&) override {
    want_only(argnums, 0, "a norm");
    const array& x = primals[0];
    return {make_one<AddNormBack>(stream(), x.shape(), x.dtype(), {x, primals[1], cotangents[0]}, eps_, false)};
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

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>&, const std::vector<array>&) override {
    return {make_one<GateBack>(stream(), primals[0].shape(), mx::float32, {primals[0], cotangents[0]}, gate_)};
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

LoRA take_lora(const gomlx_lora& l, const Layer& layer, std::vector<array>& inputs) {
  const array &a = unwrap(l.a), &b = unwrap(l.b);
  want_type(a, mx::float32, "A of a LoRA"), want_type(b, mx::float32, "B of a LoRA");
  if (a.ndim() != 2 || b.ndim() != 2 || a.shape(0) != layer.columns || b.shape(1) != layer.rows || a.shape(1) != b.shape(0) || a.shape(1) < 1) refuse("a LoRA does not fit its layer");
  inputs.push_back(a), inputs.push_back(b);
  return {int(inputs.size()) - 2, int(inputs.size()) - 1, l.scale};
}

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

int gomlx_likes_interleaved(int bits) {
  int likes = 0;
  guarded([&] { likes = level().likes_interleaved(bits); });
  return likes;
}

int gomlx_interleave(const gomlx_linear* layer) {
  return guarded([&] {
    std::vector<array> arrays;
    const Layer l = take(*layer, 0, arrays);
    if (!l.bits || l.interleaved) refuse("only packed weights are interleaved, and once");
    for (const array& a : arrays)
      if (!a.is_available() || !a.flags().row_contiguous) refuse("weights to interleave are not evaluated");
    auto at = [&](int i) { return arrays[size_t(l.at + i)].data<void>(); };
    interleave({at(0), l.type, l.rows, l.columns, l.bits, l.group, at(1), l.biased ? at(2) : nullptr});
  });
}

int gomlx_apply(mlx_array* out, mlx_array x_, const gomlx_linear* parts, const gomlx_lora* added, int n, int gate, int wide, int many, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    type_of(x.dtype(), "x");
    if (n < 1 || n > 8) refuse("one to eight layers go together");
    std::vector<array> inputs{x};
    std::vector<Layer> layers;
    std::vector<LoRA> loras(added ? n : 0);
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
    if (added && (gate_of(gate) != Gate::none || !wide)) refuse("layers with LoRAs have results in float32, and no gate");
    for (size_t i = 0; i < loras.size(); i++)
      if (added[i].a.ctx) loras[i] = take_lora(added[i], layers[i], inputs);
    give(out, make_one<Apply>(unwrap(s), with_last(x, outputs), wide ? mx::float32 : x.dtype(), inputs, std::move(layers), std::move(loras), gate_of(gate), many != 0));
  });
}

int gomlx_lookup(mlx_array* out, const gomlx_linear* table, mlx_array ids_, float scale, mlx_dtype type, mlx_stream s) {
  return guarded([&] {
    const array& ids = unwrap(ids_);
    at_least_one_axis(ids);
    if (ids.dtype() != mx::int32 && ids.dtype() != mx::uint32) refuse("ids have the wrong type");
    std::vector<array> inputs{ids};
    Layer layer = take(*table, 0, inputs);
    Shape shape = ids.shape();
    shape.push_back(int(layer.columns));
    give(out, make_one<Lookup>(unwrap(s), shape, unwrap(type), inputs, layer, scale));
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
                 const mlx_array* kv, const gomlx_past* past, const gomlx_attention* a, mlx_dtype dtype, mlx_stream s) {
  return guarded([&] {
    const array &qkv = unwrap(qkv_), &rotation = unwrap(rotation_), &visible = unwrap(visible_);
    at_least_one_axis(qkv);
    const Dtype type = unwrap(dtype);
    type_of(type, "keys and values");
    if (a->heads < 1 || a->kv_heads < 1 || a->heads % a->kv_heads || a->head_dim < 2 || a->head_dim % 2) refuse("heads do not fit together");
    if (qkv.ndim() != 3) refuse("queries, keys and values are not [rows, tokens, ...]");
    Shapes shapes{qkv.shape(0), qkv.shape(1), a->heads, a->kv_heads, a->head_dim, a->eps, a->scale, a->neighbours != 0, q_norm.ctx != nullptr, a->keep != 0, {}};
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
    shapes.past.assign(past, past + shapes.rows);
    take_kv(kv, past, shapes.keep, shapes.rows, a->kv_heads, a->head_dim, type, inputs, out_shapes);
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
      norm_fits(inputs[3], h, "the norm after a block");
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

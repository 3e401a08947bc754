// A pass through all layers of a decoder as one MLX op: the same kernels in the same order as the single ops of primitives.cpp, so the
// same bits, without an MLX graph of a hundred nodes for every token.
#include "kernel.h"
#include "mlx/transforms.h"

namespace gomlx {
namespace {

// Where operands are in Decoder::arrays; -1: nowhere.
struct DecoderLayer {
  Layer q, k, v, o, gate, up, down;
  int input_norm, q_norm, k_norm, post_attention_norm, pre_mlp_norm, post_mlp_norm;
  int rotation, window;
};

struct Rotations {
  float base, scale;
  bool neighbours;
  int wavelengths;
};

} // namespace
} // namespace gomlx

// What every pass of a model has in common. A pass that is under way holds it too.
struct gomlx_decoder {
  std::vector<mlx::core::array> arrays;
  gomlx::Layer table;
  float embed_scale;
  std::vector<gomlx::DecoderLayer> layers;
  std::vector<gomlx::Rotations> rotations;
  int norm, windows;
  gomlx_decoder_settings settings;
  gomlx::Gate gate;
  mlx::core::Dtype dtype = mlx::core::float32;
  std::shared_ptr<gomlx_decoder> self; // the handle's own hold, until it is freed
};

namespace gomlx {
namespace {

class Decode : public Kernel {
 public:
  Decode(Stream s, std::shared_ptr<gomlx_decoder> d, long rows, long tokens, const gomlx_pass& p)
      : Kernel(s), d_(std::move(d)), rows_(rows), tokens_(tokens), positions_(p.positions, p.positions + rows * tokens),
        visible_(p.visible, p.visible + d_->windows * rows * tokens * 5), past_(p.past, p.past + rows * long(d_->layers.size())), keep_(p.keep != 0) {}
  const char* name() const override { return "gomlx::Decode"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const gomlx_decoder& d = *d_;
    const gomlx_decoder_settings& set = d.settings;
    const Type type = type_of(d.dtype, "states");
    const long n = rows_ * tokens_, hidden = d.table.columns, size = size_of(type), head = set.head_dim;
    const long qkv = (set.heads + 2 * set.kv_heads) * head, inner = d.layers[0].up.rows;
    auto weights = [&](int at) { return at < 0 ? nullptr : in(d.arrays[at]); };

    Pass pass{};
    pass.positions = std::move(positions_), pass.visible = std::move(visible_);
    pass.table = matrix(d.table, d.arrays), pass.embed_scale = d.embed_scale, pass.ids = static_cast<const int32_t*>(in(inputs[0]));
    pass.n = n, pass.hidden = hidden, pass.inner = inner, pass.qkv_size = qkv, pass.attended_size = set.heads * head;
    pass.eps = set.eps, pass.clip = set.clip != 0, pass.many = !keep_, pass.gate = d.gate, pass.type = type;
    pass.h = scratch(n * hidden * size), pass.x = scratch(n * hidden * size), pass.y = static_cast<float*>(scratch(n * hidden * 4));
    pass.qkv = static_cast<float*>(scratch(n * qkv * 4)), pass.attended = scratch(n * set.heads * head * size), pass.gated = scratch(n * inner * size);
    pass.out = room(outputs[0]);
    for (const Rotations& r : d.rotations)
      pass.rotations.push_back({static_cast<float*>(scratch(n * head * 4)), static_cast<const float*>(weights(r.wavelengths)), r.base, r.scale});
    void* own = scratch(n * qkv * size);
    size_t next = 1, out = 1;
    for (size_t i = 0; i < d.layers.size(); i++) {
      const DecoderLayer& l = d.layers[i];
      Step step{};
      auto part = [&](int which, const Layer& layer) {
        step.weights[which] = matrix(layer, d.arrays);
        step.biases[which] = weights(layer.bias);
      };
      part(0, l.q), part(1, l.k), part(2, l.v), part(3, l.o), part(4, l.gate), part(5, l.up), part(6, l.down);
      step.input_norm = weights(l.input_norm), step.post_attention_norm = weights(l.post_attention_norm);
      step.pre_mlp_norm = weights(l.pre_mlp_norm), step.post_mlp_norm = weights(l.post_mlp_norm);
      Attention& a = step.attention;
      a.qkv = pass.qkv, a.rotation = pass.rotations[l.rotation].to, a.q_norm = weights(l.q_norm), a.k_norm = weights(l.k_norm);
      a.eps = set.eps, a.scale = set.scale, a.neighbours = d.rotations[l.rotation].neighbours;
      a.rows = rows_, a.tokens = tokens_, a.heads = set.heads, a.kv_heads = set.kv_heads, a.head_dim = head, a.type = type;
      a.visible = reinterpret_cast<const Visible*>(pass.visible.data() + l.window * n * 5);
      a.own = own, a.out = pass.attended;
      const long at = long(i) * rows_;
      step.kv = kv_of(inputs, next, outputs, out, past_.data() + at, keep_, rows_);
      pass.steps.push_back(std::move(step));
    }
    pass.norm = weights(d.norm);
    encoder().dispatch([pass = std::move(pass), keep = d_]() mutable { pass.run(); });
  }

 private:
  struct Step {
    Matrix weights[7]; // q, k, v, o, gate, up, down
    const void* biases[7];
    const void *input_norm, *post_attention_norm, *pre_mlp_norm, *post_mlp_norm;
    Attention attention;
    KV kv;
  };

  // Everything that a pass reads and writes, as addresses.
  struct Pass {
    std::vector<int32_t> positions, visible;
    Matrix table;
    float embed_scale;
    const int32_t* ids;
    long n, hidden, inner, qkv_size, attended_size;
    float eps;
    bool clip, many;
    Gate gate;
    Type type;
    void *h, *x, *attended, *gated, *out;
    float *y, *qkv;
    struct Rotation { float* to; const float* wavelengths; float base, scale; };
    std::vector<Rotation> rotations;
    std::vector<Step> steps;
    const void* norm;

    void multiply(const void* from, long k, const Step& s, int first, int parts, Gate gate, void* to, Type type, long width) {
      level().product({from, this->type, n, k, s.weights + first, s.biases + first, parts, gate, to, type, width, many});
    }

    void run() {
      const Level& kernels = level();
      for (Rotation& r : rotations) rotate(positions.data(), n, r.wavelengths, r.base, r.scale, steps[0].attention.head_dim / 2, r.to);
      kernels.lookup(table, ids, n, embed_scale, h, type);
      kernels.rms_norm(h, steps[0].input_norm, x, n, hidden, eps, type);
      for (size_t i = 0; i < steps.size(); i++) {
        Step& s = steps[i];
        multiply(x, hidden, s, 0, 3, Gate::none, qkv, Type::f32, qkv_size);
        s.attention.past = s.kv.past.data();
        kernels.attention(s.attention);
        s.kv.keep(s.attention);
        multiply(attended, attended_size, s, 3, 1, Gate::none, y, Type::f32, hidden);
        add(s.post_attention_norm, s.pre_mlp_norm, x);
        multiply(x, hidden, s, 4, 2, gate, gated, type, inner);
        multiply(gated, inner, s, 6, 1, Gate::none, y, Type::f32, hidden);
        const bool last = i + 1 == steps.size();
        add(s.post_mlp_norm, last ? norm : steps[i + 1].input_norm, last ? out : x);
      }
    }

    // h becomes h + y, and normed its norm.
    void add(const void* post, const void* next, void* normed) {
      level().add_norm({h, y, post, next, eps, clip, n, hidden, type, h, normed});
    }
  };

  std::shared_ptr<gomlx_decoder> d_;
  long rows_, tokens_;
  std::vector<int32_t> positions_, visible_;
  std::vector<gomlx_past> past_; // [layers, rows]
  bool keep_;
};

// Takes a norm of n numbers; an empty handle is -1.
int take_norm(mlx_array a, long n, Dtype type, std::vector<array>& arrays) {
  if (!a.ctx) return -1;
  arrays.push_back(unwrap(a));
  if (arrays.back().shape() != Shape{int(n)} || arrays.back().dtype() != type) refuse("a norm does not fit the states");
  return int(arrays.size()) - 1;
}

Layer take_fitting(const gomlx_linear& l, long columns, long rows, Dtype type, std::vector<array>& arrays) {
  Layer layer = take(l, columns, arrays);
  if (layer.rows != rows) refuse("a layer of " + std::to_string(layer.rows) + " outputs where " + std::to_string(rows) + " are needed");
  if (layer.bias >= 0 && arrays[layer.bias].dtype() != type) refuse("a bias has another type than the inputs");
  return layer;
}

} // namespace
} // namespace gomlx

using namespace gomlx;

int gomlx_decoder_new(gomlx_decoder** out, const gomlx_decoder_settings* set, const gomlx_linear* table, mlx_array norm, const gomlx_decoder_rotation* rotations, int n_rotations, const gomlx_decoder_layer* layers, int n) {
  return guarded([&] {
    if (set->heads < 1 || set->kv_heads < 1 || set->heads % set->kv_heads || set->head_dim < 2 || set->head_dim % 2) refuse("heads do not fit together");
    if (n < 1 || set->windows < 1) refuse("a decoder without layers");
    auto d = std::make_shared<gomlx_decoder>();
    d->settings = *set, d->embed_scale = set->embed_scale, d->windows = set->windows;
    if (d->gate = gate_of(set->gate); d->gate == Gate::none) refuse("a gated MLP without a gate");
    d->table = take(*table, 0, d->arrays);
    d->dtype = unwrap(norm).dtype();
    type_of(d->dtype, "the last norm");
    const long hidden = d->table.columns, q = long(set->heads) * set->head_dim, kv = long(set->kv_heads) * set->head_dim;
    auto norm_of = [&](mlx_array a, long size) { return take_norm(a, size, d->dtype, d->arrays); };
    if (d->norm = norm_of(norm, hidden); d->norm < 0) refuse("the last norm is an empty handle");
    for (int i = 0; i < n_rotations; i++) {
      Rotations r{rotations[i].base, rotations[i].scale, rotations[i].neighbours != 0, -1};
      if (rotations[i].wavelengths.ctx) {
        r.wavelengths = int(d->arrays.size());
        d->arrays.push_back(unwrap(rotations[i].wavelengths));
        want_type(d->arrays.back(), mx::float32, "wavelengths");
        if (d->arrays.back().shape() != Shape{set->head_dim / 2}) refuse("wavelengths do not fit head_dim");
      }
      d->rotations.push_back(r);
    }
    for (int i = 0; i < n; i++) {
      const gomlx_decoder_layer& l = layers[i];
      DecoderLayer to{};
      auto fitting = [&](const gomlx_linear& part, long columns, long rows) { return take_fitting(part, columns, rows, d->dtype, d->arrays); };
      to.q = fitting(l.q, hidden, q), to.k = fitting(l.k, hidden, kv), to.v = fitting(l.v, hidden, kv), to.o = fitting(l.o, q, hidden);
      to.up = take(l.up, hidden, d->arrays);
      const long inner = i ? d->layers[0].up.rows : to.up.rows;
      if (to.up.rows != inner) refuse("MLPs of different sizes");
      to.gate = fitting(l.gate, hidden, inner), to.down = fitting(l.down, inner, hidden);
      to.input_norm = norm_of(l.input_norm, hidden), to.pre_mlp_norm = norm_of(l.pre_mlp_norm, hidden);
      to.post_attention_norm = norm_of(l.post_attention_norm, hidden), to.post_mlp_norm = norm_of(l.post_mlp_norm, hidden);
      to.q_norm = norm_of(l.q_norm, set->head_dim), to.k_norm = norm_of(l.k_norm, set->head_dim);
      if (to.input_norm < 0 || to.pre_mlp_norm < 0) refuse("a layer without norms");
      if (to.rotation = l.rotation; l.rotation < 0 || l.rotation >= n_rotations) refuse("a rotation that is not there");
      if (to.window = l.window; l.window < 0 || l.window >= set->windows) refuse("a window that is not there");
      d->layers.push_back(to);
    }
    mx::eval(d->arrays);
    *out = d.get();
    d->self = std::move(d);
  });
}

void gomlx_decoder_free(gomlx_decoder* d) {
  if (d) auto last = std::move(d->self);
}

int gomlx_decode(mlx_array* out, mlx_array* kept, gomlx_decoder* decoder, mlx_array ids_, const mlx_array* kv, const gomlx_pass* pass, mlx_stream s) {
  return guarded([&] {
    const array& ids = unwrap(ids_);
    const gomlx_decoder& d = *decoder;
    at_least_one_axis(ids);
    if (ids.dtype() != mx::int32 && ids.dtype() != mx::uint32) refuse("ids have the wrong type");
    if (ids.ndim() != 2) refuse("ids are not [rows, tokens]");
    const long rows = ids.shape(0), tokens = ids.shape(1);
    std::vector<array> inputs{ids};
    std::vector<Shape> shapes{{int(rows), int(tokens), int(d.table.columns)}};
    for (size_t i = 0; i < d.layers.size(); i++) {
      const long at = long(i) * rows;
      take_kv(kv + 2 * at, pass->past + at, pass->keep != 0, rows, d.settings.kv_heads, d.settings.head_dim, d.dtype, inputs, shapes);
    }
    std::vector<Dtype> types(shapes.size(), d.dtype);
    auto outs = array::make_arrays(shapes, types, std::make_shared<Decode>(unwrap(s), d.self, rows, tokens, *pass), inputs);
    give(out, outs[0]);
    for (size_t i = 1; i < outs.size(); i++) give(&kept[i - 1], outs[i]);
  });
}

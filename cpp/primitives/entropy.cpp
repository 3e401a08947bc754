// The cross entropy of an output layer over a large vocabulary, with its gradient, without the logits of all rows in memory.
#include "back.h"

namespace gomlx {
namespace {

// The derivative of the entropy by x is the mean of the layer's rows under the softmax, less the target's row. That is an attention of x
// over these rows, and is computed like one: piece by piece of the vocabulary, around the largest logit so far. So each piece's logits
// are computed once, for the entropy and for its gradient.
class Entropy : public Kernel {
 public:
  Entropy(Stream s, Layer layer) : Kernel(s), layer_(layer) {}
  const char* name() const override { return "gomlx::CrossEntropy"; }

  void eval_cpu(const std::vector<array>& inputs, std::vector<array>& outputs) override {
    const array& x = inputs[0];
    Work w{};
    w.x = static_cast<const char*>(in(x)), w.type = type_of(x.dtype(), "x"), w.m = x.shape(0), w.k = x.shape(1);
    w.layer = matrix(layer_, inputs), w.targets = static_cast<const int32_t*>(in(inputs[1]));
    w.width = std::min<long>(piece, w.layer.rows), w.at_once = std::min<long>(rows_at_once, w.m);
    w.loss = static_cast<float*>(room(outputs[0]));
    w.logits = static_cast<float*>(scratch(size_t(w.at_once * w.width) * 4));
    w.state = static_cast<float*>(scratch(size_t(4 * w.m) * 4));
    if (outputs.size() > 1) {
      w.slopes = static_cast<float*>(room(outputs[1]));
      w.weights_type = w.type == Type::bf16 ? Type::bf16 : Type::f32;
      w.weights = scratch(size_t(w.at_once * w.width * size_of(w.weights_type)));
      w.transposed = scratch(size_t(w.k * w.width * size_of(w.weights_type)));
      w.part = static_cast<float*>(scratch(size_t(w.at_once * w.k) * 4));
    }
    encoder().dispatch([w] { w.run(); });
  }

  std::vector<array> vjp(const std::vector<array>& primals, const std::vector<array>& cotangents, const std::vector<int>& argnums, const std::vector<array>& outputs) override {
    want_only(argnums, 0, "the cross entropy");
    if (outputs.size() < 2) refuse("the cross entropy was asked for without its slopes");
    const Stream s = stream();
    return {mx::astype(mx::multiply(outputs[1], mx::expand_dims(cotangents[0], 1, s), s), primals[0].dtype(), s)};
  }

 private:
  static constexpr long piece = 4096, rows_at_once = 1024; // of the vocabulary, and of x

  struct Work {
    const char* x;
    Type type, weights_type;
    long m, k, width, at_once;
    Matrix layer;
    const int32_t* targets;
    float *loss, *slopes, *logits, *state, *part;
    void *weights, *transposed;

    // Some rows of the layer.
    Matrix some(long first, long count) const {
      Matrix w = layer;
      w.data = static_cast<const char*>(w.data) + first * w.row_bytes(), w.rows = count;
      if (w.bits) {
        const long skipped = first * (w.columns / w.group) * size_of(w.type);
        w.scales = static_cast<const char*>(w.scales) + skipped;
        if (w.biases) w.biases = static_cast<const char*>(w.biases) + skipped;
      }
      return w;
    }

    void run() const {
      const Level& kernels = level();
      float *most = state, *sum = most + m, *keep = sum + m, *target = keep + m;
      for (long r = 0; r < m; r++) most[r] = -INFINITY, sum[r] = 0, target[r] = 0;
      if (slopes) std::memset(slopes, 0, size_t(m * k) * 4);
      for (long first = 0; first < layer.rows; first += width) {
        const long count = std::min(width, layer.rows - first);
        const Matrix w = some(first, count), back{transposed, weights_type, k, count};
        if (slopes) kernels.transpose(&w, 1, transposed, weights_type);
        for (long row = 0; row < m; row += at_once) {
          const long rows = std::min(at_once, m - row);
          kernels.product({x + row * k * size_of(type), type, rows, k, &w, nullptr, 1, Gate::none, logits, Type::f32, count, true});
          kernels.entropy_piece({logits, rows, first, count, targets + row, most + row, sum + row, keep + row, target + row, weights, slopes ? weights_type : Type::f32});
          if (!slopes) continue;
          kernels.product({weights, weights_type, rows, count, &back, nullptr, 1, Gate::none, part, Type::f32, k});
          kernels.scale_add(slopes + row * k, keep + row, part, rows, k);
        }
      }
      for (long r = 0; r < m; r++) loss[r] = most[r] + std::log(sum[r]) - target[r];
      if (slopes) finish(sum);
    }

    // The sums become means, less the targets' rows.
    void finish(float* sum) const {
      for (long row = 0; row < m; row += at_once) {
        const long rows = std::min(at_once, m - row);
        level().lookup(layer, targets + row, rows, -1, part, Type::f32);
        for (long r = row; r < row + rows; r++) sum[r] = 1 / sum[r];
        level().scale_add(slopes + row * k, sum + row, part, rows, k);
      }
    }
  };

  Layer layer_;
};

} // namespace
} // namespace gomlx

using namespace gomlx;

int gomlx_cross_entropy(mlx_array* out, mlx_array* slopes, mlx_array x_, const gomlx_linear* layer, mlx_array targets, mlx_stream s) {
  return guarded([&] {
    const array& x = unwrap(x_);
    at_least_one_axis(x);
    type_of(x.dtype(), "x");
    if (x.ndim() != 2) refuse("x is not [rows, inputs]");
    std::vector<array> inputs{x, unwrap(targets)};
    want_type(inputs[1], mx::int32, "targets");
    if (inputs[1].shape() != Shape{x.shape(0)}) refuse("targets do not fit the rows");
    const Layer l = take(*layer, x.shape(1), inputs);
    if (l.bias >= 0) refuse("a cross entropy of a layer with a bias");
    std::vector<Shape> shapes{{x.shape(0)}};
    if (slopes) shapes.push_back(x.shape());
    auto outs = array::make_arrays(shapes, std::vector<Dtype>(shapes.size(), mx::float32), std::make_shared<Entropy>(unwrap(s), l), inputs);
    give(out, outs[0]);
    if (slopes) give(slopes, outs[1]);
  });
}

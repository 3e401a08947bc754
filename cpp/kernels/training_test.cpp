// Tests of the kernels of training against the same sums in double precision, with sizes that fit no vector.
#include "testing.h"

static const Type types[] = {Type::f32, Type::f16, Type::bf16};
static Type any_type() { return types[whole(0, 2)]; }

static float* floats(Numbers& n) { return (float*)n.bytes.data(); }
static std::string number(double v) { return std::to_string(v); }

// Compares a number with what it should be, give or take some share of `magnitude`, the sum of its terms without their signs.
static void near(double got, double want, double magnitude, Type type, const char* what) {
  check(std::fabs(got - want) <= 1e-6 + 1e-5 * magnitude + step_of(type) * std::fabs(want), std::string(what) + ": " + number(got) + ", want " + number(want));
}

// Matrices of every kind one below the other, some of them packed and interleaved, transposed.
static void test_transpose(const Level& level, Type type) {
  const long k = 128 * whole(0, 1) + (whole(0, 1) ? 128 : whole(1, 90));
  std::vector<Weights> weights;
  std::vector<Matrix> parts;
  long rows = 0;
  for (long n = whole(1, 3), i = 0; i < n; i++) {
    const int bits = k % 128 ? 0 : "\0\2\3\4\5\6\10"[whole(0, 6)], group = bits == 4 ? 32 : 16 << whole(0, 3);
    weights.emplace_back(bits ? scale_type() : any_type(), whole(0, 1) ? whole(1, 100) : 32 * whole(1, 3), k, bits, bits ? group : 1, whole(0, 1));
    if (bits && whole(0, 1)) {
      interleave(weights.back().m);
      weights.back().m.interleaved = true;
    }
    rows += weights.back().m.rows;
  }
  for (auto& w : weights) parts.push_back(w.m);
  where = std::string(level.name) + " transpose " + std::to_string(rows) + " by " + std::to_string(k);
  Numbers out(type, k * rows);
  level.transpose(parts.data(), int(parts.size()), out.bytes.data(), type);
  long before = 0;
  for (auto& w : weights) {
    for (long r = 0; r < w.m.rows; r++)
      for (long i = 0; i < k; i++) near(out.at(i * rows + before + r), w.values[r * k + i], 0, type, "transposed");
    before += w.m.rows;
  }
}

static void test_conversions(const Level& level, Type type) {
  const long n = whole(0, 3) ? whole(1, 200) : whole(16000, 40000); // of one piece, or of several
  where = std::string(level.name) + " conversions of " + std::to_string(n);
  Numbers wide(Type::f32, n, -5, 5), small(type, n), again(Type::f32, n);
  level.narrow(floats(wide), small.bytes.data(), n, type);
  level.widen(small.bytes.data(), floats(again), n, type);
  for (long i = 0; i < n; i++) {
    check(std::fabs(small.at(i) - wide.values[i]) <= step_of(type) * 1.001 * std::fabs(wide.values[i]) + 1e-7, "narrowed");
    check(small.at(i) == again.at(i), "widened");
  }
}

// What a LoRA adds, and what comes back through it to x, A and B.
static void test_low_rank(const Level& level, Type type) {
  const long m = whole(1, 50), columns = whole(1, 120), rows = whole(1, 120), rank = whole(1, 20), stride = rows + whole(0, 9);
  const float scale = float(uniform(0.5, 3));
  where = std::string(level.name) + " low rank m=" + std::to_string(m) + " columns=" + std::to_string(columns) + " rows=" + std::to_string(rows) + " rank=" + std::to_string(rank);
  Numbers a(Type::f32, rank * columns), b(Type::f32, rank * rows), x(type, m * columns), y(Type::f32, m * stride), dy(Type::f32, m * stride), dx(Type::f32, m * columns);
  const Numbers y_before = y, dx_before = dx;
  const LowRank of{floats(a), floats(b), rank, columns, rows, scale};
  level.add_low_rank(AddLowRank{of, x.bytes.data(), type, m, floats(y), stride});
  Numbers da(Type::f32, columns * rank), db(Type::f32, rank * rows);
  std::vector<float> work(rank * (2 * m + columns));
  const bool inward = whole(0, 3) > 0;
  level.back_low_rank(BackLowRank{of, x.bytes.data(), type, m, floats(dy), stride, inward ? floats(dx) : nullptr, floats(da), floats(db), work.data()});

  std::vector<double> z(m * rank), dz(m * rank), sizes(m * rank), dsizes(m * rank); // x A and dy B^T, and the same without signs
  for (long i = 0; i < m; i++)
    for (long r = 0; r < rank; r++) {
      for (long c = 0; c < columns; c++) z[i * rank + r] += x.values[i * columns + c] * a.values[r * columns + c], sizes[i * rank + r] += std::fabs(x.values[i * columns + c] * a.values[r * columns + c]);
      for (long c = 0; c < rows; c++) dz[i * rank + r] += dy.values[i * stride + c] * b.values[r * rows + c], dsizes[i * rank + r] += std::fabs(dy.values[i * stride + c] * b.values[r * rows + c]);
    }
  for (long i = 0; i < m; i++) {
    for (long c = 0; c < stride; c++) {
      double want = y_before.values[i * stride + c], size = std::fabs(want);
      for (long r = 0; c < rows && r < rank; r++) want += scale * z[i * rank + r] * b.values[r * rows + c], size += scale * sizes[i * rank + r] * std::fabs(b.values[r * rows + c]);
      near(y.at(i * stride + c), want, size, Type::f32, "y");
    }
    for (long c = 0; c < columns; c++) {
      double want = dx_before.values[i * columns + c], size = std::fabs(want);
      for (long r = 0; inward && r < rank; r++) want += scale * dz[i * rank + r] * a.values[r * columns + c], size += scale * dsizes[i * rank + r] * std::fabs(a.values[r * columns + c]);
      near(dx.at(i * columns + c), want, size, Type::f32, "dx");
    }
  }
  for (long r = 0; r < rank; r++) {
    for (long c = 0; c < columns; c++) {
      double want = 0, size = 0;
      for (long i = 0; i < m; i++) want += scale * dz[i * rank + r] * x.values[i * columns + c], size += scale * dsizes[i * rank + r] * std::fabs(x.values[i * columns + c]);
      near(da.at(c * rank + r), want, size, Type::f32, "dA");
    }
    for (long c = 0; c < rows; c++) {
      double want = 0, size = 0;
      for (long i = 0; i < m; i++) want += scale * z[i * rank + r] * dy.values[i * stride + c], size += scale * sizes[i * rank + r] * std::fabs(dy.values[i * stride + c]);
      near(db.at(r * rows + c), want, size, Type::f32, "dB");
    }
  }
}

// The gradient of a row x where d is that of norm(x) times its weight.
static std::vector<double> back_norm(const std::vector<double>& x, const std::vector<double>& d, double eps) {
  const long n = long(x.size());
  double squares = 0, along = 0;
  for (long i = 0; i < n; i++) squares += x[i] * x[i], along += x[i] * d[i];
  const double inverse = 1 / std::sqrt(squares / double(n) + eps);
  std::vector<double> out(n);
  for (long i = 0; i < n; i++) out[i] = inverse * d[i] - x[i] * inverse * inverse * inverse * along / double(n);
  return out;
}

static double most_of(const std::vector<double>& x) {
  double most = 0;
  for (double v : x) most = std::max(most, std::fabs(v));
  return most;
}

static void test_back_add_norm(const Level& level, Type type) {
  const long rows = whole(1, 20), n = whole(1, 150);
  const bool clip = whole(0, 1), summed = whole(0, 3) > 0, post = summed && whole(0, 1), from_sum = whole(0, 2) > 0, from_norm = !from_sum || whole(0, 2) > 0;
  const double eps = 1e-5;
  where = std::string(level.name) + " back through a sum and its norm, n=" + std::to_string(n);
  Numbers sum(type, rows * n, -3, 3), next(type, n), dsum(type, rows * n), dnormed(type, rows * n), y(Type::f32, rows * n, -3, 3), after(type, n), dh(type, rows * n), dy(Type::f32, rows * n);
  if (clip)
    for (long i = 0; i < rows * n; i += whole(1, 40)) sum.put(i, whole(0, 1) ? 65504 : -65504);
  level.back_add_norm(BackAddNorm{sum.bytes.data(), next.bytes.data(), from_sum ? dsum.bytes.data() : nullptr, from_norm ? dnormed.bytes.data() : nullptr, floats(y),
                                  post ? after.bytes.data() : nullptr, float(eps), clip, rows, n, type, dh.bytes.data(), summed ? floats(dy) : nullptr});
  for (long r = 0; r < rows; r++) {
    std::vector<double> total(n), x(n), d(n);
    for (long i = 0; i < n; i++) x[i] = sum.values[r * n + i], d[i] = dnormed.values[r * n + i] * next.values[i];
    if (from_norm) total = back_norm(x, d, eps);
    for (long i = 0; i < n; i++) {
      if (from_sum) total[i] += dsum.values[r * n + i];
      if (clip && std::fabs(x[i]) >= 65504) total[i] = 0;
    }
    double size = most_of(total) + 1;
    for (long i = 0; i < n; i++) near(dh.at(r * n + i), total[i], size, type, "dh");
    if (!summed) continue;
    if (post) {
      for (long i = 0; i < n; i++) x[i] = y.values[r * n + i], d[i] = total[i] * after.values[i];
      total = back_norm(x, d, eps);
      size += most_of(total) + most_of(d) / std::sqrt(eps + most_of(x) * most_of(x) / double(n));
    }
    for (long i = 0; i < n; i++) near(dy.at(r * n + i), total[i], size, Type::f32, "dy");
  }
}

static void test_back_gate(const Level& level, Type type) {
  const long rows = whole(1, 20), n = whole(1, 150);
  const Gate kind = whole(0, 1) ? Gate::gelu : Gate::silu;
  where = std::string(level.name) + " back through a gate, n=" + std::to_string(n);
  Numbers gate_up(Type::f32, rows * 2 * n, -6, 6), dout(type, rows * n), back(Type::f32, rows * 2 * n);
  level.back_gate(floats(gate_up), dout.bytes.data(), floats(back), rows, n, kind, type);
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < n; i++) {
      const double g = gate_up.values[2 * r * n + i], u = gate_up.values[2 * r * n + n + i], d = dout.values[r * n + i];
      const double inner = kind == Gate::gelu ? 1.5957691216057308 * (g + 0.044715 * g * g * g) : g, slope = kind == Gate::gelu ? 1.5957691216057308 * (1 + 3 * 0.044715 * g * g) : 1;
      const double sigmoid = 1 / (1 + std::exp(-inner));
      near(back.at(2 * r * n + n + i), g * sigmoid * d, std::fabs(g * d), Type::f32, "d up");
      near(back.at(2 * r * n + i), (sigmoid + g * slope * sigmoid * (1 - sigmoid)) * u * d, (1 + std::fabs(g * slope)) * std::fabs(u * d), Type::f32, "d gate");
    }
}

// The cross entropy of a vocabulary that comes in pieces, and sums that are scaled as the largest logit moves.
static void test_entropy(const Level& level, Type type) {
  const long m = whole(1, 12), vocab = whole(1, 300), width = whole(1, 90);
  where = std::string(level.name) + " entropy of " + std::to_string(vocab) + " by " + std::to_string(width);
  Numbers logits(Type::f32, m * vocab, -20, 20), sums(Type::f32, m * vocab);
  std::vector<int32_t> targets;
  for (long r = 0; r < m; r++) targets.push_back(int32_t(whole(0, vocab - 1)));
  std::vector<float> most(m, -INFINITY), sum(m), keep(m), target(m), total(m), zero(m);
  for (long first = 0; first < vocab; first += width) {
    const long count = std::min(width, vocab - first);
    std::vector<float> piece(m * count);
    for (long r = 0; r < m; r++)
      for (long i = 0; i < count; i++) piece[r * count + i] = float(logits.values[r * vocab + first + i]);
    Numbers weights(type, m * count);
    const bool wanted = whole(0, 1);
    level.entropy_piece(EntropyPiece{piece.data(), m, first, count, targets.data(), most.data(), sum.data(), keep.data(), target.data(), wanted ? weights.bytes.data() : nullptr, type});
    std::vector<float> added(m);
    for (long r = 0; r < m; r++)
      for (long i = 0; i < count; i++) {
        const double want = std::exp(piece[r * count + i] - most[r]);
        if (wanted) near(weights.at(r * count + i), want, want, type, "weight");
        added[r] += float(want);
      }
    level.scale_add(total.data(), keep.data(), added.data(), m, 1);
  }
  for (long r = 0; r < m; r++) {
    double top = -1e300, all = 0;
    for (long i = 0; i < vocab; i++) top = std::max(top, logits.values[r * vocab + i]);
    for (long i = 0; i < vocab; i++) all += std::exp(logits.values[r * vocab + i] - top);
    check(most[r] == float(top), "the largest logit");
    check(target[r] == float(logits.values[r * vocab + targets[r]]), "the target's logit");
    near(sum[r], all, all, Type::f32, "sum");
    near(total[r], all, all, Type::f32, "sum of what was scaled");
  }
  const long n = whole(1, 70);
  Numbers to(Type::f32, m * n), factor(Type::f32, m), plus(Type::f32, m * n);
  const Numbers before = to;
  level.scale_add(floats(to), floats(factor), floats(plus), m, n);
  for (long i = 0; i < m * n; i++) near(to.at(i), before.values[i] * factor.values[i / n] + plus.values[i], 1, Type::f32, "scaled and added");
}

// Back through attention: queries, keys and values as the kernel rounds them, everything else in double precision.
static void test_back_attention(const Level& level, Type type) {
  const long rows = whole(1, 2), kv = whole(1, 2), group = whole(1, 3), heads = kv * group, d = 2 * whole(1, 30), tokens = whole(1, 30), slots = heads + 2 * kv;
  const long window = whole(0, 1) ? whole(1, 12) : 1000;
  const bool normed = whole(0, 1), neighbours = whole(0, 1);
  const double eps = 1e-5;
  const float scale = float(1 / std::sqrt(double(d)));
  where = std::string(level.name) + " back through attention heads=" + std::to_string(heads) + "/" + std::to_string(kv) + " d=" + std::to_string(d) + " tokens=" + std::to_string(tokens);
  Numbers qkv(Type::f32, rows * tokens * slots * d, -2, 2), rotation(Type::f32, rows * tokens * d), q_norm(type, d, 0.5, 1.5), k_norm(type, d, 0.5, 1.5);
  for (long t = 0; t < rows * tokens; t++)
    for (long i = 0; i < d / 2; i++) {
      const double angle = double(t % tokens) * std::pow(100., -2. * double(i) / double(d));
      rotation.put(t * d + i, std::cos(angle)), rotation.put(t * d + d / 2 + i, std::sin(angle));
    }
  std::vector<Visible> visible; // now and then two ranges, and a token that sees nothing
  for (long t = 0; t < rows * tokens; t++) {
    const int32_t at = int32_t(t % tokens), from = int32_t(std::max(0L, at - window + 1)), cut = int32_t(whole(from, at));
    if (whole(0, 15) == 0) visible.push_back({0, {0, 0}, {0, 0}});
    else if (whole(0, 2) == 0 && cut > from + 1) visible.push_back({0, {from, cut}, {cut - 1, at + 1}});
    else visible.push_back({0, {from, 0}, {at + 1, 0}});
  }
  const std::vector<Past> past(rows, Past{nullptr, nullptr, 1, 0, 0});
  Numbers own(type, rows * tokens * slots * d), dout(type, rows * tokens * heads * d), back(Type::f32, rows * tokens * slots * d);
  const Attention of{floats(qkv), floats(rotation), normed ? q_norm.bytes.data() : nullptr, normed ? k_norm.bytes.data() : nullptr, float(eps), scale, neighbours,
                     rows, tokens, heads, kv, d, type, visible.data(), past.data(), own.bytes.data(), nullptr};
  std::vector<float> work(units_at_once(of) * 2 * group * tokens * tokens);
  level.back_attention(BackAttention{of, dout.bytes.data(), floats(back), work.data()});

  std::vector<double> want(rows * tokens * slots * d);
  for (long row = 0; row < rows; row++)
    for (long h = 0; h < heads; h++) {
      auto place = [&](long t, long slot) { return ((row * tokens + t) * slots + slot) * d; };
      const long key = heads + h / group, value = key + kv;
      for (long q = 0; q < tokens; q++) {
        const Visible& v = visible[row * tokens + q];
        std::vector<double> p(tokens), dp(tokens);
        auto sees = [&](long k) { return (k >= v.first[0] && k < v.last[0]) || (k >= v.first[1] && k < v.last[1]); };
        double sum = 0, mean = 0;
        for (long k = 0; k < tokens; k++) {
          if (!sees(k)) continue;
          for (long i = 0; i < d; i++) p[k] += own.at(place(q, h) + i) * own.at(place(k, key) + i) * scale, dp[k] += dout.values[((row * tokens + q) * heads + h) * d + i] * own.at(place(k, value) + i);
          sum += p[k] = std::exp(p[k]);
        }
        for (long k = 0; k < tokens; k++)
          if (sees(k)) mean += dp[k] * (p[k] /= sum);
        for (long k = 0; k < tokens; k++) {
          if (!sees(k)) continue;
          const double slope = p[k] * (dp[k] - mean) * scale;
          for (long i = 0; i < d; i++) {
            want[place(q, h) + i] += slope * own.at(place(k, key) + i);
            want[place(k, key) + i] += slope * own.at(place(q, h) + i);
            want[place(k, value) + i] += p[k] * dout.values[((row * tokens + q) * heads + h) * d + i];
          }
        }
      }
    }
  for (long t = 0; t < rows * tokens; t++)
    for (long slot = 0; slot < slots; slot++) {
      const long at = (t * slots + slot) * d;
      std::vector<double> g(want.begin() + at, want.begin() + at + d), x(d);
      if (slot < heads + kv) {
        for (long i = 0; i < d / 2; i++) { // the other way round
          const long a = neighbours ? 2 * i : i, b = neighbours ? 2 * i + 1 : i + d / 2;
          const double c = rotation.values[t * d + i], s = rotation.values[t * d + d / 2 + i], first = g[a];
          g[a] = first * c + g[b] * s, g[b] = g[b] * c - first * s;
        }
        if (normed) {
          for (long i = 0; i < d; i++) x[i] = qkv.values[at + i], g[i] *= (slot < heads ? q_norm : k_norm).values[i];
          g = back_norm(x, g, eps);
        }
      }
      for (long i = 0; i < d; i++) check(std::fabs(back.at(at + i) - g[i]) <= 1e-4 * (1 + most_of(g)), "what comes back: " + number(back.at(at + i)) + ", want " + number(g[i]));
    }
}

void test_training(const Level& level, Type type) {
  pool_set_threads(threads[whole(0, 2)]);
  test_transpose(level, type);
  test_conversions(level, type);
  test_low_rank(level, type);
  test_back_add_norm(level, type);
  test_back_gate(level, type);
  test_entropy(level, type);
  test_back_attention(level, type);
}

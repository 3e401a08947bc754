// Tests of the kernels without MLX: every level of this processor against sums in double precision, and a row's bits alone and
// in a batch, on one thread and on several. Run it natively, and for arm64 under an emulator: see `make test-kernels`.
#include "testing.h"

// Products of rows of every number with weights of every kind.
static void test_product(const Level& level, Type type, int bits) {
  const int group = bits == 4 ? 32 << whole(0, 2) : bits ? 16 << whole(0, 3) : 1;
  const long k = bits ? (group == 16 ? 32 : group) * whole(1, 5) : whole(1, 3) == 1 ? whole(1, 200) : 32 * whole(1, 8);
  const long m = whole(1, 4) == 1 ? whole(17, 70) : whole(1, 16);
  const bool gated = whole(0, 3) == 0;
  const int parts = gated ? 2 : int(whole(1, 3));
  std::vector<Weights> weights;
  std::vector<Matrix> matrices;
  auto rows_of = [] { return whole(0, 1) ? 16 * whole(1, 6) : whole(1, 4) == 1 ? whole(1, 3) : whole(1, 100); };
  long outputs = 0, first = rows_of();
  for (int i = 0; i < parts; i++) {
    const int other = i == 1 && gated && bits && group > 16 && whole(0, 2) == 0 ? "\2\3\4\5\6\10"[whole(0, 5)] : bits; // halves of a gate may differ
    weights.emplace_back(bits ? scale_type() : type, gated ? first : rows_of(), k, other, group, whole(0, 2) > 0);
  }
  std::vector<Numbers> biases;
  std::vector<const void*> bias;
  for (auto& w : weights) {
    matrices.push_back(w.m);
    outputs += w.m.rows;
    biases.emplace_back(type, w.m.rows);
  }
  for (int i = 0; i < parts; i++) bias.push_back(whole(0, 1) ? biases[i].bytes.data() : nullptr);
  if (gated) outputs = first;
  const Gate gate = gated ? (whole(0, 1) ? Gate::gelu : Gate::silu) : Gate::none;
  Numbers x(type, m * k);
  const Type out_type = whole(0, 1) ? type : Type::f32;
  where = std::string(level.name) + " product m=" + std::to_string(m) + " k=" + std::to_string(k) + " bits=" + std::to_string(bits) + " type=" + std::to_string(int(type));
  Numbers out(out_type, m * outputs), again(out_type, m * outputs);
  const bool many = whole(0, 1); // another way for packed weights, on some levels
  where += many ? " many" : "";
  auto run = [&](long from, long rows, Numbers& to) {
    level.product(Product{x.bytes.data() + from * k * size_of(type), type, rows, k, matrices.data(), bias.data(), parts, gate,
                          to.bytes.data() + from * outputs * size_of(out_type), out_type, outputs, many});
  };
  pool_set_threads(threads[whole(0, 2)]);
  run(0, m, out);
  // For packed weights x is made integers, on some levels.
  const bool integers = bits && type != Type::f32;
  const double relative = 4e-6;
  for (long i = 0; i < m; i++) {
    std::vector<double> all, errors;
    for (int p = 0; p < parts; p++)
      for (long n = 0; n < weights[p].m.rows; n++) {
        double sum = bias[p] ? biases[p].values[n] : 0, magnitude = std::fabs(sum), rounded = 0;
        for (long j = 0; j < k; j++) {
          double term = x.values[i * k + j] * weights[p].values[n * k + j];
          sum += term, magnitude += std::fabs(term);
          if (integers) rounded += largest(x, i * k + j / group * group, group) / (2 * 2039) * std::fabs(weights[p].values[n * k + j]);
        }
        all.push_back(sum), errors.push_back(magnitude * relative + rounded);
      }
    for (long n = 0; n < outputs; n++) {
      double want = all[n], allowed = errors[n] + 1e-6;
      if (gated) {
        double g = all[n], u = gate == Gate::gelu ? 1.5957691216057308 * (g + 0.044715 * g * g * g) : g;
        double slope = 1.2 * std::fabs(all[outputs + n]) + std::fabs(g) + 1;
        want = g / (1 + std::exp(-u)) * all[outputs + n];
        allowed = slope * (allowed + errors[outputs + n]) + 1e-5;
      }
      allowed += std::fabs(want) * step_of(out_type);
      double got = out.at(i * outputs + n);
      check(std::fabs(got - want) <= allowed, "row " + std::to_string(i) + " output " + std::to_string(n) + ": " + std::to_string(got) + ", want " + std::to_string(want));
    }
  }
  // The same rows one by one, and in two parts, on another number of threads.
  pool_set_threads(threads[whole(0, 2)]);
  for (long i = 0; i < m; i++) run(i, 1, again);
  check(std::memcmp(out.bytes.data(), again.bytes.data(), out.bytes.size()) == 0, "a row alone has other bits than in a batch");
  long cut = whole(0, m - 1);
  if (cut > 0) run(0, cut, again);
  run(cut, m - cut, again);
  check(std::memcmp(out.bytes.data(), again.bytes.data(), out.bytes.size()) == 0, "rows in two parts have other bits than together");
  // Some of the weights interleaved.
  for (auto& matrix : matrices)
    if (bits && whole(0, 3)) {
      interleave(matrix);
      matrix.interleaved = true;
    }
  run(0, m, again);
  check(std::memcmp(out.bytes.data(), again.bytes.data(), out.bytes.size()) == 0, "interleaved weights give other bits");
  if (cut > 0) run(0, cut, again);
  run(cut, m - cut, again);
  check(std::memcmp(out.bytes.data(), again.bytes.data(), out.bytes.size()) == 0, "rows in two parts have other bits with interleaved weights");
}

static void test_scores(const Level& level, Type type, int bits) {
  const int group = bits ? 64 : 1;
  const long k = bits ? 64 * whole(1, 3) : 32 * whole(1, 4), n = whole(1, 1500), m = whole(1, 40);
  Weights w(bits ? scale_type() : type, n, k, bits, group, whole(0, 1));
  Numbers x(type, m * k);
  std::vector<int32_t> rows, ids;
  for (int32_t id = 0; id < n; id += int32_t(whole(1, 60))) {
    ids.push_back(id);
    rows.push_back(int32_t(whole(0, m - 1)));
  }
  std::vector<float> out(ids.size()), again(ids.size());
  where = std::string(level.name) + " scores m=" + std::to_string(m) + " n=" + std::to_string(n) + " bits=" + std::to_string(bits);
  pool_set_threads(2);
  level.scores(Scores{x.bytes.data(), type, m, k, w.m, rows.data(), ids.data(), long(ids.size()), out.data()});
  for (size_t i = 0; i < ids.size(); i++) {
    double most = -1e300, sum = 0, picked = 0;
    std::vector<double> logits(n);
    for (long j = 0; j < n; j++) {
      for (long c = 0; c < k; c++) logits[j] += x.values[rows[i] * k + c] * w.values[j * k + c];
      most = std::max(most, logits[j]);
    }
    for (double l : logits) sum += std::exp(l - most);
    picked = logits[ids[i]] - most - std::log(sum);
    check(std::fabs(out[i] - picked) <= (bits && type != Type::f32 ? 0.02 : 2e-4) + 1e-5 * std::fabs(picked), "score " + std::to_string(out[i]) + ", want " + std::to_string(picked));
  }
  pool_set_threads(1);
  for (size_t i = 0; i < ids.size(); i++) {
    int32_t zero = 0;
    level.scores(Scores{x.bytes.data() + rows[i] * k * size_of(type), type, 1, k, w.m, &zero, &ids[i], 1, &again[i]});
  }
  check(std::memcmp(out.data(), again.data(), out.size() * 4) == 0, "a row alone scores other bits than in a batch");
}

// Attention of several tokens at once against the same tokens one by one with kept keys, and against double precision.
static void test_attention(const Level& level, Type type) {
  const long kv = whole(1, 2), heads = kv * whole(1, 5), d = 2 * whole(4, 70), tokens = whole(1, 40), slots = heads + 2 * kv;
  const long window = whole(0, 1) ? whole(1, 20) : 1000, eps_norm = whole(0, 1);
  const bool neighbours = whole(0, 3) == 0;
  where = std::string(level.name) + " attention heads=" + std::to_string(heads) + "/" + std::to_string(kv) + " d=" + std::to_string(d) + " tokens=" + std::to_string(tokens) + " window=" + std::to_string(window);
  std::vector<float> qkv(tokens * slots * d), rotation(tokens * d);
  for (auto& v : qkv) v = float(uniform(-2, 2));
  for (long t = 0; t < tokens; t++)
    for (long i = 0; i < d / 2; i++) {
      double angle = double(t) * std::pow(100., -2. * double(i) / double(d));
      rotation[t * d + i] = float(std::cos(angle)), rotation[t * d + d / 2 + i] = float(std::sin(angle));
    }
  Numbers q_norm(type, d, 0.5, 1.5), k_norm(type, d, 0.5, 1.5);
  const float scale = float(1 / std::sqrt(double(d)));
  auto visible = [&](long t, long past) {
    long from = std::max(0L, t - window + 1);
    Visible v{};
    v.past = int32_t(std::min(from, past));
    v.first[0] = int32_t(std::max(0L, from - past)), v.last[0] = int32_t(t - past + 1);
    if (from > past) v.past = int32_t(past);
    return v;
  };
  const long size = size_of(type);
  auto run = [&](long from, long count, const std::vector<Visible>& v, const Past& past, char* own, char* out) {
    level.attention(Attention{qkv.data() + from * slots * d, rotation.data() + from * d, eps_norm ? q_norm.bytes.data() : nullptr, eps_norm ? k_norm.bytes.data() : nullptr,
                              1e-6f, scale, neighbours, 1, count, heads, kv, d, type, v.data(), &past, own, out});
  };
  Numbers out(type, tokens * heads * d), again(type, tokens * heads * d), own(type, tokens * slots * d), kept(type, slots * d);
  std::vector<Visible> all;
  for (long t = 0; t < tokens; t++) all.push_back(visible(t, 0));
  pool_set_threads(3);
  run(0, tokens, all, Past{nullptr, nullptr, 1, 0, 0}, own.bytes.data(), out.bytes.data());
  // One by one, with a room of just the window: positions go round in it.
  const long room = std::min(window, tokens);
  std::vector<char> keys(kv * room * d * size), values(kv * room * d * size);
  pool_set_threads(2);
  for (long t = 0; t < tokens; t++) {
    Past past{keys.data(), values.data(), room, t, 0};
    run(t, 1, {visible(t, t)}, past, kept.bytes.data(), again.bytes.data() + t * heads * d * size);
    for (long h = 0; h < kv; h++) {
      std::memcpy(&keys[(h * room + t % room) * d * size], &kept.bytes[(heads + h) * d * size], d * size);
      std::memcpy(&values[(h * room + t % room) * d * size], &kept.bytes[(heads + kv + h) * d * size], d * size);
    }
  }
  check(std::memcmp(out.bytes.data(), again.bytes.data(), out.bytes.size()) == 0, "tokens one by one have other bits than together");
  // With sinks: the first positions stay, and the rest goes round in less than a window; in one pass these are two ranges of its tokens.
  const long sinks = whole(1, 5), small = sinks + whole(1, 10);
  std::vector<char> few_keys(kv * small * d * size), few_values(kv * small * d * size);
  Numbers bounded(type, tokens * heads * d), whole_bounded(type, tokens * heads * d);
  std::vector<Visible> seen;
  for (long t = 0; t < tokens; t++) {
    Past past{few_keys.data(), few_values.data(), small, t, sinks};
    Visible own_only{0, {0, 0}, {1, 0}};
    run(t, 1, {own_only}, past, kept.bytes.data(), bounded.bytes.data() + t * heads * d * size);
    for (long h = 0; h < kv; h++) {
      std::memcpy(&few_keys[(h * small + past.place(t)) * d * size], &kept.bytes[(heads + h) * d * size], d * size);
      std::memcpy(&few_values[(h * small + past.place(t)) * d * size], &kept.bytes[(heads + kv + h) * d * size], d * size);
    }
    if (t <= small) seen.push_back({0, {0, 0}, {int32_t(t + 1), 0}});
    else seen.push_back({0, {0, int32_t(t - (small - sinks))}, {int32_t(sinks), int32_t(t + 1)}});
  }
  run(0, tokens, seen, Past{nullptr, nullptr, 1, 0, 0}, own.bytes.data(), whole_bounded.bytes.data());
  check(std::memcmp(bounded.bytes.data(), whole_bounded.bytes.data(), bounded.bytes.size()) == 0, "sinks and a round have other bits than two ranges");
  for (long t = 0; t < tokens; t++)
    for (long h = 0; h < heads; h++) {
      std::vector<double> p(t + 1);
      double most = -1e300, sum = 0;
      for (long j = std::max(0L, t - window + 1); j <= t; j++) {
        for (long i = 0; i < d; i++) p[j] += own.at((t * slots + h) * d + i) * own.at((j * slots + heads + h / (heads / kv)) * d + i);
        most = std::max(most, p[j] *= scale);
      }
      for (long j = std::max(0L, t - window + 1); j <= t; j++) sum += p[j] = std::exp(p[j] - most);
      for (long i = 0; i < d; i++) {
        double want = 0;
        for (long j = std::max(0L, t - window + 1); j <= t; j++) want += p[j] / sum * own.at((j * slots + heads + kv + h / (heads / kv)) * d + i);
        double got = out.at((t * heads + h) * d + i);
        check(std::fabs(got - want) <= 2e-5 + 2 * step_of(type) * std::fabs(want), "token " + std::to_string(t) + ": " + std::to_string(got) + ", want " + std::to_string(want));
      }
    }
  // Norm and rotation of a query and of a key.
  for (long t = 0; t < tokens; t++)
    for (long slot : {0L, heads}) {
      std::vector<double> x(d), y(d);
      double squares = 0;
      for (long i = 0; i < d; i++) squares += std::pow(x[i] = qkv[(t * slots + slot) * d + i], 2);
      if (eps_norm)
        for (long i = 0; i < d; i++) x[i] *= (slot == 0 ? q_norm : k_norm).values[i] / std::sqrt(squares / double(d) + 1e-6);
      for (long i = 0; i < d / 2; i++) {
        long a = neighbours ? 2 * i : i, b = neighbours ? 2 * i + 1 : i + d / 2;
        double c = rotation[t * d + i], s = rotation[t * d + d / 2 + i];
        y[a] = x[a] * c - x[b] * s, y[b] = x[b] * c + x[a] * s;
      }
      for (long i = 0; i < d; i++)
        check(std::fabs(own.at((t * slots + slot) * d + i) - y[i]) <= 1e-5 + step_of(type) * std::fabs(y[i]), "rotated query or key");
    }
}

static void test_rows(const Level& level, Type type) {
  const long rows = whole(1, 40), n = whole(1, 300);
  where = std::string(level.name) + " rows n=" + std::to_string(n) + " type=" + std::to_string(int(type));
  pool_set_threads(threads[whole(0, 2)]);
  Numbers h(type, rows * n, -3, 3), post(type, n), next(type, n), sum(type, rows * n), normed(type, rows * n), plain(type, rows * n);
  Numbers y(Type::f32, rows * n, -3, 3);
  const bool posted = whole(0, 1);
  level.add_norm(AddNorm{h.bytes.data(), (const float*)y.bytes.data(), posted ? post.bytes.data() : nullptr, next.bytes.data(), 1e-5f, false, rows, n, type, sum.bytes.data(), normed.bytes.data()});
  level.rms_norm(sum.bytes.data(), next.bytes.data(), plain.bytes.data(), rows, n, 1e-5f, type);
  check(plain.bytes == normed.bytes, "the norm of a sum differs from the norm alone");
  auto inverse = [&](auto value) {
    double s = 0;
    for (long i = 0; i < n; i++) s += value(i) * value(i);
    return 1 / std::sqrt(s / double(n) + 1e-5);
  };
  for (long r = 0; r < rows; r++) {
    double a = posted ? inverse([&](long i) { return y.values[r * n + i]; }) : 1;
    double b = inverse([&](long i) { return sum.at(r * n + i); });
    for (long i = 0; i < n; i++) {
      double want = h.values[r * n + i] + y.values[r * n + i] * a * (posted ? post.values[i] : 1);
      check(std::fabs(sum.at(r * n + i) - want) <= 1e-5 + step_of(type) * std::fabs(want), "sum");
      want = sum.at(r * n + i) * b * next.values[i];
      check(std::fabs(normed.at(r * n + i) - want) <= 1e-5 + step_of(type) * std::fabs(want), "norm");
    }
  }
  Numbers logits(Type::f32, rows * n, -30, 30), logprobs(Type::f32, rows * n);
  level.log_softmax((const float*)logits.bytes.data(), (float*)logprobs.bytes.data(), rows, n);
  for (long r = 0; r < rows; r++) {
    double most = -1e300, total = 0;
    for (long i = 0; i < n; i++) most = std::max(most, logits.values[r * n + i]);
    for (long i = 0; i < n; i++) total += std::exp(logits.values[r * n + i] - most);
    for (long i = 0; i < n; i++) check(std::fabs(logprobs.at(r * n + i) - (logits.values[r * n + i] - most - std::log(total))) <= 2e-5, "log softmax");
  }
  Numbers gates(Type::f32, rows * 2 * n, -8, 8), gated(type, rows * n);
  level.gate((const float*)gates.bytes.data(), gated.bytes.data(), rows, n, Gate::silu, type);
  for (long i = 0; i < rows * n; i++) {
    double g = gates.values[i / n * 2 * n + i % n], u = gates.values[i / n * 2 * n + n + i % n], want = g / (1 + std::exp(-g)) * u;
    check(std::fabs(gated.at(i) - want) <= 1e-5 + (1e-6 + step_of(type)) * std::fabs(want), "gate");
  }
  const int bits = "\0\2\3\4\5\6\10"[whole(0, 6)];
  Weights table(bits ? scale_type() : type, 48, bits ? 64 * whole(1, 3) : n, bits, 64, whole(0, 1));
  std::vector<int32_t> ids;
  for (long i = 0; i < rows; i++) ids.push_back(int32_t(whole(0, 47)));
  Numbers found(type, rows * table.m.columns);
  if (bits && whole(0, 1)) {
    interleave(table.m);
    table.m.interleaved = true;
  }
  level.lookup(table.m, ids.data(), rows, 2, found.bytes.data(), type);
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < table.m.columns; i++) {
      double want = 2 * table.values[ids[r] * table.m.columns + i];
      check(std::fabs(found.at(r * table.m.columns + i) - want) <= 1e-6 + step_of(type) * std::fabs(want), "lookup");
    }
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 60;
  for (const char* const* name = level_names(); *name; name++) {
    const Level& level = *find_level(*name);
    const int before = failures;
    for (int i = 0; i < rounds; i++)
      for (Type type : {Type::f32, Type::f16, Type::bf16}) {
        for (int bits : {0, 2, 3, 4, 5, 6, 8}) test_product(level, type, bits);
        test_scores(level, type, whole(0, 1) ? 4 : 0);
        test_attention(level, type);
        test_rows(level, type);
        test_training(level, type);
      }
    std::printf("%s: %s\n", *name, failures == before ? "ok" : "FAILED");
  }
  return failures ? 1 : 0;
}

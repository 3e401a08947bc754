// What is done row by row: norms, sums, gates, embeddings.
#pragma once

#include "pool.h"
#include "unpack.h"

namespace {

using gomlx::AddNorm;
using gomlx::Attention;
using gomlx::Gate;

// Calls f with a type as a constant.
template <class F> inline void with_type(Type type, F f) {
  switch (type) {
    case Type::f32: return f.template operator()<0>();
    case Type::f16: return f.template operator()<1>();
    case Type::bf16: return f.template operator()<2>();
  }
}

// Runs f(i) for rows 0 to n, on the pool where there are enough of them.
template <class F> inline void each_row(long n, long at_once, F f) {
  if (n <= at_once) {
    for (long i = 0; i < n; i++) f(i);
    return;
  }
  struct Rows { F* f; long n, at_once; } rows{&f, n, at_once};
  gomlx::pool_run((n + at_once - 1) / at_once, [](void* p, long chunk, int) {
    Rows& r = *(Rows*)p;
    for (long i = chunk * r.at_once, end = lesser(r.n, i + r.at_once); i < end; i++) (*r.f)(i);
  }, &rows);
}

// 1 / sqrt(mean(x^2) + eps), x read by load(i, n).
template <class Load> inline float inverse_rms(long n, float eps, Load load) {
  vf sum = vset(0);
  each_vector(n, [&](long i, long count) { vf v = load(i, count); sum = vfma(v, v, sum); });
  return 1.f / __builtin_sqrtf(vsum(sum) / float(n) + eps);
}

template <int type> void norm_row(const void* x, const void* weight, void* out, long n, float eps) {
  vf inverse = vset(inverse_rms(n, eps, [&](long i, long count) { return load_part<type>(x, i, count); }));
  each_vector(n, [&](long i, long count) {
    store_part<type>(out, i, load_part<type>(x, i, count) * inverse * load_part<type>(weight, i, count), count);
  });
}

void rms_norm(const void* x, const void* weight, void* out, long rows, long n, float eps, Type type) {
  with_type(type, [&]<int t>() {
    each_row(rows, 16, [&](long r) { norm_row<t>((const char*)x + r * n * bytes_of<t>, weight, (char*)out + r * n * bytes_of<t>, n, eps); });
  });
}

void add_norm(const AddNorm& a) {
  with_type(a.type, [&]<int t>() {
    each_row(a.rows, 16, [&](long r) {
      const void* h = (const char*)a.h + r * a.n * bytes_of<t>;
      const float* y = a.y + r * a.n;
      void* sum = (char*)a.sum + r * a.n * bytes_of<t>;
      vf inverse = vset(1);
      if (a.post) inverse = vset(inverse_rms(a.n, a.eps, [&](long i, long n) { return load_part<0>(y, i, n); }));
      each_vector(a.n, [&](long i, long n) {
        vf v = load_part<0>(y, i, n);
        if (a.post) v = v * inverse * load_part<t>(a.post, i, n);
        v = load_part<t>(h, i, n) + v;
        if (a.clip) v = vmin(vmax(v, vset(-65504)), vset(65504));
        store_part<t>(sum, i, v, n);
      });
      norm_row<t>(sum, a.next, (char*)a.normed + r * a.n * bytes_of<t>, a.n, a.eps);
    });
  });
}

// x sigmoid(x), or x Phi(x) in the tanh form: 0.5 x (1 + tanh(u)) = x / (1 + e^-2u).
inline vf activate(vf x, Gate gate) {
  vf u = x;
  if (gate == Gate::gelu) u = vset(1.5957691216057308f) * vfma(x * x * x, vset(0.044715f), x); // 2 sqrt(2 / pi)
  return x / (vset(1) + vexp(vset(0) - u));
}

void gate(const float* gate_up, void* out, long rows, long n, Gate kind, Type type) {
  with_type(type, [&]<int t>() {
    each_row(rows, 4, [&](long r) {
      const float* g = gate_up + 2 * r * n;
      each_vector(n, [&](long i, long count) {
        store_part<t>((char*)out + r * n * bytes_of<t>, i, activate(load_part<0>(g, i, count), kind) * load_part<0>(g + n, i, count), count);
      });
    });
  });
}

void lookup(const Matrix& table, const int32_t* ids, long count, float scale, void* out, Type type) {
  with_type(type, [&]<int t>() {
    each_row(count, 8, [&](long r) {
      float* row = (float*)gomlx::pool_scratch(gomlx::slot_panel, table.columns * 4);
      float_row(table, ids[r], row, table.columns);
      each_vector(table.columns, [&](long i, long n) {
        vf v = load_part<0>(row, i, n);
        if (table.bits) { // the weight as it would have been stored
          store_part<t>((char*)out + r * table.columns * bytes_of<t>, i, v, n);
          v = load_part<t>((char*)out + r * table.columns * bytes_of<t>, i, n);
        }
        store_part<t>((char*)out + r * table.columns * bytes_of<t>, i, v * vset(scale), n);
      });
    });
  });
}

// n numbers, and `fill` in the lanes after them.
inline vf load_filled(const float* p, long i, long n, float fill) {
  if (n == lanes) return vload(p + i);
  vf v = vset(fill);
  for (long l = 0; l < n; l++) v[l] = p[i + l];
  return v;
}

void log_softmax(const float* x, float* out, long rows, long n) {
  // Pieces of a fixed length, so that sums do not depend on threads.
  constexpr long piece = 16384;
  const long pieces = (n + piece - 1) / piece;
  struct Job { const float* x; float* out; long n, pieces; float *most, *sum; } job{x, out, n, pieces, nullptr, nullptr};
  job.most = (float*)gomlx::pool_scratch(gomlx::slot_partial, rows * pieces * 2 * sizeof(float));
  job.sum = job.most + rows * pieces;
  gomlx::pool_run(rows * pieces, [](void* p, long i, int) {
    Job& j = *(Job*)p;
    const long begin = i % j.pieces * piece, count = lesser(piece, j.n - begin);
    const float* x = j.x + i / j.pieces * j.n + begin;
    vf most = vset(-__builtin_inff());
    each_vector(count, [&](long k, long n) { most = vmax(most, load_filled(x, k, n, -__builtin_inff())); });
    float top = vmax_of(most);
    vf sum = vset(0);
    each_vector(count, [&](long k, long n) {
      sum = sum + vexp(load_filled(x, k, n, -__builtin_inff()) - vset(top));
    });
    j.most[i] = top, j.sum[i] = vsum(sum);
  }, &job);
  for (long r = 0; r < rows; r++) {
    float top = job.most[r * pieces];
    for (long i = 1; i < pieces; i++) top = job.most[r * pieces + i] > top ? job.most[r * pieces + i] : top;
    float sum = 0;
    for (long i = 0; i < pieces; i++) sum += job.sum[r * pieces + i] * __builtin_expf(job.most[r * pieces + i] - top);
    job.sum[r * pieces] = top + __builtin_logf(sum);
  }
  gomlx::pool_run(rows * pieces, [](void* p, long i, int) {
    Job& j = *(Job*)p;
    const long row = i / j.pieces, begin = i % j.pieces * piece, count = lesser(piece, j.n - begin);
    vf total = vset(j.sum[row * j.pieces]);
    each_vector(count, [&](long k, long n) {
      store_part<0>(j.out + row * j.n + begin, k, load_part<0>(j.x + row * j.n + begin, k, n) - total, n);
    });
  }, &job);
}

} // namespace

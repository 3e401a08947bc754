// The way back through linear layers, norms, gates and the cross entropy.
#pragma once

#include "dense.h"
#include "gradients.h"
#include "integers.h"
#include "square.h"

namespace {

using gomlx::AddLowRank;
using gomlx::BackAddNorm;
using gomlx::BackLowRank;
using gomlx::EntropyPiece;

// Matrices of the same columns, one below the other, transposed: out [columns, all rows] in type. What comes back through layers
// is a product with these. 32 rows at once are 64 bytes of bfloat16 in every row of the result: whole lines of the cache.
constexpr long transposed_rows = 32;

#if defined(__AVX512F__)
// 32 rows of plain bfloat16, 32 columns at a time as 16 pairs. Columns after the last whole 32 are left; the result is how many were done.
inline long transpose_pairs(const char* rows, long row_bytes, long n, long all, uint16_t* out) {
  alignas(64) uint16_t first[32], second[32]; // of the pairs of 32 rows, those of one column
  for (int i = 0; i < 32; i++) first[i] = uint16_t(2 * i), second[i] = uint16_t(2 * i + 1);
  const __m512i left = _mm512_load_si512(first), right = _mm512_load_si512(second);
  long k = 0;
  for (; k + 32 <= n; k += 32) {
    vi upper[16], lower[16];
    for (long i = 0; i < 16; i++) upper[i] = (vi)_mm512_loadu_si512(rows + i * row_bytes + 2 * k), lower[i] = (vi)_mm512_loadu_si512(rows + (16 + i) * row_bytes + 2 * k);
    transpose_square(upper);
    transpose_square(lower);
    for (long i = 0; i < 16; i++) {
      _mm512_storeu_si512(out + (k + 2 * i) * all, _mm512_permutex2var_epi16((__m512i)upper[i], left, (__m512i)lower[i]));
      _mm512_storeu_si512(out + (k + 2 * i + 1) * all, _mm512_permutex2var_epi16((__m512i)upper[i], right, (__m512i)lower[i]));
    }
  }
  return k;
}
#endif

#if defined(__AVX512F__)
// Interleaved rows, whole sixteens: of these a vector has one column already. Whether the rows are such.
template <int type> bool transpose_interleaved(const Matrix& w, long first, long count, long at, long all, char* out) {
  if (!w.bits || !Integers::takes(w.bits) || count % sixteen || !w.woven(first) || !w.woven(first + count - 1)) return false;
  with_bits<Integers::any_bits>(w.bits, [&]<int bits>() {
    with_type(w.type, [&]<int numbers>() {
      for (long g = 0; g < w.columns / w.group; g++)
        for (long u = g * w.group / 8; u < (g + 1) * w.group / 8; u++)
          for (long n = 0; n < count; n += sixteen) { // of both sixteens, so that whole lines of the cache are written
            const Rows16 rows = rows16(w, first + n, nullptr);
            const vf scale = load_as<numbers>(rows.scales, g * sixteen), bias = rows.biases ? load_as<numbers>(rows.biases, g * sixteen) : scale * vset(rows.middle);
            const integer::Eight e = integer::eight_columns<bits>(rows.weights + u * bits * sixteen);
            char* to = out + (u * 8 * all + at + n) * bytes_of<type>;
            auto store = [&]<int i>() __attribute__((always_inline)) { store_as<type>(to + i * all * bytes_of<type>, 0, vfma(integer::column<bits, i>(e), scale, bias)); };
            store.template operator()<0>(), store.template operator()<1>(), store.template operator()<2>(), store.template operator()<3>();
            store.template operator()<4>(), store.template operator()<5>(), store.template operator()<6>(), store.template operator()<7>();
          }
    });
  });
  return true;
}
#endif

// Rows of a matrix to columns of out, from column `at` of `all` on.
template <int type> void transpose_lines(const Matrix& w, long first, long count, long at, long all, char* out) {
  const long n = w.columns;
  long done = 0;
#if defined(__AVX512F__)
  if (transpose_interleaved<type>(w, first, count, at, all, out)) return;
  if (type == 2 && !w.bits && w.type == Type::bf16 && count == transposed_rows)
    done = transpose_pairs((const char*)w.data + first * w.row_bytes(), w.row_bytes(), n, all, (uint16_t*)out + at);
  if (done == n) return;
#endif
  const long padded = (n + 15) / 16 * 16; // a packed row is written in units of 16
  float* rows = (float*)gomlx::pool_scratch(gomlx::slot_panel, transposed_rows * padded * sizeof(float));
  for (long r = 0; r < count; r++) float_row(w, first + r, rows + r * padded, padded);
  for (long r = 0; r < count; r += lanes) {
    long k = done;
#if defined(__AVX2__)
    if (count - r >= lanes)
      for (; k + lanes <= n; k += lanes) {
        vi square[lanes];
        for (long i = 0; i < lanes; i++) square[i] = (vi)vload(rows + (r + i) * padded + k);
        transpose_square(square);
        for (long i = 0; i < lanes; i++) store_as<type>(out + ((k + i) * all + at + r) * bytes_of<type>, 0, (vf)square[i]);
      }
#endif
    for (; k < n; k++) {
      float column[lanes];
      const long wide = lesser(lanes, count - r);
      for (long i = 0; i < wide; i++) column[i] = rows[(r + i) * padded + k];
      store_part<type>(out + (k * all + at + r) * bytes_of<type>, 0, load_part<0>(column, 0, wide), wide);
    }
  }
}

void transpose(const Matrix* parts, int n, void* out, Type type) {
  struct Work { const Matrix* parts; long tasks[9]; long before[9]; char* out; Type type; int n; } work{parts, {}, {}, (char*)out, type, n};
  for (int i = 0; i < n; i++) {
    work.before[i + 1] = work.before[i] + parts[i].rows;
    work.tasks[i + 1] = work.tasks[i] + (parts[i].rows + transposed_rows - 1) / transposed_rows;
  }
  gomlx::pool_run(work.tasks[n], [](void* p, long task, int) {
    const Work& w = *(const Work*)p;
    int part = 0;
    while (task >= w.tasks[part + 1]) part++;
    const long first = (task - w.tasks[part]) * transposed_rows, count = lesser(transposed_rows, w.parts[part].rows - first);
    with_type(w.type, [&]<int type>() { transpose_lines<type>(w.parts[part], first, count, w.before[part] + first, w.before[w.n], w.out); });
  }, &work);
}

// Converts n numbers from float32.
void narrow(const float* x, void* out, long n, Type type) {
  constexpr long at_once = 1 << 14;
  with_type(type, [&]<int t>() {
    each_row((n + at_once - 1) / at_once, 1, [&](long piece) {
      const long begin = piece * at_once;
      each_vector(lesser(at_once, n - begin), [&](long i, long count) { store_part<t>((char*)out + begin * bytes_of<t>, i, load_part<0>(x + begin, i, count), count); });
    });
  });
}

// Converts n numbers to float32.
void widen(const void* x, float* out, long n, Type type) {
  constexpr long at_once = 1 << 14;
  with_type(type, [&]<int t>() {
    each_row((n + at_once - 1) / at_once, 1, [&](long piece) {
      const long begin = piece * at_once;
      each_vector(lesser(at_once, n - begin), [&](long i, long count) { store_part<0>(out + begin, i, load_part<t>((const char*)x + begin * bytes_of<t>, i, count), count); });
    });
  });
}

constexpr long low_rank_rows = 16; // of x that one task takes

void add_low_rank(const AddLowRank& l) {
  with_type(l.type, [&]<int type>() {
    each_row((l.m + low_rank_rows - 1) / low_rank_rows, 1, [&](long task) {
      const long first = task * low_rank_rows, m = lesser(low_rank_rows, l.m - first), rank = l.of.rank;
      float* z = (float*)gomlx::pool_scratch(gomlx::slot_block, low_rank_rows * rank * sizeof(float));
      dot_lines<type, 0>({(const char*)l.x + first * l.of.columns * bytes_of<type>, l.of.columns}, m, {l.of.a_rows, l.of.columns}, rank, l.of.columns, l.of.scale, z, rank);
      add_lines<0>(z, rank, 1, m, {l.of.b, l.of.rows}, rank, l.of.rows, l.y + first * l.y_stride, l.y_stride);
    });
  });
}

void back_low_rank(const BackLowRank& l) {
  const long rank = l.of.rank, columns = l.of.columns, rows = l.of.rows;
  float *z = l.work, *dz = z + l.m * rank, *da_rows = dz + l.m * rank; // [m, rank] twice, [rank, columns]
  with_type(l.type, [&]<int type>() {
    each_row((l.m + low_rank_rows - 1) / low_rank_rows, 1, [&](long task) {
      const long first = task * low_rank_rows, m = lesser(low_rank_rows, l.m - first);
      dot_lines<type, 0>({(const char*)l.x + first * columns * bytes_of<type>, columns}, m, {l.of.a_rows, columns}, rank, columns, l.of.scale, z + first * rank, rank);
      dot_lines<0, 0>({l.dy + first * l.dy_stride, l.dy_stride}, m, {l.of.b, rows}, rank, rows, l.of.scale, dz + first * rank, rank);
      if (l.dx) add_lines<0>(dz + first * rank, rank, 1, m, {l.of.a_rows, columns}, rank, columns, l.dx + first * columns, columns);
    });
    // Sums over all rows of x: each task has some of the columns.
    constexpr long wide = 4 * lanes;
    each_row((rows + wide - 1) / wide, 1, [&](long task) {
      const long first = task * wide, n = lesser(wide, rows - first);
      for (long r = 0; r < rank; r++) memset(l.db + r * rows + first, 0, n * sizeof(float));
      add_lines<0>(z, 1, rank, rank, {l.dy + first, l.dy_stride}, l.m, n, l.db + first, rows);
    });
    each_row((columns + wide - 1) / wide, 1, [&](long task) {
      const long first = task * wide, n = lesser(wide, columns - first);
      for (long r = 0; r < rank; r++) memset(da_rows + r * columns + first, 0, n * sizeof(float));
      add_lines<type>(dz, 1, rank, rank, {(const char*)l.x + first * bytes_of<type>, columns}, l.m, n, da_rows + first, columns);
      for (long i = first; i < first + n; i++)
        for (long r = 0; r < rank; r++) l.da[i * rank + r] = da_rows[r * columns + i];
    });
  });
}

// Back through x inverse w, inverse being 1 / sqrt(mean(x^2) + eps): inverse w dout - x inverse^3 mean(w dout x), read and written by
// load(i, n), which gives x and w dout, and store(i, n, dx).
template <class Load, class Store> INLINE void back_norm_row(long n, float eps, Load load, Store store) {
  vf squares = vset(0), along = vset(0);
  each_vector(n, [&](long i, long count) __attribute__((always_inline)) {
    vf x, d;
    load(i, count, x, d);
    squares = vfma(x, x, squares), along = vfma(x, d, along);
  });
  const float inverse = 1.f / __builtin_sqrtf(vsum(squares) / float(n) + eps);
  const vf first = vset(inverse), second = vset(inverse * inverse * inverse * vsum(along) / float(n));
  each_vector(n, [&](long i, long count) __attribute__((always_inline)) {
    vf x, d;
    load(i, count, x, d);
    store(i, count, first * d - second * x);
  });
}

void back_add_norm(const BackAddNorm& b) {
  with_type(b.type, [&]<int t>() {
    each_row(b.rows, 8, [&](long r) {
      const long offset = r * b.n * bytes_of<t>;
      auto row = [&](const void* p) { return p ? (const char*)p + offset : nullptr; };
      const char *sum = row(b.sum), *dsum = row(b.dsum), *dnormed = row(b.dnormed);
      float* total = (float*)gomlx::pool_scratch(gomlx::slot_block, (b.n + lanes) * sizeof(float));
      auto take = [&](long i, long n, vf v) {
        if (dsum) v = v + load_part<t>(dsum, i, n);
        if (b.clip) { // a sum that was cut does not move
          const vf s = load_part<t>(sum, i, n);
          v = ((s >= vset(65504)) | (s <= vset(-65504))) ? vset(0) : v;
        }
        store_part<0>(total, i, v, n);
        store_part<t>((char*)b.dh + offset, i, v, n);
      };
      if (dnormed) {
        back_norm_row(b.n, b.eps, [&](long i, long n, vf& x, vf& d) { x = load_part<t>(sum, i, n), d = load_part<t>(dnormed, i, n) * load_part<t>(b.next, i, n); }, take);
      } else {
        each_vector(b.n, [&](long i, long n) { take(i, n, vset(0)); });
      }
      if (!b.dy) return;
      float* dy = b.dy + r * b.n;
      if (b.post) {
        const float* y = b.y + r * b.n;
        back_norm_row(b.n, b.eps, [&](long i, long n, vf& x, vf& d) { x = load_part<0>(y, i, n), d = load_part<0>(total, i, n) * load_part<t>(b.post, i, n); },
                      [&](long i, long n, vf v) { store_part<0>(dy, i, v, n); });
      } else {
        each_vector(b.n, [&](long i, long n) { store_part<0>(dy, i, load_part<0>(total, i, n), n); });
      }
    });
  });
}

// Back through activate(g) * u.
void back_gate(const float* gate_up, const void* dout, float* d_gate_up, long rows, long n, Gate kind, Type type) {
  with_type(type, [&]<int t>() {
    each_row(rows, 4, [&](long r) {
      const float *g = gate_up + 2 * r * n, *u = g + n;
      float *dg = d_gate_up + 2 * r * n, *du = dg + n;
      each_vector(n, [&](long i, long count) {
        const vf x = load_part<0>(g, i, count), d = load_part<t>((const char*)dout + r * n * bytes_of<t>, i, count);
        vf inner = x, slope = vset(1);
        if (kind == Gate::gelu) {
          const vf square = x * x;
          inner = vset(1.5957691216057308f) * vfma(x * square, vset(0.044715f), x);
          slope = vset(1.5957691216057308f) * vfma(square, vset(3 * 0.044715f), vset(1));
        }
        const vf sigmoid = vset(1) / (vset(1) + vexp(vset(0) - inner));
        store_part<0>(du, i, x * sigmoid * d, count);
        store_part<0>(dg, i, vfma(x * slope * sigmoid, vset(1) - sigmoid, sigmoid) * load_part<0>(u, i, count) * d, count);
      });
    });
  });
}

void entropy_piece(const EntropyPiece& e) {
  with_type(e.type, [&]<int t>() {
    each_row(e.m, 1, [&](long r) {
      const float* logits = e.logits + r * e.width;
      vf largest = vset(e.most[r]);
      each_vector(e.width, [&](long i, long n) { largest = vmax(largest, load_filled(logits, i, n, -__builtin_inff())); });
      const float now = vmax_of(largest);
      vf added = vset(0);
      each_vector(e.width, [&](long i, long n) {
        const vf w = vexp(load_filled(logits, i, n, -__builtin_inff()) - vset(now));
        added = added + w;
        if (e.weights) store_part<t>((char*)e.weights + r * e.width * bytes_of<t>, i, w, n);
      });
      e.keep[r] = vexp(vset(e.most[r] - now))[0];
      e.sum[r] = e.sum[r] * e.keep[r] + vsum(added);
      e.most[r] = now;
      if (const long at = e.targets[r] - e.first; at >= 0 && at < e.width) e.target[r] = logits[at];
    });
  });
}

// to[r, :] = to[r, :] * factor[r] + plus[r, :], of rows of n.
void scale_add(float* to, const float* factor, const float* plus, long rows, long n) {
  each_row(rows, 8, [&](long r) {
    const vf f = vset(factor[r]);
    each_vector(n, [&](long i, long count) { store_part<0>(to + r * n, i, vfma(load_part<0>(to + r * n, i, count), f, load_part<0>(plus + r * n, i, count)), count); });
  });
}

} // namespace

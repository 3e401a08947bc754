// Products of small matrices in float32, for training. Each output is one sum in the order of k, whatever is computed beside it.
#pragma once

#include "rows.h"

namespace {

// Rows of a matrix in a type, `stride` elements apart.
struct Lines {
  const void* data;
  long stride;

  template <int type> const char* at(long i) const { return (const char*)data + i * stride * bytes_of<type>; }
};

// c[i, j] = scale * (a_i . b_j) for m rows of a and n rows of b, of k numbers.
template <int ta, int tb> void dot_lines(Lines a, long m, Lines b, long n, long k, float scale, float* c, long c_stride) {
  for (long i = 0; i < m; i += 4)
    for (long j = 0; j < n; j += 4) {
      const char *left[4], *right[4];
      for (long r = 0; r < 4; r++) left[r] = a.at<ta>(lesser(i + r, m - 1)), right[r] = b.at<tb>(lesser(j + r, n - 1));
      vf sums[4][4];
      for (int r = 0; r < 4; r++)
        for (int s = 0; s < 4; s++) sums[r][s] = vset(0);
      auto step = [&](long at, long count) __attribute__((always_inline)) {
        vf v[4];
        for (int s = 0; s < 4; s++) v[s] = load_part<tb>(right[s], at, count);
        for (int r = 0; r < 4; r++) {
          const vf u = load_part<ta>(left[r], at, count);
          for (int s = 0; s < 4; s++) sums[r][s] = vfma(u, v[s], sums[r][s]);
        }
      };
      long at = 0;
      for (; at + lanes <= k; at += lanes) step(at, lanes);
      if (at < k) step(at, k - at);
      for (long r = 0; r < lesser(4, m - i); r++) {
        const four f = vsum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        for (long s = 0; s < lesser(4, n - j); s++) c[(i + r) * c_stride + j + s] = f.at[s] * scale;
      }
    }
}

// c[i, :] += sum over l of a[i, l] b[l, :], for m rows of n numbers. a[i, l] is a[i * a_row + l * a_step], so that a may lie either
// way. What of b is summed at once stays in the cache.
template <int tb> void add_lines(const float* a, long a_row, long a_step, long m, Lines b, long k, long n, float* c, long c_stride) {
#if defined(__AVX512F__) || defined(__aarch64__)
  constexpr int wide = 4;
#else
  constexpr int wide = 2;
#endif
  constexpr long at_once = 64;
  for (long j = 0; j < n; j += wide * lanes) {
    const long width = lesser(wide * lanes, n - j), vectors = (width + lanes - 1) / lanes, last = width - (vectors - 1) * lanes;
    for (long first = 0; first < k; first += at_once) {
      const long end = lesser(k, first + at_once);
      for (long i = 0; i < m; i += 4) {
        const long rows = lesser(4, m - i);
        const float* from[4];
        float* to[4];
        for (long r = 0; r < 4; r++) {
          const long row = lesser(i + r, m - 1);
          from[r] = a + row * a_row, to[r] = c + row * c_stride + j;
        }
        vf sums[4][wide];
        if (width == wide * lanes) {
          for (int r = 0; r < 4; r++)
            for (int v = 0; v < wide; v++) sums[r][v] = vload(to[r] + v * lanes);
          for (long l = first; l < end; l++) {
            const char* line = b.at<tb>(l) + j * bytes_of<tb>;
            vf x[wide];
            for (int v = 0; v < wide; v++) x[v] = load_as<tb>(line, v * lanes);
            for (int r = 0; r < 4; r++) {
              const vf w = vset(from[r][l * a_step]);
              for (int v = 0; v < wide; v++) sums[r][v] = vfma(w, x[v], sums[r][v]);
            }
          }
          for (long r = 0; r < rows; r++)
            for (int v = 0; v < wide; v++) vstore(to[r] + v * lanes, sums[r][v]);
          continue;
        }
        for (long v = 0; v < vectors; v++) {
          const long count = v + 1 == vectors ? last : lanes;
          for (long r = 0; r < rows; r++) {
            vf sum = load_part<0>(to[r], v * lanes, count);
            for (long l = first; l < end; l++) sum = vfma(vset(from[r][l * a_step]), load_part<tb>(b.at<tb>(l), j + v * lanes, count), sum);
            store_part<0>(to[r], v * lanes, sum, count);
          }
        }
      }
    }
  }
}

} // namespace

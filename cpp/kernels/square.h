// Rows and columns of 32-bit numbers exchanged in registers.
#pragma once

#include "simd.h"

#if defined(__AVX2__)

namespace {

// A square of 32-bit numbers, as many as lanes, with rows and columns exchanged.
INLINE void transpose_square(vi* r) {
#if defined(__AVX512F__)
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32((__m512i)r[i], (__m512i)r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32((__m512i)r[i], (__m512i)r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    r[i] = (vi)_mm512_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = (vi)_mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = (vi)_mm512_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = (vi)_mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4((__m512i)r[i], (__m512i)r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_i32x4((__m512i)r[i], (__m512i)r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4((__m512i)r[i + 8], (__m512i)r[i + 12], 0x88), t[i + 12] = _mm512_shuffle_i32x4((__m512i)r[i + 8], (__m512i)r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = (vi)_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88), r[i + 8] = (vi)_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
#else
  __m256i t[8];
  for (int i = 0; i < 8; i += 2) t[i] = _mm256_unpacklo_epi32((__m256i)r[i], (__m256i)r[i + 1]), t[i + 1] = _mm256_unpackhi_epi32((__m256i)r[i], (__m256i)r[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    r[i] = (vi)_mm256_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = (vi)_mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = (vi)_mm256_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = (vi)_mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    __m256i a = (__m256i)r[i], b = (__m256i)r[i + 4];
    r[i] = (vi)_mm256_permute2x128_si256(a, b, 0x20), r[i + 4] = (vi)_mm256_permute2x128_si256(a, b, 0x31);
  }
#endif
}

} // namespace

#endif

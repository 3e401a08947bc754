// Rows of packed weights as numbers. Eight weights of b bits are b bytes; a row is a whole number of groups of scales,
// and a group is 16, 32, 64 or 128 weights.
#pragma once

#include "interleave.h"
#include "simd.h"
#include "types.h"

namespace {

using gomlx::Matrix;
using gomlx::Type;

INLINE float number_at(const void* p, Type type, long i) {
  switch (type) {
    case Type::f32: return ((const float*)p)[i];
    case Type::bf16: return to_float(((const bf16*)p)[i]);
    default: return half_at((const f16*)p + i);
  }
}

#if defined(__AVX2__)

// Where the bytes of each of eight weights begin, as indices for a shuffle that fetches two bytes each, and how far to
// shift them.
template <int bits> struct Fields {
  alignas(16) int8_t bytes[16];
  alignas(32) int32_t shifts[8];
  constexpr Fields() : bytes(), shifts() {
    for (int i = 0; i < 8; i++) {
      bytes[2 * i] = int8_t(bits * i / 8), bytes[2 * i + 1] = int8_t(bits * i / 8 + 1);
      shifts[i] = bits * i % 8;
    }
  }
};

// Weights of four bits lie in pairs in bytes.
INLINE vf quants4(const uint8_t* q) {
#if defined(__AVX512F__)
  __m128i bytes = _mm_loadl_epi64((const __m128i*)q);
#else
  int32_t word;
  memcpy(&word, q, 4);
  __m128i bytes = _mm_cvtsi32_si128(word);
#endif
  __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15)), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  __m128i all = _mm_unpacklo_epi8(low, high);
#if defined(__AVX512F__)
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(all));
#else
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all));
#endif
}

// Sixteen or eight weights, as many as there are lanes, from q on. It reads up to eight bytes from where a unit of eight
// begins.
template <int bits> INLINE vf quants(const uint8_t* q) {
  if constexpr (bits == 4) return quants4(q);
  static constexpr Fields<bits> fields;
  __m128i bytes = _mm_load_si128((const __m128i*)fields.bytes);
  __m256i shifts = _mm256_load_si256((const __m256i*)fields.shifts);
  __m128i low = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i*)q), bytes);
#if defined(__AVX512F__)
  __m128i high = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i*)(q + bits)), bytes);
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low));
  wide = _mm512_and_si512(_mm512_srlv_epi32(wide, _mm512_broadcast_i64x4(shifts)), _mm512_set1_epi32((1 << bits) - 1));
  return _mm512_cvtepi32_ps(wide);
#else
  __m256i wide = _mm256_cvtepu16_epi32(low);
  wide = _mm256_and_si256(_mm256_srlv_epi32(wide, shifts), _mm256_set1_epi32((1 << bits) - 1));
  return _mm256_cvtepi32_ps(wide);
#endif
}

#else

template <int bits> INLINE vf quants(const uint8_t* q) {
  vf out;
  uint64_t word = 0;
  // Four weights of an odd number of bits begin in the middle of a byte for every other four: the caller passes units of
  // eight, see unpack_rows.
  memcpy(&word, q, bits);
  for (int i = 0; i < lanes; i++) out[i] = float(word >> (bits * i) & ((1u << bits) - 1));
  return out;
}

#endif

// One row as float32, each weight scale * q + bias in one rounding (or two where there is no fused multiply-add).
template <int bits> void unpack_bits(const Matrix& w, long row, float* out) {
  const uint8_t* q = (const uint8_t*)w.data + (w.woven(row) ? row / sixteen * sixteen * w.row_bytes() + row % sixteen * bits : row * w.row_bytes());
  const long groups = w.columns / w.group;
  constexpr int unit = lanes < 8 ? 8 : lanes; // weights at a time
  constexpr int size = bits * unit / 8, reach = (bits + 8 + size - 1) / size; // bytes of a unit, and units that its loads may touch
  auto store = [&](const uint8_t* from, vf scale, vf bias) {
    vstore(out, vfma(quants<bits>(from), scale, bias));
    if (lanes < unit) {
      uint64_t word = 0;
      memcpy(&word, from, bits);
      word >>= lanes * bits;
      vstore(out + lanes, vfma(quants<bits>((const uint8_t*)&word), scale, bias));
    }
    out += unit;
  };
  for (long g = 0; g < groups; g++) {
    const long at = w.woven(row) ? (row / sixteen * groups + g) * sixteen + row % sixteen : row * groups + g;
    const float of_group = number_at(w.scales, w.type, at);
    vf scale = vset(of_group), bias = vset(w.biases ? number_at(w.biases, w.type, at) : w.middle() * of_group);
    if (w.woven(row)) {
      uint8_t together[128 + 8]; // a group of bytes, and what loads reach past its end
      for (int i = 0; i < w.group; i += 8, q += bits * sixteen) memcpy(together + i / 8 * bits, q, bits);
      for (int i = 0; i < w.group; i += unit) store(together + i / 8 * bits, scale, bias);
      continue;
    }
    // The loads may reach past the row's end, and the row may be the buffer's last: its last units are copied first.
    const int safe = int(lesser(w.group, (groups - g) * w.group - reach * unit));
    int i = 0;
    for (; i < safe; i += unit, q += size) store(q, scale, bias);
    for (; i < w.group; i += unit, q += size) {
      uint8_t tail[32] = {};
      memcpy(tail, q, size);
      store(tail, scale, bias);
    }
  }
}

inline void unpack_row(const Matrix& w, long row, float* out) {
  switch (w.bits) {
    case 2: return unpack_bits<2>(w, row, out);
    case 3: return unpack_bits<3>(w, row, out);
    case 4: return unpack_bits<4>(w, row, out);
    case 5: return unpack_bits<5>(w, row, out);
    case 6: return unpack_bits<6>(w, row, out);
    case 8: return unpack_bits<8>(w, row, out);
  }
}

// A row of any kind as float32, zeros up to padded columns.
inline void float_row(const Matrix& w, long row, float* out, long padded) {
  if (w.bits) {
    unpack_row(w, row, out);
  } else {
    const char* p = (const char*)w.data + row * w.row_bytes();
    each_vector(w.columns, [&](long i, long n) {
      vf v = w.type == Type::f32 ? load_part<0>(p, i, n) : w.type == Type::f16 ? load_part<1>(p, i, n) : load_part<2>(p, i, n);
      store_part<0>(out, i, v, n);
    });
  }
  for (long i = w.columns; i < padded; i++) out[i] = 0;
}

} // namespace

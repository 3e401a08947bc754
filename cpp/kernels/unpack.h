// Rows of packed weights as numbers. Eight weights of b bits are b bytes; a row is a whole number of groups of scales,
// and a group is 32, 64 or 128 weights.
#pragma once

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
  const uint8_t* q = (const uint8_t*)w.data + row * w.row_bytes();
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
    vf scale = vset(number_at(w.scales, w.type, row * groups + g)), bias = vset(number_at(w.biases, w.type, row * groups + g));
    // The loads may reach past the row's end, and the row may be the buffer's last: its last units are copied first.
    const int safe = g + 1 < groups ? w.group : w.group - reach * unit;
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

#if defined(__AVX512BF16__) && defined(__AVX512VBMI__)

// How to take eight weights out of every b bytes.
template <int bits> struct Bytes {
  alignas(32) uint8_t spread[32]; // the bytes of the four units of eight, each at the start of a 64-bit lane
  alignas(32) uint8_t shift[32];
  constexpr Bytes() : spread(), shift() {
    for (int i = 0; i < 32; i++) {
      spread[i] = uint8_t(i % 8 < bits ? i / 8 * bits + i % 8 : 0);
      shift[i] = uint8_t(i % 8 * bits);
    }
  }
};

// One row as bfloat16, each weight scale * q + bias in float32 and then rounded. Weights of up to five bits are looked
// up: a group has so few different ones.
template <int bits> void bf16_bits(const Matrix& w, long row, bf16* out) {
  static constexpr Bytes<bits> bytes;
  const __m256i spread = _mm256_load_si256((const __m256i*)bytes.spread), shift = _mm256_load_si256((const __m256i*)bytes.shift);
  const __m256i mask = _mm256_set1_epi8((1 << bits) - 1);
  const uint8_t* q = (const uint8_t*)w.data + row * w.row_bytes();
  const long groups = w.columns / w.group;
  const __m512 low = _mm512_cvtepi32_ps(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  const __m512 high = _mm512_add_ps(low, _mm512_set1_ps(16));
  for (long g = 0; g < groups; g++) {
    __m512 scale = vset(number_at(w.scales, w.type, row * groups + g)), bias = vset(number_at(w.biases, w.type, row * groups + g));
    __m512i table = {};
    if constexpr (bits <= 4) table = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(low, scale, bias)));
    else if constexpr (bits == 5) table = (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmadd_ps(high, scale, bias), _mm512_fmadd_ps(low, scale, bias));
    for (int i = 0; i < w.group; i += 32, q += 4 * bits, out += 32) {
      __m256i packed = _mm256_maskz_loadu_epi8((__mmask32)((1ull << (4 * bits)) - 1), q);
      packed = bits == 4 ? _mm256_cvtepu32_epi64(_mm256_castsi256_si128(packed)) : _mm256_permutexvar_epi8(spread, packed);
      __m256i values = _mm256_and_si256(_mm256_multishift_epi64_epi8(shift, packed), mask);
      if constexpr (bits <= 5) {
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(values), table));
      } else {
        __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(values)));
        __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(values, 1)));
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(_mm512_fmadd_ps(b, scale, bias), _mm512_fmadd_ps(a, scale, bias)));
      }
    }
  }
}

inline void bf16_row(const Matrix& w, long row, bf16* out, long padded) {
  switch (w.bits) {
    case 0: memcpy(out, (const char*)w.data + row * w.row_bytes(), w.row_bytes()); break;
    case 2: bf16_bits<2>(w, row, out); break;
    case 3: bf16_bits<3>(w, row, out); break;
    case 4: bf16_bits<4>(w, row, out); break;
    case 5: bf16_bits<5>(w, row, out); break;
    case 6: bf16_bits<6>(w, row, out); break;
    case 8: bf16_bits<8>(w, row, out); break;
  }
  for (long i = w.columns; i < padded; i++) out[i] = 0;
}

#endif

} // namespace

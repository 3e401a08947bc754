// Vectors of float32 for the instruction set that a file is compiled for, with what GCC's and Clang's vector types do not
// give: fused multiply-add, conversions, sums in a fixed order. Everything is in an unnamed namespace and nothing of the standard
// library is used, because a function that the linker shares between files would carry one file's instructions into
// another's.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// These are the loops' own operations: a call that is left standing costs more than they do.
#define INLINE inline __attribute__((always_inline))

namespace {

using bf16 = uint16_t;
using f16 = uint16_t;

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float vf __attribute__((vector_size(4 * lanes), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * lanes), may_alias));

INLINE vf vset(float x) { return x - vf{}; } // x - 0 is x, also for -0, infinities and NaNs

INLINE vf vload(const float* p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}

INLINE void vstore(float* p, vf v) { memcpy(p, &v, sizeof v); }

INLINE vf vmax(vf a, vf b) { return a > b ? a : b; }
INLINE vf vmin(vf a, vf b) { return a < b ? a : b; }

INLINE float to_float(bf16 h) {
  uint32_t u = uint32_t(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// Rounds to nearest, ties to even; a NaN stays one.
INLINE bf16 to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffff) > 0x7f800000) return bf16(u >> 16 | 0x40);
  return bf16((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#if defined(__AVX512F__)

INLINE vf vfma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vload_bf16(const bf16* p) {
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
INLINE vf vload_f16(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE void vstore_f16(f16* p, vf v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
INLINE float half_at(const f16* p) { return _cvtsh_ss(*p); }
INLINE vf vround(vf v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vi vtoint(vf v) { return (vi)_mm512_cvtps_epi32(v); }
INLINE vf vsqrt(vf v) { return _mm512_sqrt_ps(v); }

INLINE __m128 quarter(vf v) {
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#elif defined(__AVX2__)

INLINE vf vfma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vload_bf16(const bf16* p) {
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
INLINE vf vload_f16(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE void vstore_f16(f16* p, vf v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)); }
INLINE float half_at(const f16* p) { return _cvtsh_ss(*p); }
INLINE vf vround(vf v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vi vtoint(vf v) { return (vi)_mm256_cvtps_epi32(v); }
INLINE vf vsqrt(vf v) { return _mm256_sqrt_ps(v); }

INLINE __m128 quarter(vf v) { return _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1)); }

#elif defined(__aarch64__)

INLINE vf vfma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vf vload_bf16(const bf16* p) { return (vf)vshll_n_u16(vld1_u16(p), 16); }
INLINE vf vload_f16(const f16* p) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE void vstore_f16(f16* p, vf v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v))); }
INLINE float half_at(const f16* p) { return float(*(const __fp16*)p); }
INLINE vf vround(vf v) { return (vf)vrndnq_f32((float32x4_t)v); }
INLINE vi vtoint(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
INLINE vf vsqrt(vf v) { return (vf)vsqrtq_f32((float32x4_t)v); }

#else // any processor

INLINE vf vfma(vf a, vf b, vf c) { // not fused; the order of sums is fixed all the same
  return a * b + c;
}
INLINE vf vload_bf16(const bf16* p) {
  vf v;
  for (int i = 0; i < lanes; i++) v[i] = to_float(p[i]);
  return v;
}
INLINE float half_to_float(f16 h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, u;
  if (exponent == 0) { // zero or subnormal: mantissa * 2^-24
    float f = float(mantissa) * 5.9604644775390625e-8f;
    memcpy(&u, &f, 4);
    u |= sign;
  } else {
    u = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
  }
  float f;
  memcpy(&f, &u, 4);
  return f;
}
INLINE f16 float_to_half(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  f16 sign = f16(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return f16(sign | 0x7e00);
  if (u >= 0x477ff000) return f16(sign | 0x7c00); // 65520 and more
  if (u < 0x38800000) { // subnormal: adding 0.5 leaves the mantissa, rounded, in the low bits
    float magnitude;
    memcpy(&magnitude, &u, 4);
    magnitude += 0.5f;
    memcpy(&u, &magnitude, 4);
    return f16(sign | (u - 0x3f000000));
  }
  u += 0xfff + (u >> 13 & 1);
  return f16(sign | (u - 0x38000000) >> 13);
}
INLINE vf vload_f16(const f16* p) {
  vf v;
  for (int i = 0; i < lanes; i++) v[i] = half_to_float(p[i]);
  return v;
}
INLINE void vstore_f16(f16* p, vf v) {
  for (int i = 0; i < lanes; i++) p[i] = float_to_half(v[i]);
}
INLINE float half_at(const f16* p) { return half_to_float(*p); }
INLINE vf vround(vf v) { // |v| is below 2^22 where this is used
  vf magic = vset(12582912.f);
  return (v + magic) - magic;
}
INLINE vi vtoint(vf v) {
  vi out;
  for (int i = 0; i < lanes; i++) out[i] = int32_t(v[i]);
  return out;
}
INLINE vf vsqrt(vf v) {
  for (int i = 0; i < lanes; i++) v[i] = __builtin_sqrtf(v[i]);
  return v;
}

#endif

INLINE void vstore_bf16(bf16* p, vf v) {
#if defined(__AVX512BF16__)
  // Unlike the portable form this takes subnormal numbers for zero, as the dot products of the same instruction set do.
  __m256bh h = _mm512_cvtneps_pbh(v);
  memcpy(p, &h, sizeof h);
#else
  typedef uint32_t vu __attribute__((vector_size(4 * lanes), may_alias));
  vu u = (vu)v;
  vu rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 0x40;
  vu out = (u & 0x7fffffff) > 0x7f800000 ? quiet : rounded;
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)out));
#elif defined(__AVX2__)
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)out, (__m256i)out), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
#elif defined(__aarch64__)
  vst1_u16(p, vmovn_u32((uint32x4_t)out));
#else
  for (int i = 0; i < lanes; i++) p[i] = bf16(out[i]);
#endif
#endif
}

// vsum4 sums each of four vectors, always in the same order.
struct four { float at[4]; };

#if defined(__AVX2__)
INLINE four vsum4(vf a, vf b, vf c, vf d) {
  __m128 r0 = quarter(a), r1 = quarter(b), r2 = quarter(c), r3 = quarter(d);
  _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
  four out;
  _mm_storeu_ps(out.at, _mm_add_ps(_mm_add_ps(r0, r1), _mm_add_ps(r2, r3)));
  return out;
}
#else
INLINE float sum_of(vf v) { return (v[0] + v[1]) + (v[2] + v[3]); }
INLINE four vsum4(vf a, vf b, vf c, vf d) { return {{sum_of(a), sum_of(b), sum_of(c), sum_of(d)}}; }
#endif

INLINE float vsum(vf a) { return vsum4(a, a, a, a).at[0]; }

INLINE float vmax_of(vf v) {
  float m = v[0];
  for (int i = 1; i < lanes; i++) m = v[i] > m ? v[i] : m;
  return m;
}

// e^x to about one unit in the last place, by a polynomial over [-ln 2 / 2, ln 2 / 2] (Cephes, Moshier 1989). Results
// below the smallest normal number are zero.
INLINE vf vexp(vf x) {
  const vf low = vset(-87.336544f), high = vset(88.37626f);
  vi under = x < low, number = x == x;
  vf given = x;
  x = vmin(vmax(x, low), high);
  vf n = vround(x * vset(1.44269504088896341f));
  vf r = vfma(n, vset(-0.693359375f), x);
  r = vfma(n, vset(2.12194440e-4f), r);
  vf p = vset(1.9875691500e-4f);
  p = vfma(p, r, vset(1.3981999507e-3f));
  p = vfma(p, r, vset(8.3334519073e-3f));
  p = vfma(p, r, vset(4.1665795894e-2f));
  p = vfma(p, r, vset(1.6666665459e-1f));
  p = vfma(p, r, vset(5.0000001201e-1f));
  vf e = vfma(p, r * r, r) + vset(1.f);
  vi scale = (vtoint(n) + 127) << 23;
  return number ? (under ? vset(0.f) : e * (vf)scale) : given;
}

// Loads and stores of numbers of a type that is known when compiling.
template <int type> INLINE vf load_as(const void* p, long i) {
  if constexpr (type == 0) return vload((const float*)p + i);
  else if constexpr (type == 1) return vload_f16((const f16*)p + i);
  else return vload_bf16((const bf16*)p + i);
}

template <int type> INLINE void store_as(void* p, long i, vf v) {
  if constexpr (type == 0) vstore((float*)p + i, v);
  else if constexpr (type == 1) vstore_f16((f16*)p + i, v);
  else vstore_bf16((bf16*)p + i, v);
}

template <int type> constexpr long bytes_of = type == 0 ? 4 : 2;

// The first n < lanes numbers, then zeros.
template <int type> INLINE vf load_some(const void* p, long i, long n) {
#if defined(__AVX512F__)
  const __mmask16 mask = __mmask16((1u << n) - 1);
  if constexpr (type == 0) return _mm512_maskz_loadu_ps(mask, (const float*)p + i);
  const __m256i narrow = _mm256_maskz_loadu_epi16(mask, (const uint16_t*)p + i);
  if constexpr (type == 1) return _mm512_cvtph_ps(narrow);
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16);
#else
  alignas(64) char buffer[4 * lanes] = {};
  memcpy(buffer, (const char*)p + i * bytes_of<type>, n * bytes_of<type>);
  return load_as<type>(buffer, 0);
#endif
}

template <int type> INLINE void store_some(void* p, long i, vf v, long n) {
  alignas(64) char buffer[4 * lanes];
  store_as<type>(buffer, 0, v);
#if defined(__AVX512F__)
  const __mmask16 mask = __mmask16((1u << n) - 1);
  if constexpr (type == 0) _mm512_mask_storeu_ps((float*)p + i, mask, v);
  else _mm256_mask_storeu_epi16((uint16_t*)p + i, mask, _mm256_load_si256((const __m256i*)buffer));
#else
  memcpy((char*)p + i * bytes_of<type>, buffer, n * bytes_of<type>);
#endif
}

// Calls f with each vector's place and how many of its lanes count.
template <class F> INLINE void each_vector(long n, F f) {
  long i = 0;
  for (; i + lanes <= n; i += lanes) f(i, (long)lanes);
  if (i < n) f(i, n - i);
}

template <int type> INLINE vf load_part(const void* p, long i, long n) {
  return n == lanes ? load_as<type>(p, i) : load_some<type>(p, i, n);
}

template <int type> INLINE void store_part(void* p, long i, vf v, long n) {
  if (n == lanes) store_as<type>(p, i, v);
  else store_some<type>(p, i, v, n);
}

INLINE long lesser(long a, long b) { return a < b ? a : b; }
INLINE long greater(long a, long b) { return a > b ? a : b; }

} // namespace

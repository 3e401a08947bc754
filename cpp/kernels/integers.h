// Products with packed weights by sums of integers.
//
// x is turned into integers of twelve bits, with a scale for every group of its columns that the weights have: x = scale * (16 hi + lo),
// hi and lo in signed bytes. A group's sum of q * x is then exact in whatever order it is added, so rows alone, by vectors
// that hold many columns, and rows in a batch, by vectors or tiles that hold many rows, come to the same bits: what
// rounds is only the chain over groups, sum += (S * x's scale) * w's scale, sum += w's bias * (sum of x), in the order of the groups.
// Twelve bits round x by at most 1/4078 of its group's largest number. bfloat16 rounds by 1/512 of each number, on the
// average about as much, and here weights are not rounded at all.
//
// Weights of four bits are taken so wherever there is AVX2, others where there are VNNI and VBMI: without VNNI products of larger
// weights do not fit the instruction's sums.
#pragma once

#include "block.h"

#if defined(__AVX2__)
#define GOMLX_INTEGERS

namespace {

namespace integer {

constexpr int vector_bytes = 4 * lanes; // of packed weights at once: twice as many weights
constexpr int largest = 2039; // 16 * 127 + 7

#if defined(__AVX512F__)
using bytes = __m512i;
INLINE bytes load(const void* p) { return _mm512_loadu_si512(p); }
INLINE bytes load_first(const void* p, long n) { return _mm512_maskz_loadu_epi8(~0ull >> (64 - n), p); }
INLINE bytes low(bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
INLINE bytes high(bytes b) { return low(_mm512_srli_epi16(b, 4)); }
INLINE bytes word(const void* p) { int32_t i; memcpy(&i, p, 4); return _mm512_set1_epi32(i); }
INLINE bytes unpack_low(bytes a, bytes b) { return _mm512_unpacklo_epi32(a, b); }
INLINE bytes unpack_high(bytes a, bytes b) { return _mm512_unpackhi_epi32(a, b); }
INLINE bytes unpack_low2(bytes a, bytes b) { return _mm512_unpacklo_epi64(a, b); }
INLINE bytes unpack_high2(bytes a, bytes b) { return _mm512_unpackhi_epi64(a, b); }
#if defined(__AVX512VNNI__)
INLINE vi dot(vi sum, bytes q, bytes x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, q, x); }
#else
INLINE vi dot(vi sum, bytes q, bytes x) { return sum + (vi)_mm512_madd_epi16(_mm512_maddubs_epi16(q, x), _mm512_set1_epi16(1)); }
#endif
INLINE vf number(vi v) { return _mm512_cvtepi32_ps((__m512i)v); }
#else
using bytes = __m256i;
INLINE bytes load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
INLINE bytes load_first(const void* p, long) { return _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)p)); }
INLINE bytes low(bytes b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
INLINE bytes high(bytes b) { return low(_mm256_srli_epi16(b, 4)); }
INLINE bytes word(const void* p) { int32_t i; memcpy(&i, p, 4); return _mm256_set1_epi32(i); }
INLINE bytes unpack_low(bytes a, bytes b) { return _mm256_unpacklo_epi32(a, b); }
INLINE bytes unpack_high(bytes a, bytes b) { return _mm256_unpackhi_epi32(a, b); }
INLINE bytes unpack_low2(bytes a, bytes b) { return _mm256_unpacklo_epi64(a, b); }
INLINE bytes unpack_high2(bytes a, bytes b) { return _mm256_unpackhi_epi64(a, b); }
INLINE vi dot(vi sum, bytes q, bytes x) { return sum + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16(q, x), _mm256_set1_epi16(1)); }
INLINE vf number(vi v) { return (vf)_mm256_cvtepi32_ps((__m256i)v); }
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define GOMLX_ANY_BITS

// How to take eight weights out of every b bytes.
template <int bits> struct Places {
  alignas(64) uint8_t spread[64]; // the bytes of the eight units of eight, each at the start of a 64-bit lane
  alignas(64) uint8_t shift[64];
  constexpr Places() : spread(), shift() {
    for (int i = 0; i < 64; i++) {
      spread[i] = uint8_t(i % 8 < bits ? i / 8 * bits + i % 8 : 0);
      shift[i] = uint8_t(i % 8 * bits);
    }
  }
};

// The 64 weights from p on, or as many as there are in `left` bytes, in their order.
template <int bits> INLINE bytes weights_of(const char* p, long left) {
  const bytes packed = load_first(p, lesser(left, 8 * bits));
  if constexpr (bits == 8) return packed;
  static constexpr Places<bits> places;
  const bytes spread = _mm512_permutexvar_epi8(_mm512_load_si512(places.spread), packed);
  return _mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_load_si512(places.shift), spread), _mm512_set1_epi8((1 << bits) - 1));
}
#endif

// The sums of sixteen bytes of x, of as many rows as there are lanes: a[r] holds row r's, of four lanes to
// every sixteen bytes. part[u] gets the sums of the u-th sixteen bytes, with a row in each lane.
INLINE void sum_rows(const vi* a, vi* part) {
  bytes t[lanes / 2], v[lanes / 4];
  for (int i = 0; i < lanes / 2; i++)
    t[i] = (bytes)((vi)unpack_low((bytes)a[2 * i], (bytes)a[2 * i + 1]) + (vi)unpack_high((bytes)a[2 * i], (bytes)a[2 * i + 1]));
  for (int i = 0; i < lanes / 4; i++)
    v[i] = (bytes)((vi)unpack_low2(t[2 * i], t[2 * i + 1]) + (vi)unpack_high2(t[2 * i], t[2 * i + 1]));
#if defined(__AVX512F__)
  bytes even0 = _mm512_shuffle_i32x4(v[0], v[1], 0x88), odd0 = _mm512_shuffle_i32x4(v[0], v[1], 0xdd);
  bytes even1 = _mm512_shuffle_i32x4(v[2], v[3], 0x88), odd1 = _mm512_shuffle_i32x4(v[2], v[3], 0xdd);
  part[0] = (vi)_mm512_shuffle_i32x4(even0, even1, 0x88), part[2] = (vi)_mm512_shuffle_i32x4(even0, even1, 0xdd);
  part[1] = (vi)_mm512_shuffle_i32x4(odd0, odd1, 0x88), part[3] = (vi)_mm512_shuffle_i32x4(odd0, odd1, 0xdd);
#else
  part[0] = (vi)_mm256_permute2x128_si256(v[0], v[1], 0x20), part[1] = (vi)_mm256_permute2x128_si256(v[0], v[1], 0x31);
#endif
}

// A square of 32-bit numbers, as many as lanes, with rows and columns exchanged.
INLINE void transpose(vi* r) {
#if defined(__AVX512F__)
  bytes t[16];
  for (int i = 0; i < 16; i += 2) t[i] = unpack_low((bytes)r[i], (bytes)r[i + 1]), t[i + 1] = unpack_high((bytes)r[i], (bytes)r[i + 1]);
  for (int i = 0; i < 16; i += 4) {
    r[i] = (vi)unpack_low2(t[i], t[i + 2]), r[i + 1] = (vi)unpack_high2(t[i], t[i + 2]);
    r[i + 2] = (vi)unpack_low2(t[i + 1], t[i + 3]), r[i + 3] = (vi)unpack_high2(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4((bytes)r[i], (bytes)r[i + 4], 0x88), t[i + 4] = _mm512_shuffle_i32x4((bytes)r[i], (bytes)r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4((bytes)r[i + 8], (bytes)r[i + 12], 0x88), t[i + 12] = _mm512_shuffle_i32x4((bytes)r[i + 8], (bytes)r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; i++) {
    r[i] = (vi)_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88), r[i + 8] = (vi)_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
#else
  bytes t[8];
  for (int i = 0; i < 8; i += 2) t[i] = unpack_low((bytes)r[i], (bytes)r[i + 1]), t[i + 1] = unpack_high((bytes)r[i], (bytes)r[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    r[i] = (vi)unpack_low2(t[i], t[i + 2]), r[i + 1] = (vi)unpack_high2(t[i], t[i + 2]);
    r[i + 2] = (vi)unpack_low2(t[i + 1], t[i + 3]), r[i + 3] = (vi)unpack_high2(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    bytes a = (bytes)r[i], b = (bytes)r[i + 4];
    r[i] = (vi)_mm256_permute2x128_si256(a, b, 0x20), r[i + 4] = (vi)_mm256_permute2x128_si256(a, b, 0x31);
  }
#endif
}

// Numbers of 16 bits as 32-bit integers; n of them, zeros behind.
INLINE vi load_words(const void* p, long at, long n) {
  const uint16_t* from = (const uint16_t*)p + at;
#if defined(__AVX512F__)
  return (vi)_mm512_cvtepu16_epi32(n == lanes ? _mm256_loadu_si256((const __m256i*)from) : _mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), from));
#else
  uint16_t some[lanes] = {};
  memcpy(some, from, n * 2);
  return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)some));
#endif
}

// The low 16 bits of every integer as float16.
INLINE vf halves(vi v) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v));
#else
  v &= 0xffff;
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32((__m256i)v, (__m256i)v), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
#endif
}

// The scales and biases of as many rows as lanes from row on, the last ones repeated behind the matrix's end: [g][lanes] for
// up to `lanes` groups from g0 on.
inline void scales_of(const Matrix& w, long row, long g0, long n, float* scales, float* biases) {
  const long groups = w.columns / w.group;
  const void* biases_at = w.biases ? w.biases : w.scales;
  vi square[lanes];
  auto each = [&](auto load) {
    for (long r = 0; r < lanes; r++) square[r] = load(lesser(row + r, w.rows - 1) * groups + g0);
    transpose(square);
  };
  if (w.type == Type::f32) {
    each([&](long at) { return (vi)load_part<0>(w.scales, at, n); });
    for (long g = 0; g < n; g++) vstore(scales + g * lanes, (vf)square[g]);
    each([&](long at) { return (vi)load_part<0>(biases_at, at, n); });
    for (long g = 0; g < n; g++) vstore(biases + g * lanes, (vf)square[g]);
  } else {
    each([&](long at) { return load_words(w.scales, at, n) | load_words(biases_at, at, n) << 16; });
    for (long g = 0; g < n; g++) {
      const vi both = square[g];
      vstore(scales + g * lanes, w.type == Type::bf16 ? (vf)(both << 16) : halves(both));
      vstore(biases + g * lanes, w.type == Type::bf16 ? (vf)(both & int32_t(0xffff0000)) : halves((both >> 16) & 0xffff));
    }
  }
  if (!w.biases)
    for (long g = 0; g < n; g++) vstore(biases + g * lanes, vload(scales + g * lanes) * vset(w.middle()));
}

// Where the bytes of the halves of x go. A unit of weights is what one load of packed weights has. Of four bits, its even and its odd
// weights are in the low and the high halves of its bytes.
struct Layout {
  long unit; // weights
  bool paired; // of four bits
  long bytes(long k) const { return (k + unit - 1) / unit * unit * 2; }
};

// A row of x as integers. to: for every unit lo, of its even columns and then of its odd ones if it is paired, and then hi; zeros behind the
// end. scale and sum are of every group: sum = scale times the group's integers.
template <int type> void integers(const void* x, long k, int group, Layout l, int8_t* to, float* scale, float* sum) {
  const long half = l.unit / 2;
  for (long g = 0; g < k / group; g++) {
    vi top = {};
    for (long i = 0; i < group; i += lanes) {
      vi v = (vi)load_as<type>(x, g * group + i) & 0x7fffffff;
      top = v > top ? v : top;
    }
    int32_t most = 0;
    for (int i = 0; i < lanes; i++) most = top[i] > most ? top[i] : most;
    float size;
    memcpy(&size, &most, 4);
    // The bits of a NaN and of infinity are above those of numbers: either makes results NaN.
    const bool number = most < 0x7f800000, something = size > 1e-30f;
    const float inverse = number && something ? float(largest) / size : 0;
    vi total = {};
    for (long i = 0; i < group; i += lanes) {
      vi q = {};
      if (inverse != 0) q = vtoint(load_as<type>(x, g * group + i) * vset(inverse));
      total += q;
      vi hi = (q + 8) >> 4, lo = q - (hi << 4);
      typedef int8_t small __attribute__((vector_size(lanes)));
      small l8 = __builtin_convertvector(lo, small), h8 = __builtin_convertvector(hi, small);
      const long at = g * group + i;
      if (!l.paired) {
        int8_t* unit = to + at / l.unit * 2 * l.unit + at % l.unit;
        memcpy(unit, &l8, lanes), memcpy(unit + l.unit, &h8, lanes);
        continue;
      }
#if defined(__AVX512F__)
      small order = {0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15};
      l8 = (small)_mm_shuffle_epi8((__m128i)l8, (__m128i)order), h8 = (small)_mm_shuffle_epi8((__m128i)h8, (__m128i)order);
#else
      l8 = __builtin_shufflevector(l8, l8, 0, 2, 4, 6, 1, 3, 5, 7), h8 = __builtin_shufflevector(h8, h8, 0, 2, 4, 6, 1, 3, 5, 7);
#endif
      int8_t* unit = to + at / l.unit * 2 * l.unit + at % l.unit / 2;
      constexpr int n = lanes / 2;
      memcpy(unit, &l8, n), memcpy(unit + half, (const char*)&l8 + n, n);
      memcpy(unit + 2 * half, &h8, n), memcpy(unit + 3 * half, (const char*)&h8 + n, n);
    }
    int32_t all = 0;
    for (int i = 0; i < lanes; i++) all += total[i];
    scale[g] = number ? (something ? size / float(largest) : 0) : __builtin_nanf("");
    sum[g] = scale[g] * float(all);
  }
}

inline void integer_row(const Product& p, long row, int group, Layout l, int8_t* to, float* scale, float* sum) {
  const char* x = (const char*)p.x + row * p.k * 2;
  if (p.type == Type::f16) integers<1>(x, p.k, group, l, to, scale, sum);
  else integers<2>(x, p.k, group, l, to, scale, sum);
}

// One row of x times as many rows of w as lanes, from row n0 on, to c. x is in units of a vector's weights.
template <int bits, int group> void one_row(const Matrix& w, long n0, const int8_t* x, const float* scale, const float* sum, float* c) {
  // A part is the weights whose sums are in four lanes.
  constexpr long per_part = bits == 4 ? 32 : 16, per_unit = vector_bytes / 16, per_group = group / per_part;
  constexpr long step = per_unit * per_part * bits / 8, ahead = 10240; // bytes of a row
  const long stride = w.row_bytes(), groups = w.columns / group, parts = w.columns / per_part;
  const char* rows[lanes];
  for (long r = 0; r < lanes; r++) rows[r] = (const char*)w.data + lesser(n0 + r, w.rows - 1) * stride;
  alignas(64) float scales[lanes * lanes], biases[lanes * lanes];
  vf y = vset(0);
  vi whole = {};
  long g = 0, offset = 0;
  for (long at = 0; at < parts; at += per_unit, offset += step) {
    const long left = stride - offset;
    vi a[lanes];
    if constexpr (bits == 4) {
      const bytes low0 = load(x), low1 = load(x + vector_bytes), high0 = load(x + 2 * vector_bytes), high1 = load(x + 3 * vector_bytes);
      x += 4 * vector_bytes;
      auto row = [&](int r, bytes z) {
        const bytes q0 = low(z), q1 = high(z);
        vi hi = dot(dot(vi{}, q0, high0), q1, high1), lo = dot(dot(vi{}, q0, low0), q1, low1);
        a[r] = (hi << 4) + lo;
      };
      if (left >= vector_bytes) {
#pragma GCC unroll 16
        for (int r = 0; r < lanes; r++) {
          __builtin_prefetch(rows[r] + offset + ahead);
          row(r, load(rows[r] + offset));
        }
      } else {
        for (int r = 0; r < lanes; r++) row(r, load_first(rows[r] + offset, left));
      }
    } else {
#if defined(GOMLX_ANY_BITS)
      const bytes lo = load(x), hi = load(x + vector_bytes);
      x += 2 * vector_bytes;
#pragma GCC unroll 16
      for (int r = 0; r < lanes; r++) {
        __builtin_prefetch(rows[r] + offset + ahead);
        const bytes q = weights_of<bits>(rows[r] + offset, left);
        a[r] = (dot(vi{}, q, hi) << 4) + dot(vi{}, q, lo);
      }
#endif
    }
    vi part[lanes / 4];
    sum_rows(a, part);
    for (long u = 0; u < per_unit && at + u < parts; u++) {
      whole += part[u];
      if ((at + u + 1) % per_group) continue;
      if (g % lanes == 0) {
        const long n = lesser(lanes, groups - g);
        scales_of(w, n0, g, n, scales, biases);
        // Those of the next rows.
        for (long i = 0; i < n * lanes * 2; i += 64) {
          const long later = (n0 + lanes) * groups * size_of(w.type) + g * lanes * 2 + i;
          __builtin_prefetch((const char*)w.scales + later + 2048);
          if (w.biases) __builtin_prefetch((const char*)w.biases + later + 2048);
        }
      }
      y = vfma(number(whole) * vset(scale[g]), vload(scales + g % lanes * lanes), y);
      y = vfma(vload(biases + g % lanes * lanes), vset(sum[g]), y);
      whole = vi{};
      g++;
    }
  }
  vstore(c, y);
}

// The sums of a block and some rows of x, y [32][lanes], to c, which has a row of x in each row.
inline void spread_rows(const float* y, long count, float* c) {
  for (long n = 0; n < block; n += lanes) {
    vi square[lanes];
    for (long i = 0; i < lanes; i++) square[i] = (vi)vload(y + (n + i) * lanes);
    transpose(square);
    for (long m = 0; m < count; m++) vstore(c + m * block + n, (vf)square[m]);
  }
}

} // namespace integer

struct Integers {
#if defined(GOMLX_TILES)
  static constexpr long chunk = 32, few = 1; // rows of x at once; and how many are multiplied one by one
#else
  static constexpr long chunk = lanes, few = 3;
#endif
  static constexpr int panel_type = 0;
  static constexpr long width = lanes; // rows of x side by side

  const int8_t* x;
  const float *scale, *sum;
  long k, groups;
  int bits, group;
  integer::Layout layout;
  bool alone; // rows of x one by one
  int panels; // a block is unpacked as q, and as 16 q too where tiles are multiplied with two sets of rows

  // Whether a product's part is of this kind.
  static bool takes(const Product& p, const Matrix& w) {
#if defined(GOMLX_ANY_BITS)
    return w.bits && p.type != Type::f32;
#else
    return w.bits == 4 && p.type != Type::f32;
#endif
  }

  void take(const Product& p) {
    k = p.k, bits = p.parts[0].bits, group = p.parts[0].group, groups = k / group, alone = p.m <= few;
#if defined(GOMLX_TILES)
    panels = p.m > width && bits <= 4 ? 2 : 1; // 16 q of more bits is more than a byte
#else
    panels = 1;
#endif
    layout.paired = bits == 4;
    layout.unit = alone ? (layout.paired ? 2 : 1) * integer::vector_bytes : lesser(group, 64);
    const long bytes = layout.bytes(k), sets = alone ? p.m : (p.m + width - 1) / width * width;
    int8_t* to = (int8_t*)gomlx::pool_scratch(gomlx::slot_tiles, sets * (bytes + 8 * groups));
    float *scales = (float*)(to + sets * bytes), *sums = scales + sets * groups;
    x = to, scale = scales, sum = sums;
    if (alone) {
      each_row(p.m, 1, [&](long r) {
        if (bytes != 2 * k) memset(to + r * bytes, 0, bytes);
        integer::integer_row(p, r, group, layout, to + r * bytes, scales + r * groups, sums + r * groups);
      });
      return;
    }
    each_row(sets / width, 1, [&](long set) { side_by_side(p, set, to + set * width * bytes, scales + set * width * groups, sums + set * width * groups); });
  }

  // `width` rows of x, with four columns of each row side by side: [unit][lo, hi][unit / 4][width] of four bytes, and scales and sums
  // [group][width]. Rows that are not there are zeros.
  void side_by_side(const Product& p, long set, int8_t* to, float* scales, float* sums) const {
    const long rows = lesser(width, p.m - set * width), bytes = 2 * k;
    int8_t* plain = (int8_t*)gomlx::pool_scratch(gomlx::slot_input, width * (bytes + 8 * groups));
    float *scale_of = (float*)(plain + width * bytes), *sum_of = scale_of + width * groups;
    for (long r = 0; r < width; r++) {
      if (r < rows) {
        integer::integer_row(p, set * width + r, group, layout, plain + r * bytes, scale_of + r * groups, sum_of + r * groups);
      } else {
        memset(plain + r * bytes, 0, bytes);
        for (long g = 0; g < groups; g++) scale_of[r * groups + g] = sum_of[r * groups + g] = 0;
      }
    }
    for (long i = 0; i < bytes; i += 4 * lanes) { // bytes of a row are a multiple of 64
      vi square[lanes];
      for (long r = 0; r < lanes; r++) memcpy(&square[r], plain + r * bytes + i, 4 * lanes);
      integer::transpose(square);
      memcpy(to + i * width, square, sizeof square);
    }
    for (long g = 0; g < groups; g++)
      for (long r = 0; r < width; r++) scales[g * width + r] = scale_of[r * groups + g], sums[g * width + r] = sum_of[r * groups + g];
  }

  long panel_bytes() const { return panels * block * k + 8 * groups * block; }
  bool direct(const Matrix&, const Product&, long) const { return alone; }

  // A block as bytes, [unit][q, 16 q][32][unit], and behind them scales and biases [group][32 / lanes][lanes].
  void unpack(const Matrix& w, long first, long count, char* panel) const {
    const long unit = layout.unit, stride = w.row_bytes();
    const char* rows = (const char*)w.data + first * stride;
    // Unit by unit, so that the panel is written from its beginning to its end.
    auto all = [&]<int half, int panels>() {
      char* q = panel;
      for (long u = 0; u < k / (2 * half); u++, q += (panels - 1) * block * 2 * half)
        for (long r = 0; r < block; r++, q += 2 * half) {
          const char* from = rows + lesser(r, count - 1) * stride + u * half;
          if (u * half % 64 == 0) __builtin_prefetch(from + block * stride);
          unpack_unit<half, panels>(from, q);
        }
    };
#if defined(GOMLX_ANY_BITS)
    if (bits != 4) {
      auto any = [&]<int bits>() {
        char* q = panel;
        for (long u = 0; u < k / unit; u++, q += (panels - 1) * block * unit)
          for (long r = 0; r < block; r++, q += unit) {
            const char* from = rows + lesser(r, count - 1) * stride + u * unit * bits / 8;
            __builtin_prefetch(from + block * stride);
            const integer::bytes weights = integer::weights_of<bits>(from, unit * bits / 8);
            const __mmask64 there = ~0ull >> (64 - unit);
            _mm512_mask_storeu_epi8(q, there, weights);
            if (panels == 2) _mm512_mask_storeu_epi8(q + block * unit, there, _mm512_slli_epi16(weights, 4)); // of up to three bits
          }
      };
      with_bits(any);
    } else
#endif
    if (unit == 64) panels == 1 ? all.template operator()<32, 1>() : all.template operator()<32, 2>();
    else panels == 1 ? all.template operator()<16, 1>() : all.template operator()<16, 2>();
    char* to = panel + panels * block * k;
    float *scales = (float*)to, *biases = scales + groups * block;
    alignas(64) float some[2][lanes * lanes];
    for (long n = 0; n < block; n += lanes)
      for (long g = 0; g < groups; g += lanes) {
        const long there = lesser(lanes, groups - g);
        integer::scales_of(w, lesser(first + n, w.rows - 1), g, there, some[0], some[1]);
        for (long i = 0; i < there; i++) {
          memcpy(scales + (g + i) * block + n, some[0] + i * lanes, 4 * lanes);
          memcpy(biases + (g + i) * block + n, some[1] + i * lanes, 4 * lanes);
        }
      }
  }

  // Calls f with the bits as a constant.
  template <class F> INLINE void with_bits(F f) const {
#if defined(GOMLX_ANY_BITS)
    switch (bits) {
      case 2: return f.template operator()<2>();
      case 3: return f.template operator()<3>();
      case 5: return f.template operator()<5>();
      case 6: return f.template operator()<6>();
      case 8: return f.template operator()<8>();
    }
#endif
    f.template operator()<4>();
  }

  // A unit of a row of four bits: its even weights, then its odd ones.
  template <int half, int panels> static INLINE void unpack_unit(const char* from, char* q) {
    auto put = [&](char* to, __m256i even, __m256i odd) {
      if constexpr (half == 32) {
        _mm256_storeu_si256((__m256i*)to, even), _mm256_storeu_si256((__m256i*)(to + 32), odd);
      } else {
        _mm256_storeu_si256((__m256i*)to, _mm256_inserti128_si256(even, _mm256_castsi256_si128(odd), 1));
      }
    };
    const __m256i fifteen = _mm256_set1_epi8(15);
    const __m256i both = half == 32 ? _mm256_loadu_si256((const __m256i*)from) : _mm256_zextsi128_si256(_mm_loadu_si128((const __m128i*)from));
    const __m256i even = _mm256_and_si256(both, fifteen), odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), fifteen);
    put(q, even, odd);
    if (panels == 2) put(q + block * 2 * half, _mm256_slli_epi16(even, 4), _mm256_slli_epi16(odd, 4));
  }

  void multiply(const Rows& w, long m0, long count, float* c) const {
    if (alone) {
      for (long m = m0; m < m0 + count; m++)
        for (long n = 0; n < w.count; n += lanes) {
          const int8_t* from = x + m * layout.bytes(k);
          float* to = c + (m - m0) * block + n;
          with_bits([&]<int bits>() {
            switch (group) {
              case 16: // of four bits there are none: a part is more
                if constexpr (bits != 4) integer::one_row<bits, 16>(*w.of, w.first + n, from, scale + m * groups, sum + m * groups, to);
                break;
              case 32: integer::one_row<bits, 32>(*w.of, w.first + n, from, scale + m * groups, sum + m * groups, to); break;
              case 64: integer::one_row<bits, 64>(*w.of, w.first + n, from, scale + m * groups, sum + m * groups, to); break;
              default: integer::one_row<bits, 128>(*w.of, w.first + n, from, scale + m * groups, sum + m * groups, to); break;
            }
          });
        }
      return;
    }
    const float *scales = (const float*)(w.data + panels * block * k), *biases = scales + groups * block;
    const int8_t* from = x + m0 * 2 * k;
    const float *x_scale = scale + m0 * groups, *x_sum = sum + m0 * groups;
#if defined(GOMLX_TILES)
    if (count > width && panels == 2) return by_tiles<2>(w.data, scales, biases, from, x_scale, x_sum, count, c);
    for (long m = 0; m < count; m += width)
      by_tiles<1>(w.data, scales, biases, from + m * 2 * k, x_scale + m * groups, x_sum + m * groups, lesser(width, count - m), c + m * block);
#else
    by_vectors(w.data, scales, biases, from, x_scale, x_sum, count, c);
#endif
  }

#if defined(GOMLX_TILES)
  // Tiles 0 to 3 are results, 4 and 5 weights, 6 and 7 of x.
  void start() const {
    if (alone) return;
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; i++) {
      config.rows[i] = i < 6 ? 16 : uint8_t(layout.unit / 4);
      config.bytes[i] = i == 4 || i == 5 ? uint16_t(layout.unit) : 64;
    }
    _tile_loadconfig(&config);
  }
  void stop() const { if (!alone) _tile_release(); }

  // A block times one or two sets of rows of x. While tiles are multiplied, the sums of the group before are scaled.
  template <int sets> void by_tiles(const char* panel, const float* scales, const float* biases, const int8_t* from, const float* x_scale, const float* x_sum, long count, float* c) const {
    alignas(64) float y[sets][block * width];
    alignas(64) int32_t tiles[2][4][256];
    memset(y, 0, sizeof y);
    for (long g = 0; g <= groups; g++) {
      if (g < groups) multiply_group<sets>(panel, from);
      if (g > 0)
        for (int set = 0; set < sets; set++) {
          const vf of_x = vload(x_scale + (set * groups + g - 1) * width), total = vload(x_sum + (set * groups + g - 1) * width);
          const float *scale_of = scales + (g - 1) * block, *bias_of = biases + (g - 1) * block;
          for (int n = 0; n < block; n++) {
            const int32_t* sums = tiles[(g - 1) % 2][0] + n * 16;
            vi whole = sets == 2 ? *(const vi*)(sums + set * 512) : (*(const vi*)(sums + 512) << 4) + *(const vi*)sums;
            float* to = y[set] + n * width;
            vf v = vfma(vset(scale_of[n]), integer::number(whole) * of_x, vload(to));
            vstore(to, vfma(vset(bias_of[n]), total, v));
          }
        }
      if (g < groups) {
        _tile_stored(0, tiles[g % 2][0], 64);
        _tile_stored(1, tiles[g % 2][1], 64);
        _tile_stored(2, tiles[g % 2][2], 64);
        _tile_stored(3, tiles[g % 2][3], 64);
      }
    }
    for (int set = 0; set < sets; set++) integer::spread_rows(y[set], lesser(width, count - set * width), c + set * width * block);
  }

  // The sums of a group. One set: q times lo, tiles 0 and 1, and q times hi, 2 and 3. Two sets: q times lo and 16 q times hi
  // together, 0 and 1 for the first and 2 and 3 for the second.
  template <int sets> INLINE void multiply_group(const char*& panel, const int8_t*& from) const {
    const long unit = layout.unit, next_set = width * 2 * k;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long u = 0; u < group / unit; u++, panel += panels * block * unit, from += 2 * width * unit) {
      _tile_loadd(6, from, 64);
      _tile_loadd(4, panel, unit);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(5, panel + 16 * unit, unit);
      _tile_dpbusd(1, 5, 6);
      if (sets == 1) {
        _tile_loadd(7, from + width * unit, 64);
      } else {
        _tile_loadd(7, from + next_set, 64);
      }
      _tile_dpbusd(2, 4, 7);
      _tile_dpbusd(3, 5, 7);
      if (sets == 1) continue;
      const char* upper = panel + block * unit;
      _tile_loadd(6, from + width * unit, 64);
      _tile_loadd(4, upper, unit);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(5, upper + 16 * unit, unit);
      _tile_dpbusd(1, 5, 6);
      _tile_loadd(7, from + width * unit + next_set, 64);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbusd(3, 5, 7);
    }
  }
#else
  void start() const {}
  void stop() const {}

  // A block times a set of rows of x.
  void by_vectors(const char* panel, const float* scales, const float* biases, const int8_t* from, const float* x_scale, const float* x_sum, long count, float* c) const {
    constexpr int at_once = lanes / 2; // rows of weights
    alignas(64) float y[block * width];
    const long unit = layout.unit;
    for (long n = 0; n < block; n += at_once) {
      vf sums[at_once];
      for (int i = 0; i < at_once; i++) sums[i] = vset(0);
      const char* q = panel + n * unit;
      const int8_t* v = from;
      for (long g = 0; g < groups; g++) {
        vi lo[at_once] = {}, hi[at_once] = {};
        for (long u = 0; u < group / unit; u++, q += block * unit, v += 2 * width * unit)
          for (long i = 0; i < unit / 4; i++) {
            const integer::bytes low = integer::load(v + i * 4 * width), high = integer::load(v + width * unit + i * 4 * width);
#pragma GCC unroll 8
            for (int r = 0; r < at_once; r++) {
              const integer::bytes w = integer::word(q + r * unit + 4 * i);
              lo[r] = integer::dot(lo[r], w, low), hi[r] = integer::dot(hi[r], w, high);
            }
          }
        const vf of_x = vload(x_scale + g * width), total = vload(x_sum + g * width);
        for (int r = 0; r < at_once; r++) {
          const long row = g * block + n + r;
          sums[r] = vfma(vset(scales[row]), integer::number((hi[r] << 4) + lo[r]) * of_x, sums[r]);
          sums[r] = vfma(vset(biases[row]), total, sums[r]);
        }
      }
      for (int r = 0; r < at_once; r++) vstore(y + (n + r) * width, sums[r]);
    }
    integer::spread_rows(y, count, c);
  }
#endif
};
} // namespace

#endif

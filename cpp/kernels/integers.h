// Products with packed weights by sums of integers.
//
// x is turned into integers of twelve bits, with a scale for every group of its columns that the weights have: x = scale * (16 hi + lo),
// hi and lo in signed bytes. A group's sum of q * x is then exact in whatever order it is added, so a row of x alone, by vectors, and rows
// of x together, by vectors or tiles, come to the same bits: what rounds is only the chain over groups,
// sum += (S * x's scale) * w's scale, sum += w's bias * (sum of x), in the order of the groups.
// Twelve bits round x by at most 1/4078 of its group's largest number. bfloat16 rounds by 1/512 of each number, on the
// average about as much, and here weights are not rounded at all.
//
// Weights are taken interleaved (interleave.h); those that are not are interleaved block by block for every product.
// Weights of four bits are taken so wherever there is AVX2, others where there are VNNI and VBMI: without VNNI products of larger
// weights do not fit the instruction's sums.
#pragma once

#include "block.h"
#include "interleave.h"

#if defined(__AVX2__)
#define GOMLX_INTEGERS

namespace {

// Sixteen rows of weights, interleaved.
struct Rows16 {
  const char* weights;
  const char *scales, *biases; // biases may be null
  float middle;
};

// Sixteen rows from one on, in room if they are not interleaved: weights, then scales, then biases.
inline Rows16 rows16(const Matrix& w, long row, const char* room) {
  const long weights = sixteen * w.row_bytes(), numbers = sixteen * (w.columns / w.group) * gomlx::size_of(w.type), at = row / sixteen;
  if (w.woven(row))
    return {(const char*)w.data + at * weights, (const char*)w.scales + at * numbers, w.biases ? (const char*)w.biases + at * numbers : nullptr, w.middle()};
  return {room, room + weights, w.biases ? room + weights + numbers : nullptr, w.middle()};
}

// The same, interleaved to room if need be.
inline Rows16 interleaved_rows(const Matrix& w, long row, char* room) {
  const Rows16 to = rows16(w, row, room);
  if (w.woven(row)) return to;
  interleave_weights(w, row, room);
  interleave_numbers(w, w.scales, row, room + (to.scales - room));
  if (to.biases) interleave_numbers(w, w.biases, row, room + (to.biases - room));
  return to;
}

// Calls f with the bits as a constant: 4, or any others if a level takes these.
template <bool any, class F> INLINE void with_bits([[maybe_unused]] int bits, F f) {
  if constexpr (any) {
    switch (bits) {
      case 2: return f.template operator()<2>();
      case 3: return f.template operator()<3>();
      case 5: return f.template operator()<5>();
      case 6: return f.template operator()<6>();
      case 8: return f.template operator()<8>();
    }
  }
  f.template operator()<4>();
}

namespace integer {

constexpr int largest = 2039; // 16 * 127 + 7

#if defined(__AVX512F__)
using bytes = __m512i;
INLINE bytes load(const void* p) { return _mm512_loadu_si512(p); }
INLINE void store(void* p, bytes b) { _mm512_storeu_si512(p, b); }
INLINE bytes low(bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
INLINE bytes high(bytes b) { return low(_mm512_srli_epi16(b, 4)); }
INLINE bytes word(const void* p) { int32_t i; memcpy(&i, p, 4); return _mm512_set1_epi32(i); }
#if defined(__AVX512VNNI__)
INLINE vi dot(vi sum, bytes q, bytes x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, q, x); }
#else
INLINE vi dot(vi sum, bytes q, bytes x) { return sum + (vi)_mm512_madd_epi16(_mm512_maddubs_epi16(q, x), _mm512_set1_epi16(1)); }
#endif
INLINE vf number(vi v) { return _mm512_cvtepi32_ps((__m512i)v); }
#else
using bytes = __m256i;
INLINE bytes load(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
INLINE bytes low(bytes b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
INLINE bytes high(bytes b) { return low(_mm256_srli_epi16(b, 4)); }
INLINE bytes word(const void* p) { int32_t i; memcpy(&i, p, 4); return _mm256_set1_epi32(i); }
INLINE vi dot(vi sum, bytes q, bytes x) { return sum + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16(q, x), _mm256_set1_epi16(1)); }
INLINE vf number(vi v) { return (vf)_mm256_cvtepi32_ps((__m256i)v); }
#endif

// Eight columns of as many rows as there are lanes, four columns of a row in each lane.
struct Eight {
  bytes first, second; // of four bits the even columns and the odd ones, otherwise the first four and the last four
};

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI__)
#define GOMLX_ANY_BITS

// How to take eight weights out of every b bytes.
template <int bits> struct Places {
  alignas(64) uint8_t spread[64]; // the bytes of the eight rows, each row at the start of a 64-bit lane
  alignas(64) uint8_t shift[64];
  constexpr Places() : spread(), shift() {
    for (int i = 0; i < 64; i++) {
      spread[i] = uint8_t(i % 8 < bits ? i / 8 * bits + i % 8 : 0);
      shift[i] = uint8_t(i % 8 * bits);
    }
  }
};

// Eight columns of eight rows, in 64-bit lanes.
template <int bits> INLINE bytes eight_rows(const char* p) {
  if constexpr (bits == 8) return load(p);
  static constexpr Places<bits> places;
  const bytes packed = _mm512_maskz_loadu_epi8(~0ull >> (64 - 8 * bits), p);
  const bytes spread = _mm512_permutexvar_epi8(_mm512_load_si512(places.spread), packed);
  return _mm512_and_si512(_mm512_multishift_epi64_epi8(_mm512_load_si512(places.shift), spread), _mm512_set1_epi8((1 << bits) - 1));
}

struct Halves {
  alignas(64) int32_t first[16], second[16];
  constexpr Halves() : first(), second() {
    for (int i = 0; i < 16; i++) first[i] = 2 * i, second[i] = 2 * i + 1;
  }
};

template <int bits> INLINE Eight eight_columns(const char* p) {
  if constexpr (bits == 4) return {low(load(p)), high(load(p))};
  static constexpr Halves halves;
  const bytes a = eight_rows<bits>(p), b = eight_rows<bits>(p + 8 * bits);
  return {_mm512_permutex2var_epi32(a, _mm512_load_si512(halves.first), b), _mm512_permutex2var_epi32(a, _mm512_load_si512(halves.second), b)};
}
#else
template <int bits> INLINE Eight eight_columns(const char* p) {
  static_assert(bits == 4);
  const bytes packed = load(p);
  return {low(packed), high(packed)};
}
#endif

#if defined(__AVX512F__)
// One of the eight columns as numbers, a row in each lane.
template <int bits, int n> INLINE vf column(const Eight& e) {
  const bytes from = (bits == 4 ? n % 2 : n / 4) ? e.second : e.first;
  constexpr int byte = bits == 4 ? n / 2 : n % 4;
  if constexpr (byte == 0) return number((vi)_mm512_and_si512(from, _mm512_set1_epi32(255)));
  else if constexpr (byte == 3) return number((vi)_mm512_srli_epi32(from, 24));
  else return number((vi)_mm512_and_si512(_mm512_srli_epi32(from, 8 * byte), _mm512_set1_epi32(255)));
}
#endif

// Some rows of x as integers. Of each group there are lo of its columns and then hi; for weights of four bits, in each eight columns the even
// ones come first. For tiles sixteen rows lie side by side. scale and sum are of every row's groups: sum = scale times the group's integers.
struct Inputs {
  const int8_t* x; // [m][groups][2][group], or [m / 16][groups][16][2][group]
  const float *scale, *sum; // [m][groups]
};

// One row; its groups go to places `apart` bytes apart.
template <int type> void integers(const void* x, long k, int group, bool paired, int8_t* to, long apart, float* scale, float* sum) {
  for (long g = 0; g < k / group; g++, to += apart) {
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
      if (paired) {
#if defined(__AVX512F__)
        const small order = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
        l8 = (small)_mm_shuffle_epi8((__m128i)l8, (__m128i)order), h8 = (small)_mm_shuffle_epi8((__m128i)h8, (__m128i)order);
#else
        l8 = __builtin_shufflevector(l8, l8, 0, 2, 4, 6, 1, 3, 5, 7), h8 = __builtin_shufflevector(h8, h8, 0, 2, 4, 6, 1, 3, 5, 7);
#endif
      }
      memcpy(to + i, &l8, lanes), memcpy(to + group + i, &h8, lanes);
    }
    int32_t all = 0;
    for (int i = 0; i < lanes; i++) all += total[i];
    scale[g] = number ? (something ? size / float(largest) : 0) : __builtin_nanf("");
    sum[g] = scale[g] * float(all);
  }
}

// n rows of x times as many rows of weights as there are lanes, the part-th of sixteen, to c, whose rows are `block` apart.
template <int bits, int type, int n> void by_vectors(const Rows16& w, int part, Inputs x, long k, int group, float* c) {
  constexpr long step = bits * sixteen, ahead = 2048; // bytes
  const long groups = k / group;
  const char *q = w.weights + part * bits * lanes, *scales = w.scales + part * lanes * bytes_of<type>, *biases = w.biases ? w.biases + part * lanes * bytes_of<type> : nullptr;
  vf y[n];
  for (int i = 0; i < n; i++) y[i] = vset(0);
  const int8_t* v = x.x;
  for (long g = 0; g < groups; g++, v += group) {
    vi lo[n] = {}, hi[n] = {};
#pragma GCC unroll 2
    for (long u = 0; u < group / 8; u++, q += step, v += 8) {
      for (long i = 0; i < step; i += 64) __builtin_prefetch(q + ahead + i);
      const Eight e = eight_columns<bits>(q);
#pragma GCC unroll 8
      for (int i = 0; i < n; i++) {
        const int8_t* of = v + i * 2 * k;
        lo[i] = dot(dot(lo[i], e.first, word(of)), e.second, word(of + 4));
        hi[i] = dot(dot(hi[i], e.first, word(of + group)), e.second, word(of + group + 4));
      }
    }
    const vf scale = load_as<type>(scales, g * sixteen), bias = w.biases ? load_as<type>(biases, g * sixteen) : scale * vset(w.middle);
    for (int i = 0; i < n; i++) {
      y[i] = vfma(number((hi[i] << 4) + lo[i]) * vset(x.scale[i * groups + g]), scale, y[i]);
      y[i] = vfma(bias, vset(x.sum[i * groups + g]), y[i]);
    }
  }
  for (int i = 0; i < n; i++) vstore(c + i * block, y[i]);
}

} // namespace integer

struct Integers {
  static constexpr long chunk = 32; // rows of x that one block is multiplied with before its results are stored
  // Up to how many rows of x vectors are used, even where there are tiles: with ten both take the same time.
#if defined(GOMLX_TILES)
  static constexpr long few = 8;
#else
  static constexpr long few = 1l << 40;
#endif
  static constexpr int panel_type = 0;

  integer::Inputs x;
  long m, k, groups;
  int bits, group;
  bool vectors;
  int panels; // a block is unpacked as q, and as 16 q too where tiles are multiplied with two sets of rows
  bool stacked; // q and 16 q of a group are one tile: groups of 32 fill only half
  bool plain; // whether some rows are not interleaved

  // Whether weights of some bits are taken.
  static constexpr bool takes(int bits) {
#if defined(GOMLX_ANY_BITS)
    return bits != 0;
#else
    return bits == 4;
#endif
  }
  static bool takes(const Product& p, const Matrix& w) { return p.type != Type::f32 && takes(w.bits); }

  void take(const Product& p) {
    m = p.m, k = p.k, bits = p.parts[0].bits, group = p.parts[0].group, groups = k / group, vectors = m <= few;
    panels = m > sixteen && bits <= 4 ? 2 : 1; // 16 q of more bits is more than a byte
    stacked = panels == 2 && group == 32;
    plain = false;
    for (int i = 0; i < p.n_parts; i++) plain = plain || !p.parts[i].interleaved || p.parts[i].rows % sixteen;
    const long rows = vectors ? m : padded(m, sixteen); // tiles are read whole
    int8_t* to = (int8_t*)gomlx::pool_scratch(gomlx::slot_tiles, rows * (2 * k + 8 * groups));
    float *scale = (float*)(to + rows * 2 * k), *sum = scale + rows * groups;
    x = {to, scale, sum};
    if (!vectors && m % sixteen) memset(to + (rows - sixteen) * 2 * k, 0, sixteen * 2 * k);
    each_row(m, 1, [&](long r) {
      const char* from = (const char*)p.x + r * k * 2;
      auto row = p.type == Type::f16 ? integer::integers<1> : integer::integers<2>;
      int8_t* at = vectors ? to + r * 2 * k : to + (r / sixteen * sixteen * k + r % sixteen * group) * 2;
      row(from, k, group, bits == 4, at, vectors ? 2 * group : sixteen * 2 * group, scale + r * groups, sum + r * groups);
    });
  }

  // Interleaved rows that were not yet: weights, then scales, then biases.
  long interleaved_bytes() const { return plain ? block * (k * bits / 8 + 8 * groups) : 0; }
  long panel_bytes() const { return (vectors ? 0 : panels * block * k + 8 * groups * block) + interleaved_bytes(); }
  bool direct(const Matrix& w, const Product&, long count) const { return vectors && w.interleaved && count % sixteen == 0; }

  void unpack(const Matrix& w, long first, long count, char* panel) const {
    const long apart = interleaved_bytes() / 2;
    char* room = panel + panel_bytes() - interleaved_bytes();
    for (long n = 0; n < count; n += sixteen, room += apart) {
      [[maybe_unused]] const Rows16 rows = interleaved_rows(w, first + n, room);
#if defined(GOMLX_TILES)
      if (!vectors) expand(w, rows, n, panel);
#endif
    }
  }

#if defined(GOMLX_ANY_BITS)
  static constexpr bool any_bits = true;
#else
  static constexpr bool any_bits = false;
#endif

  void multiply(const Rows& w, long m0, long count, float* c) const {
#if defined(GOMLX_TILES)
    if (!vectors) {
      const long width = lesser(sixteen, m);
      const float *scales = (const float*)(w.data + panels * block * k), *biases = scales + groups * block;
      if (count > width && panels == 2) return by_tiles<2>(w.data, scales, biases, m0, count, c);
      for (long i = 0; i < count; i += width) by_tiles<1>(w.data, scales, biases, m0 + i, lesser(width, count - i), c + i * block);
      return;
    }
#endif
    const char* room = w.data + panel_bytes() - interleaved_bytes(); // of rows that were not interleaved
    for (long n = 0; n < w.count; n += sixteen, room += interleaved_bytes() / 2) {
      const Rows16 rows = rows16(*w.of, w.first + n, room);
      with_bits<any_bits>(bits, [&]<int bits>() {
        with_type(w.of->type, [&]<int type>() {
          for (int part = 0; part < sixteen / lanes; part++) by_vectors<bits, type>(rows, part, m0, count, c + n + part * lanes);
        });
      });
    }
  }

  template <int bits, int type> void by_vectors(const Rows16& rows, int part, long m0, long count, float* c) const {
    long i = 0;
    auto next = [&]<int n>() {
      for (; count - i >= n; i += n) {
        const long at = m0 + i;
        integer::by_vectors<bits, type, n>(rows, part, {x.x + at * 2 * k, x.scale + at * groups, x.sum + at * groups}, k, group, c + i * block);
      }
    };
#if defined(__AVX512F__)
    next.template operator()<8>();
#endif
    next.template operator()<4>();
    next.template operator()<2>();
    next.template operator()<1>();
  }

#if defined(GOMLX_TILES)
  // Columns in a tile of x, and bytes of its rows.
  long unit() const { return lesser(group, 64); }
  long tile_bytes() const { return stacked ? 64 : unit(); }

  // Sixteen rows, the n-th and on of a block, as bytes, [16 rows][columns / 4][16][4], and 16 q likewise after all of them or, stacked,
  // after those of a group; then scales and biases, [group][32].
  void expand(const Matrix& w, const Rows16& rows, long n, char* panel) const {
    with_bits<any_bits>(bits, [&]<int bits>() {
      char* to = panel + (stacked ? 2 : 1) * n * k;
      const char* from = rows.weights;
      const long above = stacked ? 32 * sixteen : block * k;
      for (long u = 0; u < k / 8; u++, from += bits * sixteen, to += 128) {
        __builtin_prefetch(from + 4096);
        if (stacked && u > 0 && u % 4 == 0) to += above;
        char* upper = to + above;
        const integer::Eight e = integer::eight_columns<bits>(from);
        integer::store(to, e.first), integer::store(to + 64, e.second);
        if (panels == 2) integer::store(upper, _mm512_slli_epi16(e.first, 4)), integer::store(upper + 64, _mm512_slli_epi16(e.second, 4));
      }
    });
    float *scales = (float*)(panel + panels * block * k) + n, *biases = scales + groups * block;
    with_type(w.type, [&]<int type>() {
      for (long g = 0; g < groups; g++) {
        const vf scale = load_as<type>(rows.scales, g * sixteen);
        vstore(scales + g * block, scale);
        vstore(biases + g * block, rows.biases ? load_as<type>(rows.biases, g * sixteen) : scale * vset(rows.middle));
      }
    });
  }

  // Tiles 0 to 3 are results, 4 and 5 of x, 6 and 7 weights.
  void start() const {
    if (vectors) return;
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; i++) {
      config.rows[i] = uint8_t(i < 6 ? lesser(sixteen, m) : tile_bytes() / 4);
      config.bytes[i] = i == 4 || i == 5 ? uint16_t(tile_bytes()) : 64;
    }
    _tile_loadconfig(&config);
  }
  void stop() const { if (!vectors) _tile_release(); }

  // A block times one or two sets of rows of x. While tiles are multiplied, the sums of the group before are scaled.
  template <int sets> void by_tiles(const char* panel, const float* scales, const float* biases, long m0, long count, float* c) const {
    constexpr long lag = 2;
    alignas(64) int32_t tiles[3][4][256 + 16];
    memset(c, 0, count * block * sizeof(float));
    const int8_t* from = x.x + m0 * 2 * k;
    for (long g = 0; g < groups + lag; g++) {
      if (g < groups) {
        if (stacked) multiply_stacked<sets>(panel + 2 * g * group * sixteen, from + 2 * g * group * sixteen);
        else multiply_group<sets>(panel + g * group * sixteen, from + 2 * g * group * sixteen);
      }
      if (g >= lag) {
        const vf scale[2] = {vload(scales + (g - lag) * block), vload(scales + (g - lag) * block + 16)};
        const vf bias[2] = {vload(biases + (g - lag) * block), vload(biases + (g - lag) * block + 16)};
        for (long i = 0; i < count; i++) {
          const vf of_x = vset(x.scale[(m0 + i) * groups + g - lag]), total = vset(x.sum[(m0 + i) * groups + g - lag]);
          for (int n = 0; n < 2; n++) {
            // One set: lo in tiles 0 and 1, hi in 2 and 3. Two: both together, of each set in two tiles.
            const int32_t* sums = tiles[(g - lag) % 3][n] + (sets == 2 ? i / 16 * 544 + i % 16 * 16 : i * 16);
            const vi whole = sets == 2 || stacked ? *(const vi*)sums : (*(const vi*)(sums + 544) << 4) + *(const vi*)sums;
            float* to = c + i * block + n * 16;
            vstore(to, vfma(bias[n], total, vfma(integer::number(whole) * of_x, scale[n], vload(to))));
          }
        }
      }
      if (g < groups) {
        _tile_stored(0, tiles[g % 3][0], 64);
        _tile_stored(1, tiles[g % 3][1], 64);
        if (sets == 1 && stacked) continue;
        _tile_stored(2, tiles[g % 3][2], 64);
        _tile_stored(3, tiles[g % 3][3], 64);
      }
    }
  }

  // The sums of a group of 32: rows of lo and hi times q above 16 q.
  template <int sets> INLINE void multiply_stacked(const char* panel, const int8_t* from) const {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(4, from, 64);
    _tile_loadd(6, panel, 64);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, panel + 2 * sixteen * k, 64);
    _tile_dpbsud(1, 4, 7);
    if (sets == 1) return;
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(5, from + sixteen * 2 * k, 64);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }

  // The sums of a group. One set: lo times q, tiles 0 and 1, and hi times q, 2 and 3. Two sets: lo times q and hi times 16 q
  // together, 0 and 1 for the first and 2 and 3 for the second.
  template <int sets> INLINE void multiply_group(const char* panel, const int8_t* from) const {
    const long stride = 2 * group, next_set = sixteen * 2 * k, other = sixteen * k, upper = block * k;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long u = 0; u < group; u += unit(), panel += unit() * sixteen, from += unit()) {
      _tile_loadd(4, from, stride);
      _tile_loadd(6, panel, 64);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(7, panel + other, 64);
      _tile_dpbsud(1, 4, 7);
      if (sets == 1) {
        _tile_loadd(5, from + group, stride);
      } else {
        _tile_loadd(5, from + next_set, stride);
      }
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
      if (sets == 1) continue;
      _tile_loadd(4, from + group, stride);
      _tile_loadd(6, panel + upper, 64);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(7, panel + upper + other, 64);
      _tile_dpbsud(1, 4, 7);
      _tile_loadd(5, from + group + next_set, stride);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
#else
  void start() const {}
  void stop() const {}
#endif
};
} // namespace

#endif

// Products of many rows with packed weights on AMX: each weight as the sum of two bfloat16 numbers.
//
// A weight is computed in float32 as scale * q + bias, and becomes upper + lower: upper is the nearest bfloat16 number, lower the one nearest to
// what is left. Together they have sixteen bits of the weight, eight more than bfloat16; x is taken as it is. So a product is two products of
// bfloat16 tiles that go to the same sums: no group's sums have to be stored and scaled, which is what takes most of the time when
// integers (integers.h) are multiplied by tiles. Integers are quicker for few rows, since they need no unpacked weights.
//
// Results differ in their last bits from those of integers. That is why the caller says which is wanted (Product::many), and not the
// number of rows: a row's bits are the same alone and among others.
#pragma once

#include "integers.h"

#if defined(GOMLX_TILES)

namespace {

struct Split {
  static constexpr long step = 32, chunk = 32, tile = 1024; // columns of a tile; rows of x that one block is multiplied with; bytes of a tile
  static constexpr long kept = 1 << 19; // bytes of weights that a task unpacks at once
  static constexpr int panel_type = 0;

  const char* x; // tiles of 16 rows of 32 numbers, [m / 16][k / 32][16][32]; fewer rows if there are only so many
  long m, k, groups;
  int bits;
  bool plain; // whether some rows are not interleaved

  static bool takes(const Product& p, const Matrix& w) { return p.many && p.type == Type::bf16 && w.bits && p.k % step == 0; }

  void take(const Product& p) {
    m = p.m, k = p.k, bits = p.parts[0].bits, groups = k / p.parts[0].group;
    plain = false;
    for (int i = 0; i < p.n_parts; i++) plain = plain || !p.parts[i].interleaved || p.parts[i].rows % sixteen;
    char* to = (char*)gomlx::pool_scratch(gomlx::slot_tiles, padded(m, sixteen) * k * 2);
    x = to;
    each_row((m + sixteen - 1) / sixteen, 1, [&](long set) {
      const long rows = lesser(sixteen, m - set * sixteen);
      char* tiles = to + set * sixteen * k * 2;
      for (long r = 0; r < sixteen; r++) {
        const char* from = (const char*)p.x + (set * sixteen + r) * k * 2;
        for (long i = 0; i < k / step; i++) {
          char* at = tiles + i * tile + r * 64;
          _mm512_store_si512(at, r < rows ? _mm512_loadu_si512(from + i * 64) : _mm512_setzero_si512());
        }
      }
    });
  }

  // Interleaved rows that were not yet.
  long interleaved_bytes() const { return plain ? sixteen * (k * bits / 8 + 8 * groups) : 0; }
  long panel_bytes() const { return padded(block * k * 4 + interleaved_bytes(), 64); }
  bool direct(const Matrix&, const Product&, long) const { return false; }

  // A block as tiles, [columns / 32][upper, lower][two sixteens][16 pairs of columns][16 rows][2]. A second sixteen that is not there is computed with
  // all the same, as zeros.
  void unpack(const Matrix& w, long first, long count, char* panel) const {
    for (long n = 0; n < count; n += sixteen) {
      const Rows16 rows = interleaved_rows(w, first + n, panel + block * k * 4);
      with_bits<true>(bits, [&]<int bits>() {
        with_type(w.type, [&]<int type>() { expand<bits, type>(w.group, rows, panel + n / sixteen * tile); });
      });
    }
    if (count <= sixteen)
      for (long i = 0; i < k / step; i++) memset(panel + (4 * i + 1) * tile, 0, tile), memset(panel + (4 * i + 3) * tile, 0, tile);
  }

  static constexpr int upper_half = int(0xffff0000);

  // Numbers a and b of sixteen lanes as pairs of bfloat16, which their upper halves are.
  static INLINE __m512i pairs(vf a, vf b) { return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32((__m512i)a, 16), (__m512i)b); }
  // Adds half of the last of sixteen bits, so that cutting off the eight after them rounds.
  static INLINE vf rounded(vf w) { return (vf)((vi)w + 0x80); }
  static INLINE vf without_upper(vf w) { return w - (vf)((vi)w & upper_half); }

  template <int bits, int type> void expand(int group, const Rows16& rows, char* to) const {
    const char* from = rows.weights;
    const long units = group / 8;
    for (long g = 0, u = 0; g < groups; g++) {
      const vf scale = load_as<type>(rows.scales, g * sixteen), bias = rows.biases ? load_as<type>(rows.biases, g * sixteen) : scale * vset(rows.middle);
      for (long i = 0; i < units; i++, u++, from += bits * sixteen) {
        __builtin_prefetch(from + 4096);
        const integer::Eight e = integer::eight_columns<bits>(from);
        char* at = to + u / 4 * 4 * tile + u % 4 * 256;
        auto pair = [&]<int p>() __attribute__((always_inline)) {
          const vf a = rounded(vfma(integer::column<bits, 2 * p>(e), scale, bias)), b = rounded(vfma(integer::column<bits, 2 * p + 1>(e), scale, bias));
          _mm512_store_si512(at + p * 64, pairs(a, b));
          _mm512_store_si512(at + 2 * tile + p * 64, pairs(without_upper(a), without_upper(b)));
        };
        pair.template operator()<0>(), pair.template operator()<1>(), pair.template operator()<2>(), pair.template operator()<3>();
      }
    }
  }

  // Tiles 0 to 3 are results, 4 and 5 of x, 6 and 7 weights.
  void start() const {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; i++) config.rows[i] = uint8_t(i < 6 ? lesser(sixteen, m) : 16), config.bytes[i] = 64;
    _tile_loadconfig(&config);
  }
  void stop() const { _tile_release(); }

  void multiply(const Rows& w, long m0, long count, float* c) const {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    by_tiles(w.data, x + m0 * k * 2, count);
    constexpr long row = block * 4;
    _tile_stored(0, c, row);
    _tile_stored(1, c + sixteen, row);
    if (count <= sixteen) return;
    _tile_stored(2, c + sixteen * block, row);
    _tile_stored(3, c + sixteen * block + sixteen, row);
  }

  // Adds to the results, of the first sixteen rows of x in tiles 0 and 1, of others in 2 and 3.
  void by_tiles(const char* panel, const char* first, long count) const {
    if (count <= sixteen) {
      for (long i = 0; i < k / step; i++, panel += 4 * tile, first += tile) {
        _tile_loadd(4, first, 64);
        _tile_loadd(6, panel, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + tile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(6, panel + 2 * tile, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + 3 * tile, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      return;
    }
    const char* second = first + sixteen * k * 2;
    for (long i = 0; i < k / step; i++, panel += 4 * tile, first += tile, second += tile) {
      _tile_loadd(4, first, 64);
      _tile_loadd(6, panel, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(7, panel + tile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_loadd(5, second, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      _tile_loadd(6, panel + 2 * tile, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      _tile_loadd(7, panel + 3 * tile, 64);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
};

} // namespace

#endif

// Products of rows with weights, x [m, k] times W [n, k] transposed.
//
// Weights are taken in blocks of 32 rows. A mode says how a block is multiplied: Floats with fused multiply-adds in
// float32, Dots with bfloat16 dot products, Tiles on AMX, Integers (integers.h) with sums of integers. In every mode each output is one chain
// of sums over k, of Integers over groups of k, whose order the mode fixes; how many rows of x are multiplied at once only changes which chains run side by side.
#pragma once

#include "integers.h"
#include "split.h"
#include "square.h"

namespace {

using gomlx::Scores;

// How far ahead of its use a row of weights is fetched, in bytes. Rows follow each other in memory, so some rows ahead is
// some kilobytes ahead; long rows are fetched ahead in themselves.
inline long fetch_ahead(long stride) { return stride <= 4096 ? padded(12288, stride) : 2048; }

// --- float32 ---------------------------------------------------------------------------------------

struct Floats {
  static constexpr long step = lanes, chunk = 24; // rows of x that one block is multiplied with before its results are stored
#if defined(__AVX512F__)
  static constexpr int most = 6; // rows of x at once; with four rows of weights their sums fill the registers
#elif defined(__aarch64__)
  static constexpr int most = 4;
#else
  static constexpr int most = 3;
#endif

  const float* x;
  long kp;

  // x as float32, padded with zeros.
  void take(const Product& p) {
    kp = padded(p.k, step);
    if (p.type == Type::f32 && kp == p.k) {
      x = (const float*)p.x;
      return;
    }
    float* wide = (float*)gomlx::pool_scratch(gomlx::slot_input, p.m * kp * sizeof(float));
    Matrix rows{p.x, p.type, p.m, p.k};
    each_row(p.m, 16, [&](long r) { float_row(rows, r, wide + r * kp, kp); });
    x = wide;
  }

  long panel_bytes() const { return block * kp * 4; }

  // Whether weights can be read where they are; otherwise they are unpacked first. For many rows of x that pays too.
  bool direct(const Matrix& w, const Product& p, long count) const { return !w.bits && w.columns % step == 0 && count == block && (w.type == Type::f32 || p.m < 8); }

  void unpack(const Matrix& w, long first, long count, char* panel) const {
    for (long r = 0; r < count; r++) float_row(w, first + r, (float*)panel + r * kp, kp);
  }
  static constexpr int panel_type = 0;

  template <int type, int s> void few(const char* const* w, long ahead, const float* from, float* c) const {
    vf sums[4][s];
    for (int r = 0; r < 4; r++)
      for (int i = 0; i < s; i++) sums[r][i] = vset(0);
    for (long k = 0; k < kp; k += step) {
      vf weights[4];
      for (int r = 0; r < 4; r++) {
        if (s <= 2 && k * bytes_of<type> % 64 == 0) __builtin_prefetch(w[r] + k * bytes_of<type> + ahead);
        weights[r] = load_as<type>(w[r], k);
      }
      for (int i = 0; i < s; i++) {
        vf v = vload(from + i * kp + k);
        for (int r = 0; r < 4; r++) sums[r][i] = vfma(weights[r], v, sums[r][i]);
      }
    }
    for (int i = 0; i < s; i++) {
      four f = vsum4(sums[0][i], sums[1][i], sums[2][i], sums[3][i]);
      memcpy(c + i * block, f.at, sizeof f.at);
    }
  }

  template <int type> void with(const Rows& w, long m0, long count, float* c) const {
    const long ahead = fetch_ahead(w.stride);
    for (long i = 0; i < count; i += most) {
      const float* from = x + (m0 + i) * kp;
      const long s = lesser(most, count - i);
      for (long n = 0; n < w.count; n += 4) {
        const char* rows[4];
        for (long r = 0; r < 4; r++) rows[r] = w.data + lesser(n + r, w.count - 1) * w.stride;
        float* to = c + i * block + n;
        switch (s) {
          case 1: few<type, 1>(rows, ahead, from, to); break;
          case 2: few<type, 2>(rows, ahead, from, to); break;
          case 3: few<type, 3>(rows, ahead, from, to); break;
          case 4: few<type, most < 4 ? 1 : 4>(rows, ahead, from, to); break;
          case 5: few<type, most < 5 ? 1 : 5>(rows, ahead, from, to); break;
          case 6: few<type, most < 6 ? 1 : 6>(rows, ahead, from, to); break;
        }
      }
    }
  }

  // Rows m0 to m0 + count of x times a block, to c [count, 32].
  void multiply(const Rows& w, long m0, long count, float* c) const {
    switch (w.type) {
      case 0: return with<0>(w, m0, count, c);
      case 1: return with<1>(w, m0, count, c);
      case 2: return with<2>(w, m0, count, c);
    }
  }
  void start() const {}
  void stop() const {}
};

// --- bfloat16 dot products --------------------------------------------------------------------------

#if defined(__AVX512BF16__)

// x as rows of kp numbers.
inline const bf16* bf16_inputs(const Product& p, long kp) {
  if (kp == p.k) return (const bf16*)p.x;
  bf16* to = (bf16*)gomlx::pool_scratch(gomlx::slot_input, p.m * kp * sizeof(bf16));
  each_row(p.m, 16, [&](long r) {
    memcpy(to + r * kp, (const bf16*)p.x + r * p.k, p.k * sizeof(bf16));
    for (long i = p.k; i < kp; i++) to[r * kp + i] = 0;
  });
  return to;
}

inline void bf16_rows(const Matrix& w, long first, long count, bf16* panel, long kp) {
  for (long r = 0; r < count; r++) {
    memcpy(panel + r * kp, (const char*)w.data + (first + r) * w.row_bytes(), w.row_bytes());
    for (long i = w.columns; i < kp; i++) panel[r * kp + i] = 0;
  }
}

#endif

#if defined(__AVX512BF16__) && !defined(GOMLX_TILES)
#define GOMLX_DOTS

struct Dots {
  static constexpr long step = 32, chunk = 24;
  static constexpr int most = 6;

  const bf16* x;
  long kp;

  void take(const Product& p) {
    kp = padded(p.k, step);
    x = bf16_inputs(p, kp);
  }

  long panel_bytes() const { return block * kp * 2; }
  bool direct(const Matrix& w, const Product&, long count) const { return w.columns % step == 0 && count == block; }
  void unpack(const Matrix& w, long first, long count, char* panel) const { bf16_rows(w, first, count, (bf16*)panel, kp); }
  static constexpr int panel_type = 2;

  template <int s> void few(const char* const* w, long ahead, const bf16* from, float* c) const {
    __m512 sums[4][s];
    for (int r = 0; r < 4; r++)
      for (int i = 0; i < s; i++) sums[r][i] = _mm512_setzero_ps();
    for (long k = 0; k < kp; k += step) {
      __m512bh weights[4];
      for (int r = 0; r < 4; r++) {
        if (s <= 2) __builtin_prefetch(w[r] + k * 2 + ahead);
        weights[r] = (__m512bh)_mm512_loadu_si512(w[r] + k * 2);
      }
      for (int i = 0; i < s; i++) {
        __m512bh v = (__m512bh)_mm512_loadu_si512(from + i * kp + k);
        for (int r = 0; r < 4; r++) sums[r][i] = _mm512_dpbf16_ps(sums[r][i], weights[r], v);
      }
    }
    for (int i = 0; i < s; i++) {
      four f = vsum4((vf)sums[0][i], (vf)sums[1][i], (vf)sums[2][i], (vf)sums[3][i]);
      memcpy(c + i * block, f.at, sizeof f.at);
    }
  }

  void multiply(const Rows& w, long m0, long count, float* c) const {
    const long ahead = fetch_ahead(w.stride);
    for (long i = 0; i < count; i += most) {
      const bf16* from = x + (m0 + i) * kp;
      const long s = lesser(most, count - i);
      for (long n = 0; n < w.count; n += 4) {
        const char* rows[4];
        for (long r = 0; r < 4; r++) rows[r] = w.data + lesser(n + r, w.count - 1) * w.stride;
        float* to = c + i * block + n;
        switch (s) {
          case 1: few<1>(rows, ahead, from, to); break;
          case 2: few<2>(rows, ahead, from, to); break;
          case 3: few<3>(rows, ahead, from, to); break;
          case 4: few<4>(rows, ahead, from, to); break;
          case 5: few<5>(rows, ahead, from, to); break;
          case 6: few<6>(rows, ahead, from, to); break;
        }
      }
    }
  }
  void start() const {}
  void stop() const {}
};

#endif

// --- AMX tiles -------------------------------------------------------------------------------------

#if defined(GOMLX_TILES)

// Rows of weights are tiles as they lie in memory, 16 rows of 32 numbers. x is laid out beside: for each 16 rows, and
// each 32 columns, a tile of 16 pairs of columns by 16 rows. So a tile of results is [16 outputs, 16 rows of x].
struct Tiles {
  static constexpr long step = 32, chunk = 32;

  const uint32_t* x; // tiles of pairs, [m / width, kp / 32, 16, width]
  long kp;
  int width; // rows of x in a tile: 16, or all of fewer

  void take(const Product& p) {
    kp = padded(p.k, step);
    width = int(lesser(16, p.m));
    const bf16* rows = bf16_inputs(p, kp);
    x = (const uint32_t*)rows;
    if (p.m == 1) return; // its pairs follow each other already
    const long groups = (p.m + width - 1) / width;
    uint32_t* to = (uint32_t*)gomlx::pool_scratch(gomlx::slot_tiles, groups * kp * width * 2);
    each_row(groups, 2, [&](long g) { pack(rows + g * width * kp, lesser(width, p.m - g * width), to + g * kp / 2 * width); });
    x = to;
  }

  void pack(const bf16* from, long rows, uint32_t* to) const {
    for (long k = 0; k < kp; k += step, to += 16 * width) {
      if (width == 16 && rows == 16) {
        vi r[16];
        for (int i = 0; i < 16; i++) r[i] = (vi)_mm512_loadu_si512(from + i * kp + k);
        transpose_square(r);
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + 16 * i, (__m512i)r[i]);
        continue;
      }
      for (long i = 0; i < width; i++) {
        uint32_t pairs[16] = {};
        if (i < rows) memcpy(pairs, from + i * kp + k, step * 2);
        for (long j = 0; j < 16; j++) to[j * width + i] = pairs[j];
      }
    }
  }

  long panel_bytes() const { return block * kp * 2; }
  bool direct(const Matrix& w, const Product&, long count) const { return w.columns % step == 0 && count == block; }
  void unpack(const Matrix& w, long first, long count, char* panel) const {
    bf16_rows(w, first, count, (bf16*)panel, kp);
    if (count < block) memset(panel + count * kp * 2, 0, (block - count) * kp * 2);
  }
  static constexpr int panel_type = 2;

  // Tiles 0 to 3 are results, 4 and 5 weights, 6 and 7 of x.
  void start() const {
    struct {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; i++) {
      config.rows[i] = 16;
      config.bytes[i] = i == 4 || i == 5 ? 64 : uint16_t(4 * width);
    }
    _tile_loadconfig(&config);
  }
  void stop() const { _tile_release(); }

  void multiply(const Rows& w, long m0, long count, float* c) const {
    const uint32_t* first = x + m0 / width * (kp / 2) * width;
    const char* upper = w.data + 16 * w.stride;
    const long tile = 16 * width, row = 4 * width;
    if (count <= width) {
      const long ahead = fetch_ahead(w.stride), stride = w.stride;
      _tile_zero(0);
      _tile_zero(1);
      for (long k = 0; k < kp / step; k++) {
        if (!w.unpacked)
          for (long r = 0; r < 32; r++) __builtin_prefetch(w.data + r * stride + k * 64 + ahead);
        _tile_loadd(6, first + k * tile, row);
        _tile_loadd(4, w.data + k * 64, stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, upper + k * 64, stride);
        _tile_dpbf16ps(1, 5, 6);
      }
      if (width == 1) {
        _tile_stored(0, c, 4);
        _tile_stored(1, c + 16, 4);
        return;
      }
      alignas(64) float t[2][256];
      _tile_stored(0, t[0], row);
      _tile_stored(1, t[1], row);
      spread(t[0], count, c);
      spread(t[1], count, c + 16);
      return;
    }
    const uint32_t* second = first + kp / 2 * width;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < kp / step; k++) {
      _tile_loadd(6, first + k * tile, 64);
      _tile_loadd(4, w.data + k * 64, w.stride);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, upper + k * 64, w.stride);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(7, second + k * tile, 64);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    alignas(64) float t[4][256];
    _tile_stored(0, t[0], 64);
    _tile_stored(1, t[1], 64);
    _tile_stored(2, t[2], 64);
    _tile_stored(3, t[3], 64);
    spread(t[0], 16, c);
    spread(t[1], 16, c + 16);
    spread(t[2], count - 16, c + 16 * block);
    spread(t[3], count - 16, c + 16 * block + 16);
  }

  // A tile of results [16, width] to c, which has a row of x in each row.
  void spread(const float* t, long count, float* c) const {
    if (width == 16) {
      vi r[16];
      for (int i = 0; i < 16; i++) r[i] = (vi)_mm512_load_si512(t + 16 * i);
      transpose_square(r);
      for (long i = 0; i < count; i++) _mm512_storeu_si512(c + i * block, (__m512i)r[i]);
      return;
    }
    for (long i = 0; i < count; i++)
      for (long j = 0; j < 16; j++) c[i * block + j] = t[j * width + i];
  }
};

#endif

// --- any mode ---------------------------------------------------------------------------------------

// What is done with the results c [count, 32] of rows m0 and on of x and weights n0 and on of a part. With a gate, c2 is
// those of the other part.
struct Results {
  int part;
  long n0, width; // outputs
  long m0, count; // rows of x
  const float *c, *c2;
};

template <class Mode, class Finish> struct Job {
  const Product& p;
  const Mode& mode;
  const Finish& finish;
  long per_task; // blocks of weights
  long tasks[9]; // of the parts before each

  // The weights of a block, unpacked to panel if need be.
  Rows rows(const Matrix& w, long n0, char* panel) const {
    const long count = lesser(block, w.rows - n0);
    if (mode.direct(w, p, count)) return {(const char*)w.data + n0 * w.row_bytes(), w.row_bytes(), int(w.type), count, false, &w, n0};
    mode.unpack(w, n0, count, panel);
    return {panel, mode.panel_bytes() / block, Mode::panel_type, count, true, &w, n0};
  }

  void run(long task) const {
    int part = 0;
    if (p.gate == Gate::none)
      while (task >= tasks[part + 1]) part++;
    const int sides = p.gate == Gate::none ? 1 : 2;
    const Matrix& w = p.parts[part];
    const long begin = (task - tasks[part]) * per_task * block, end = lesser(w.rows, begin + per_task * block);
    // Weights that are used once are unpacked block by block; for more rows of x than a chunk all of the task's are kept.
    const long together = p.m <= Mode::chunk ? 1 : per_task, one = mode.panel_bytes();
    char* panel = (char*)gomlx::pool_scratch(gomlx::slot_panel, sides * together * one);
    float* c = (float*)gomlx::pool_scratch(gomlx::slot_block, 2 * Mode::chunk * block * sizeof(float));
    float* c2 = c + Mode::chunk * block;
    mode.start();
    for (long first = begin; first < end; first += together * block) {
      Rows blocks[2][max_per_task];
      const long count = (lesser(end, first + together * block) - first + block - 1) / block;
      for (long b = 0; b < count; b++)
        for (int side = 0; side < sides; side++)
          blocks[side][b] = rows(p.parts[part + side], first + b * block, panel + (side * together + b) * one);
      for (long m0 = 0; m0 < p.m; m0 += Mode::chunk)
        for (long b = 0; b < count; b++) {
          const long rows = lesser(Mode::chunk, p.m - m0);
          mode.multiply(blocks[0][b], m0, rows, c);
          if (sides == 2) mode.multiply(blocks[1][b], m0, rows, c2);
          finish(Results{part, first + b * block, blocks[0][b].count, m0, rows, c, c2});
        }
    }
    mode.stop();
  }

  static constexpr long max_per_task = 64;
};

// How many blocks one task multiplies with many rows of x, each chunk of which it then reads once for all of them. What they are unpacked to stays in
// the second cache.
template <class Mode> long together(const Mode& mode, const Product& p) {
  if constexpr (requires { Mode::kept; }) return lesser(4, greater(1, Mode::kept / ((p.gate == Gate::none ? 1 : 2) * mode.panel_bytes())));
  return 4;
}

// Multiplies and hands every block's results to finish. per_task fixes how many blocks go together; 0 leaves it open.
template <class Mode, class Finish> void multiply_by(const Product& p, long per_task, const Finish& finish) {
  Mode mode;
  mode.take(p);
  Job<Mode, Finish> job{p, mode, finish, per_task, {}};
  const int parts = p.gate == Gate::none ? p.n_parts : 1;
  long blocks = 0;
  for (int i = 0; i < parts; i++) blocks += (p.parts[i].rows + block - 1) / block;
  if (per_task == 0) // several tasks for each thread, so that one that is held up does not hold up all
    job.per_task = greater(1, lesser(p.m > Mode::chunk ? together(mode, p) : job.max_per_task, blocks / (12 * gomlx::pool_threads())));
  for (int i = 0; i < parts; i++)
    job.tasks[i + 1] = job.tasks[i] + ((p.parts[i].rows + block - 1) / block + job.per_task - 1) / job.per_task;
  gomlx::pool_run(job.tasks[parts], [](void* j, long task, int) { ((const Job<Mode, Finish>*)j)->run(task); }, &job);
}

// How a part is multiplied: 0 in float32, 1 in bfloat16, or by sums of integers, a number for each kind of packing; with split_mode
// as sums of two bfloat16 numbers.
constexpr int split_mode = 1 << 16;

inline int mode_of([[maybe_unused]] const Product& p, [[maybe_unused]] const Matrix& w) {
#if defined(GOMLX_INTEGERS)
  const int packing = w.bits << 8 | w.group;
#if defined(GOMLX_TILES)
  if (Split::takes(p, w)) return split_mode | packing;
#endif
  if (Integers::takes(p, w)) return packing;
#endif
#if defined(GOMLX_TILES) || defined(GOMLX_DOTS)
  if (p.type == Type::bf16 && !w.bits && w.type == Type::bf16) return 1;
#endif
  return 0;
}

// Parts that are multiplied in the same way go together; the two of a gate have to. Each part's way depends on nothing but the part, so
// neither do its bits.
template <class Finish> void multiply(const Product& p, long per_task, const Finish& finish) {
  for (int first = 0, next; first < p.n_parts; first = next) {
    const int mode = mode_of(p, p.parts[first]);
    for (next = first + 1; next < p.n_parts && mode_of(p, p.parts[next]) == mode;) next++;
    Product some = p;
    some.parts += first, some.n_parts = next - first;
    auto finish_some = [&](Results r) {
      r.part += first;
      finish(r);
    };
    switch (mode) {
      case 0: multiply_by<Floats>(some, per_task, finish_some); break;
#if defined(GOMLX_TILES)
      case 1: multiply_by<Tiles>(some, per_task, finish_some); break;
#elif defined(GOMLX_DOTS)
      case 1: multiply_by<Dots>(some, per_task, finish_some); break;
#endif
#if defined(GOMLX_INTEGERS)
      default:
#if defined(GOMLX_TILES)
        if (mode & split_mode) {
          multiply_by<Split>(some, per_task, finish_some);
          break;
        }
#endif
        multiply_by<Integers>(some, per_task, finish_some); break;
#endif
    }
  }
}

bool likes_interleaved([[maybe_unused]] int bits) {
#if defined(GOMLX_INTEGERS)
  return Integers::takes(bits);
#else
  return false;
#endif
}

void product(const Product& p) {
  if (p.gate != Gate::none && mode_of(p, p.parts[0]) != mode_of(p, p.parts[1])) {
    const long n = p.parts[0].rows;
    Product both = p;
    both.gate = Gate::none, both.out = gomlx::pool_scratch(gomlx::slot_scores, 2 * p.m * n * sizeof(float)), both.out_type = Type::f32, both.out_stride = 2 * n;
    product(both);
    return gate((const float*)both.out, p.out, p.m, n, p.gate, p.out_type);
  }
  long column[9] = {};
  for (int i = 0; i < p.n_parts; i++) column[i + 1] = column[i] + p.parts[i].rows;
  auto finish = [&](const Results& r) {
    const void *bias = p.bias ? p.bias[r.part] : nullptr, *bias2 = p.bias && p.gate != Gate::none ? p.bias[1] : nullptr;
    with_type(p.type, [&]<int in>() {
      with_type(p.out_type, [&]<int type>() {
        for (long m = 0; m < r.count; m++) {
          char* to = (char*)p.out + ((r.m0 + m) * p.out_stride + column[r.part] + r.n0) * bytes_of<type>;
          each_vector(r.width, [&](long i, long n) {
            vf v = vload(r.c + m * block + i);
            if (bias) v = v + load_part<in>(bias, r.n0 + i, n);
            if (p.gate != Gate::none) {
              vf other = vload(r.c2 + m * block + i);
              if (bias2) other = other + load_part<in>(bias2, r.n0 + i, n);
              v = activate(v, p.gate) * other;
            }
            store_part<type>(to, i, v, n);
          });
        }
      });
    });
  };
  multiply(p, 0, finish);
}

void scores(const Scores& s) {
  // A piece of the vocabulary is summed in order by one task; pieces are then put together in order.
  constexpr long per_task = 8;
  const long pieces = (s.weights.rows + per_task * block - 1) / (per_task * block);
  float* most = (float*)gomlx::pool_scratch(gomlx::slot_partial, 2 * pieces * s.m * sizeof(float));
  float* sum = most + pieces * s.m;
  for (long i = 0; i < pieces * s.m; i++) most[i] = -__builtin_inff(), sum[i] = 0;
  Product p{s.x, s.type, s.m, s.k, &s.weights, nullptr, 1, Gate::none, nullptr, Type::f32, 0};
  auto finish = [&](const Results& r) {
    const long piece = r.n0 / (per_task * block);
    for (long m = 0; m < r.count; m++) {
      const float* c = r.c + m * block;
      float &top = most[piece * s.m + r.m0 + m], &total = sum[piece * s.m + r.m0 + m];
      vf largest = vset(top);
      each_vector(r.width, [&](long i, long n) { largest = vmax(largest, load_filled(c, i, n, top)); });
      const float now = vmax_of(largest);
      vf added = vset(0);
      each_vector(r.width, [&](long i, long n) { added = added + vexp(load_filled(c, i, n, -__builtin_inff()) - vset(now)); });
      total = total * vexp(vset(top - now))[0] + vsum(added);
      top = now;
    }
    // Picks are sorted by id.
    long low = 0, high = s.picks;
    while (low < high) {
      long mid = (low + high) / 2;
      if (s.pick_id[mid] < r.n0) low = mid + 1;
      else high = mid;
    }
    for (; low < s.picks && s.pick_id[low] < r.n0 + r.width; low++)
      if (long m = s.pick_row[low] - r.m0; m >= 0 && m < r.count) s.out[low] = r.c[m * block + s.pick_id[low] - r.n0];
  };
  multiply(p, per_task, finish);
  float* normal = (float*)gomlx::pool_scratch(gomlx::slot_scores, s.m * sizeof(float));
  for (long m = 0; m < s.m; m++) {
    float top = most[m], total = 0;
    for (long i = 1; i < pieces; i++) top = most[i * s.m + m] > top ? most[i * s.m + m] : top;
    for (long i = 0; i < pieces; i++) total += sum[i * s.m + m] * __builtin_expf(most[i * s.m + m] - top);
    normal[m] = top + __builtin_logf(total);
  }
  for (long i = 0; i < s.picks; i++) s.out[i] -= normal[s.pick_row[i]];
}

} // namespace

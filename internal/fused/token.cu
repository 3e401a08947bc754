// One token of one sequence through a whole decoder, in one launch: the blocks stay on the GPU from the embedding to the
// choice of the most likely token and wait for each other in global memory between steps. There is one block on each
// multiprocessor, and all must run at once. What goes in front of this text (see token.go) defines the shape:
//
//   LAYERS HIDDEN HEADS KV_HEADS HEAD_DIM INTER VOCAB   sizes
//   HALF (float16, else bfloat16) BITS GROUP (of packed weights; BITS 0 for plain ones) QK_NORM POST_NORM GELU FREQS
//   EPS ATTENTION_SCALE EMBED_SCALE                     bits of float32 numbers; EMBED_SCALE 0 for none
//   KINDS KIND_OF ROPES ROPE_OF ROPE_BASE ROPE_SCALE    which layers share places in their caches, and rotations
//   SPLIT_QKV SPLIT_O SPLIT_DOWN                        parts that a row of these products is cut into
//   PARTS SHARED_BYTES THREADS                          room for these parts, shared memory of a block, and its threads
//   PARAMETERS POINTERS AT FILLED ROOM                  the kernel's parameters, and how they get into tables
//
// Results are rounded where MLX's own ops round.

typedef unsigned short T;
constexpr int WARPS = THREADS / 32;
constexpr int Q_ROWS = HEADS * HEAD_DIM;
constexpr int KV_ROWS = KV_HEADS * HEAD_DIM;
constexpr int QKV_ROWS = Q_ROWS + 2 * KV_ROWS;
constexpr int SHARE = HEADS / KV_HEADS; // query heads of a key head
constexpr int TILE = 64;                // keys that a block looks at at a time
constexpr int NORMS = POST_NORM ? 4 : 2;
constexpr int MATRIX = BITS ? 3 : 1; // arrays of a matrix
constexpr int EACH = (HIDDEN + THREADS - 1) / THREADS;
// Bytes that a block asks for at the barriers before the products of the MLP.
constexpr int FIRST = 0, SECOND = 32 << 10, THIRD = 64 << 10, DOWN = 32 << 10;
constexpr unsigned NOBODY = 0xffffffff;
#define LOWEST (-__int_as_float(0x7f800000))

__constant__ int kind_of[LAYERS] = KIND_OF;
__constant__ int rope_of[LAYERS] = ROPE_OF;
__constant__ unsigned rope_base[ROPES] = ROPE_BASE, rope_scale[ROPES] = ROPE_SCALE;

__device__ __forceinline__ float wide(T x) {
#if HALF
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
#else
  return __uint_as_float(static_cast<unsigned>(x) << 16);
#endif
}

__device__ __forceinline__ T narrow(float x) {
  T y;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#endif
  return y;
}

__device__ __forceinline__ float rounded(float x) { return wide(narrow(x)); }

// Two neighbouring numbers of a word.
__device__ __forceinline__ void both(unsigned word, float& low, float& high) {
#if HALF
  low = wide(static_cast<T>(word));
  high = wide(static_cast<T>(word >> 16));
#else
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
#endif
}

__device__ __forceinline__ void eight(const uint4& words, float (&x)[8]) {
  both(words.x, x[0], x[1]);
  both(words.y, x[2], x[3]);
  both(words.z, x[4], x[5]);
  both(words.w, x[6], x[7]);
}

__device__ __forceinline__ float number(unsigned bits) { return __uint_as_float(bits); }

// Weights are read once: they pass the multiprocessor's cache by.
__device__ __forceinline__ uint4 weights16(const void* at) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(at));
  return x;
}

__device__ __forceinline__ uint2 weights8(const void* at) {
  uint2 x;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(at));
  return x;
}

// What other blocks wrote in this launch is read past the multiprocessor's cache, which does not know of it. Such loads take long: several
// go together only where no branch is between them, so addresses are bounded and results chosen.
__device__ __forceinline__ T fresh(const T* at) { return __ldcg(at); }
__device__ __forceinline__ float freshf(const float* at) { return __ldcg(at); }
__device__ __forceinline__ uint4 fresh16(const void* at) { return __ldcg(static_cast<const uint4*>(at)); }

__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, step);
  }
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
  }
  return x;
}

// What lies between blocks: counters, which every launch leaves as it found them, and then the results of steps.
struct Workspace {
  unsigned arrived, done, best, unused;
  float tops[1024], sums[1024]; // of every block's logits
  alignas(16) T qkv[QKV_ROWS];
  alignas(16) T out[HIDDEN];
  alignas(16) T gated[INTER];
  // then for every part of an attention: float2 [parts, SHARE], its largest score and the sum of its weights, and float [parts, SHARE,
  // HEAD_DIM], the values' weighted sums.
};

__device__ constexpr int most(int a, int b) { return a > b ? a : b; }
constexpr int LANES_PER_KEY = HEAD_DIM / 8;
constexpr int VALUE_PARTS = THREADS / (HEAD_DIM / 2); // of the keys of a tile, which threads weigh values of
constexpr int LONGEST = most(most(HIDDEN, Q_ROWS), INTER);

struct Shared {
  alignas(16) T x[LONGEST]; // the input of a product
  float sums[2][32];
  int ranges[4][2]; // this block's rows of the products
  unsigned long long pointer[LAYERS * (4 * MATRIX + 2)]; // every layer's four matrices, then its keys and values
  float cosine[ROPES][HEAD_DIM / 2], sine[ROPES][HEAD_DIM / 2];
  union {
    float parts[PARTS]; // of a product's rows
    struct {
      alignas(16) float q[SHARE][HEAD_DIM];
      alignas(16) float weight[TILE][SHARE];
      float correction[SHARE];
      alignas(16) T key[HEAD_DIM], newest[HEAD_DIM]; // of this token
      float value[VALUE_PARTS][SHARE][HEAD_DIM];
    } attend;
    float combine[HEADS * (1024 / KV_HEADS)]; // of every part of every head
  };
};

static_assert(sizeof(Shared) <= SHARED_BYTES, "token.go asks for too little");

extern __shared__ __align__(16) unsigned char memory[];

__device__ __forceinline__ Shared& shared() { return *reinterpret_cast<Shared*>(memory); }

// The sum over the block; every thread gets it. which alternates between calls.
__device__ __forceinline__ float block_sum(float x, int& which) {
  const int lane = threadIdx.x % 32;
  x = warp_sum(x);
  if (lane == 0) {
    shared().sums[which][threadIdx.x / 32] = x;
  }
  __syncthreads();
  x = warp_sum(lane < WARPS ? shared().sums[which][lane] : 0.f);
  which ^= 1;
  return x;
}

// Waits until every block is here. due counts the arrivals of this launch. What all threads do meanwhile may not depend on other blocks: it
// comes behind the arrival, since that waits for every load before it.
template <class Meanwhile>
__device__ __forceinline__ void meet(unsigned* arrived, unsigned& due, Meanwhile meanwhile) {
  __syncthreads();
  due += gridDim.x;
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrived) : "memory");
  }
  meanwhile();
  if (threadIdx.x == 0) {
    unsigned now;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
    } while (now < due);
  }
  __syncthreads();
}

__device__ __forceinline__ void meet(unsigned* arrived, unsigned& due) {
  meet(arrived, due, [] {});
}

// A matrix of weights [rows, K], plain or packed.
struct Matrix {
  const unsigned char* weights;
  const T *scales, *biases;
};

__device__ __forceinline__ Matrix matrix(int at) {
  const unsigned long long* p = shared().pointer + at;
  Matrix m;
  m.weights = reinterpret_cast<const unsigned char*>(p[0]);
  m.scales = reinterpret_cast<const T*>(BITS ? p[1] : 0);
  m.biases = reinterpret_cast<const T*>(BITS ? p[2] : 0);
  return m;
}

template <int K>
__device__ __forceinline__ constexpr long long row_bytes() {
  return BITS ? K / 8 * BITS : 2ll * K;
}

// This block's rows of a product with so many.
constexpr int OF_QKV = 0, OF_HIDDEN = 1, OF_INTER = 2, OF_VOCAB = 3;
template <int ROWS>
__device__ __forceinline__ const int* range() {
  constexpr int which = ROWS == QKV_ROWS ? OF_QKV : ROWS == HIDDEN ? OF_HIDDEN : ROWS == INTER ? OF_INTER : OF_VOCAB;
  return shared().ranges[which];
}

// One thread works them out, as divisions take long.
__device__ __forceinline__ void share_out(int which, int rows) {
  for (int end = 0; end < 2; end++) {
    shared().ranges[which][end] = static_cast<int>(static_cast<long long>(rows) * (blockIdx.x + end) / gridDim.x);
  }
}

// Asks for this block's rows of a product, offset rows into the matrix, from one byte of them to another, so that the memory has something to
// do while blocks wait for each other. Not more at a time than the memory gives meanwhile: the barrier's own traffic would wait behind.
template <int ROWS, int K>
__device__ __forceinline__ void prefetch(const Matrix& m, int offset, int begin, int end) {
  const int from = range<ROWS>()[0];
  const int bytes = static_cast<int>((range<ROWS>()[1] - from) * row_bytes<K>());
  const unsigned char* rows = m.weights + (offset + from) * row_bytes<K>();
  end = end < bytes ? end : bytes;
#pragma unroll 1
  for (int line = begin + threadIdx.x * 128; line < end; line += THREADS * 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + line));
  }
}

// Weights on the way: of R rows, AHEAD steps of the columns. They are asked for long before they are needed, the first ones even before
// the input is known.
template <int R, int K, int SPLIT>
struct Ahead {
  static constexpr int WIDTH = BITS ? 16 : 8; // columns of a lane
  static constexpr int CHUNKS = K / WIDTH;
  static constexpr int STEPS = ((CHUNKS + SPLIT - 1) / SPLIT + 31) / 32;
  static constexpr int MOST = R == 1 ? 5 : 3; // as many as there are registers for
  static constexpr int AHEAD = STEPS < MOST ? STEPS : MOST;
  static constexpr int BATCHES = (STEPS + AHEAD - 1) / AHEAD;
#if BITS
  uint2 weights[R][AHEAD];
  T scale[R][AHEAD], bias[R][AHEAD];
#else
  uint4 weights[R][AHEAD];
#endif

  static __device__ __forceinline__ int begin(int part) { return CHUNKS * part / SPLIT + threadIdx.x % 32; }
  static __device__ __forceinline__ int end(int part) { return CHUNKS * (part + 1) / SPLIT; }

  __device__ __forceinline__ void load(const Matrix& m, const int (&row)[R], int part, int batch, bool wanted) {
    const int first = begin(part), count = wanted ? end(part) - first : 0; // without a branch, for then nothing old need be kept
#pragma unroll
    for (int r = 0; r < R; r++) {
#if BITS
      static_assert(512 % GROUP == 0, "a step's columns are whole groups");
      const uint2* at = reinterpret_cast<const uint2*>(m.weights + row[r] * row_bytes<K>()) + first;
      const long long group = static_cast<long long>(row[r]) * (K / GROUP) + first * 16 / GROUP;
      const T* scales = m.scales + group;
      const T* biases = m.biases + group;
#else
      const uint4* at = reinterpret_cast<const uint4*>(m.weights + row[r] * row_bytes<K>()) + first;
#endif
#pragma unroll
      for (int i = 0; i < AHEAD; i++) {
        constexpr int STEP = 32;
        const int step = batch * AHEAD + i;
        const bool inside = step * STEP < count;
#if BITS
        weights[r][i] = inside ? weights8(at + step * STEP) : make_uint2(0, 0);
        scale[r][i] = inside ? __ldg(scales + step * (512 / GROUP)) : T(0);
        bias[r][i] = inside ? __ldg(biases + step * (512 / GROUP)) : T(0);
#else
        weights[r][i] = inside ? weights16(at + step * STEP) : make_uint4(0, 0, 0, 0);
#endif
      }
    }
  }

  // Adds the products with x.
  __device__ __forceinline__ void multiply(int part, int batch, float (&sum)[R]) const {
    const int first = begin(part), count = end(part) - first;
    const T* x = shared().x + first * WIDTH;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      const int step = (batch * AHEAD + i) * 32;
      if (step >= count) {
        break;
      }
#if BITS
      float all = 0;
      float dot[R] = {};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float v[8];
        eight(*reinterpret_cast<const uint4*>(x + step * 16 + half * 8), v);
#pragma unroll
        for (int j = 0; j < 8; j++) {
          all += v[j];
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
          const unsigned word = half ? weights[r][i].y : weights[r][i].x;
#pragma unroll
          for (int j = 0; j < 8; j++) {
            // A nibble in these bits of the float32 128 is that number more.
            const unsigned bits = j < 4 ? word << (16 - 4 * j) : word >> (4 * j - 16);
            dot[r] += __uint_as_float((bits & 0xf0000u) | 0x43000000u) * v[j];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < R; r++) {
        sum[r] += wide(scale[r][i]) * (dot[r] - 128.f * all) + wide(bias[r][i]) * all;
      }
#else
      float v[8];
      eight(*reinterpret_cast<const uint4*>(x + step * 8), v);
#pragma unroll
      for (int r = 0; r < R; r++) {
        float w[8];
        eight(weights[r][i], w);
#pragma unroll
        for (int j = 0; j < 8; j++) {
          sum[r] += w[j] * v[j];
        }
      }
#endif
    }
  }
};

// The rows of a unit of work of a warp: a part of one row, or one of gate and one of up, or two that are neighbours.
template <int ROWS, int SPLIT>
struct Rows {
  static constexpr int R = 1, CUT = SPLIT;
  static __device__ __forceinline__ int units() { return (range<ROWS>()[1] - range<ROWS>()[0]) * SPLIT; }
  static __device__ __forceinline__ void rows(int unit, int (&row)[1]) { row[0] = range<ROWS>()[0] + unit / SPLIT; }
};

struct GateAndUp {
  static constexpr int R = 2, CUT = 1;
  static __device__ __forceinline__ int units() { return range<INTER>()[1] - range<INTER>()[0]; }
  static __device__ __forceinline__ void rows(int unit, int (&row)[2]) {
    row[0] = range<INTER>()[0] + unit;
    row[1] = INTER + row[0];
  }
};

struct Neighbours {
  static constexpr int R = 2, CUT = 1;
  static __device__ __forceinline__ int units() { return (range<VOCAB>()[1] - range<VOCAB>()[0] + 1) / 2; }
  static __device__ __forceinline__ void rows(int unit, int (&row)[2]) {
    row[0] = range<VOCAB>()[0] + 2 * unit;
    row[1] = row[0] + 1 < range<VOCAB>()[1] ? row[0] + 1 : row[0];
  }
};

// A product of this block's rows, unit by unit of each warp.
template <class Units, int K>
struct Product {
  using Weights = Ahead<Units::R, K, Units::CUT>;
  Weights now;

  // Asks for the first weights.
  __device__ __forceinline__ void begin(const Matrix& m) {
    const int unit = threadIdx.x / 32;
    int row[Units::R];
    Units::rows(unit, row);
    now.load(m, row, unit % Units::CUT, 0, unit < Units::units());
  }

  // Multiplies; done gets every unit with its sums, in all lanes.
  template <class Done>
  __device__ __forceinline__ void finish(const Matrix& m, Done done) {
    const int units = Units::units();
#pragma unroll 1
    for (int unit = threadIdx.x / 32; unit < units; unit += WARPS) {
      float sum[Units::R] = {};
#pragma unroll
      for (int batch = 0; batch < Weights::BATCHES; batch++) {
        const int next = batch + 1 < Weights::BATCHES ? unit : unit + WARPS;
        Weights later;
        int row[Units::R];
        Units::rows(next, row);
        later.load(m, row, next % Units::CUT, (batch + 1) % Weights::BATCHES, next < units);
        now.multiply(unit % Units::CUT, batch, sum);
        now = later;
      }
#pragma unroll
      for (int r = 0; r < Units::R; r++) {
        sum[r] = warp_sum(sum[r]);
      }
      done(unit, sum);
    }
  }
};

// This block's rows of a product with x, rounded, into out.
template <int ROWS, int K, int SPLIT>
__device__ __forceinline__ void project(Product<Rows<ROWS, SPLIT>, K>& product, const Matrix& m, T* out) {
  product.finish(m, [](int unit, float (&sum)[1]) {
    if (threadIdx.x % 32 == 0) {
      shared().parts[unit] = sum[0];
    }
  });
  __syncthreads();
  const int from = range<ROWS>()[0], count = range<ROWS>()[1] - from;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += THREADS) {
    float sum = 0;
#pragma unroll 1
    for (int part = 0; part < SPLIT; part++) {
      sum += shared().parts[i * SPLIT + part];
    }
    out[from + i] = narrow(sum);
  }
}

// The activation of gate times up, every step rounded as MLX rounds those of its compiled functions.
__device__ __forceinline__ T activation(float gate, float up) {
  float gated;
  if (GELU) {
    const float cube = rounded(rounded(0.044715f) * rounded(gate * gate * gate));
    const float inner = rounded(rounded(0.7978845608028654f) * rounded(gate + cube));
    gated = rounded(rounded(0.5f * gate) * rounded(1.f + rounded(tanhf(inner))));
  } else {
    gated = rounded(gate * rounded(1.f / (1.f + expf(-gate))));
  }
  return narrow(gated * up);
}

// This block's part of the gate and up projections, joined by the activation.
__device__ __forceinline__ void project_gate(Product<GateAndUp, HIDDEN>& product, const Matrix& m, T* out) {
  product.finish(m, [](int unit, float (&sum)[2]) {
    if (threadIdx.x % 32 == 0) {
      shared().parts[2 * unit] = sum[0];
      shared().parts[2 * unit + 1] = sum[1];
    }
  });
  __syncthreads();
  for (int unit = threadIdx.x; unit < GateAndUp::units(); unit += THREADS) {
    out[range<INTER>()[0] + unit] = activation(rounded(shared().parts[2 * unit]), rounded(shared().parts[2 * unit + 1]));
  }
}

// The first key of each part of an attention over filled keys, and how many parts there are for each key head.
__device__ __forceinline__ int keys_of_part(int filled) {
  const int tiles = (filled + TILE - 1) / TILE;
  const int parts = gridDim.x / KV_HEADS > 0 ? gridDim.x / KV_HEADS : 1;
  return (tiles + parts - 1) / parts * TILE;
}

struct Place {
  int row, at, filled, room, position;
};

constexpr int KEYS_PER_WARP = 32 / LANES_PER_KEY;
constexpr int KEY_STEPS = (TILE + WARPS * KEYS_PER_WARP - 1) / (WARPS * KEYS_PER_WARP); // 4, 2 or 1
constexpr int VALUE_STEPS = (TILE + VALUE_PARTS - 1) / VALUE_PARTS;
constexpr int PAIRS = HEAD_DIM < 64 ? 1 : HEAD_DIM / 64; // that a lane rotates; of heads of 32, half of the lanes have none

// The keys and values of a tile, as the threads take them. What earlier tokens left is asked for before this one's is known.
struct Tile {
  uint4 keys[KEY_STEPS];
  unsigned values[VALUE_STEPS];

  static __device__ __forceinline__ int key(int step) { return (step * WARPS + threadIdx.x / 32) * KEYS_PER_WARP + threadIdx.x % 32 / LANES_PER_KEY; }
  static __device__ __forceinline__ int value(int step) { return step * VALUE_PARTS + threadIdx.x / (HEAD_DIM / 2); }

  __device__ __forceinline__ void load(const T* all_keys, const T* all_values, int first, int count) {
#pragma unroll
    for (int i = 0; i < KEY_STEPS; i++) {
      const int at = key(i) < count ? key(i) : 0; // what is beyond the end is not used
      keys[i] = *reinterpret_cast<const uint4*>(all_keys + static_cast<long long>(first + at) * HEAD_DIM + threadIdx.x % LANES_PER_KEY * 8);
    }
#pragma unroll
    for (int i = 0; i < VALUE_STEPS; i++) {
      const int at = value(i) < count ? value(i) : 0;
      values[i] = *reinterpret_cast<const unsigned*>(all_values + static_cast<long long>(first + at) * HEAD_DIM + threadIdx.x % (HEAD_DIM / 2) * 2);
    }
  }
};

// So many sums over the lanes of a key are made at once: lanes divide them among themselves on the way.
constexpr int MERGED = KEY_STEPS == 4 || KEY_STEPS == 2 ? KEY_STEPS : 1;
static_assert(MERGED == KEY_STEPS, "the sums of a lane are merged into one");

// Adds up over the lanes of a key; which of the sums a lane has is in mine.
__device__ __forceinline__ float sum_of_lanes(const float (&dot)[KEY_STEPS], int& mine) {
  const int lane = threadIdx.x;
  int step = LANES_PER_KEY / 2;
  float sum = dot[0];
  mine = 0;
  if constexpr (MERGED == 4) {
    const bool upper = lane & step;
    float one = upper ? dot[1] : dot[0], two = upper ? dot[3] : dot[2];
    one += __shfl_xor_sync(0xffffffff, upper ? dot[0] : dot[1], step);
    two += __shfl_xor_sync(0xffffffff, upper ? dot[2] : dot[3], step);
    step /= 2;
    const bool second = lane & step;
    sum = (second ? two : one) + __shfl_xor_sync(0xffffffff, second ? one : two, step);
    step /= 2;
    mine = 2 * second + upper;
  } else if constexpr (MERGED == 2) {
    const bool upper = lane & step;
    sum = (upper ? dot[1] : dot[0]) + __shfl_xor_sync(0xffffffff, upper ? dot[0] : dot[1], step);
    step /= 2;
    mine = upper;
  }
  for (; step > 0; step /= 2) {
    sum += __shfl_xor_sync(0xffffffff, sum, step);
  }
  return sum;
}

// How an attention is cut: every key head's keys into so many parts of so many keys.
struct Cut {
  int size, parts;

  __device__ __forceinline__ explicit Cut(int filled) {
    size = keys_of_part(filled);
    parts = (filled + size - 1) / size;
  }
};

// One part of an attention.
struct Part {
  int group, begin, end;
  T *keys, *values; // of the key head
  bool mine;        // the key of this token is in it

  __device__ __forceinline__ Part(const Cut& cut, int unit, T* keys, T* values, const Place& p) {
    group = unit / cut.parts;
    begin = unit % cut.parts * cut.size;
    end = begin + cut.size < p.filled ? begin + cut.size : p.filled;
    const long long start = (static_cast<long long>(p.row) * KV_HEADS + group) * p.room * HEAD_DIM;
    this->keys = keys + start;
    this->values = values + start;
    mine = p.at >= begin && p.at < end;
  }

  __device__ __forceinline__ int count(int tile) const { return end - tile < TILE ? end - tile : TILE; }
};

// What a block can ask for before the token's queries and keys are known: its first tile, and the norms.
struct Attention {
  Tile tile;
  T norm[2 * PAIRS]; // of the queries, or of the key in the warp that has it

  __device__ __forceinline__ void begin(const Cut& cut, const T* of_q, const T* of_k, T* keys, T* values, const Place& p) {
    if (blockIdx.x < cut.parts * KV_HEADS) {
      const Part part(cut, blockIdx.x, keys, values, p);
      tile.load(part.keys, part.values, part.begin, part.count(part.begin));
      if (QK_NORM) {
        const int lane = threadIdx.x % 32;
        for (int i = 0; i < 2 * PAIRS; i++) {
          const int at = (i < PAIRS ? 0 : HEAD_DIM / 2 - PAIRS) + lane * PAIRS % (HEAD_DIM / 2) + i;
          norm[i] = __ldg((threadIdx.x / 32 == SHARE ? of_k : of_q) + at);
        }
      }
    }
  }

  __device__ __forceinline__ void finish(const Cut& cut, const Workspace* w, float2* tops, float* out, T* keys, T* values, int rope, const Place& p);
};

// Attention of this block's parts. Whoever has the key of this token puts it and the value into the cache.
__device__ __forceinline__ void Attention::finish(const Cut& cut, const Workspace* w, float2* tops, float* out, T* keys, T* kept, int rope, const Place& p) {
  auto& s = shared().attend;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int unit = blockIdx.x; unit < cut.parts * KV_HEADS; unit += gridDim.x) {
    const Part me(cut, unit, keys, kept, p);
    const bool busy = lane * PAIRS < HEAD_DIM / 2;
    // Norms and rotations of the queries, and of the key: a warp each.
    if (const int head = warp; head < SHARE + me.mine) {
      const bool key = head == SHARE;
      const T* from = w->qkv + (key ? Q_ROWS + me.group * HEAD_DIM : (me.group * SHARE + head) * HEAD_DIM);
      float a[PAIRS], b[PAIRS], squares = 0;
      for (int i = 0; i < PAIRS; i++) {
        const int pair = lane * PAIRS % (HEAD_DIM / 2) + i;
        a[i] = wide(fresh(from + pair));
        b[i] = wide(fresh(from + HEAD_DIM / 2 + pair));
      }
      for (int i = 0; i < PAIRS; i++) {
        squares += busy ? a[i] * a[i] + b[i] * b[i] : 0.f;
      }
      if (QK_NORM) {
        const float scale = rsqrtf(warp_sum(squares) / HEAD_DIM + number(EPS));
        for (int i = 0; i < PAIRS; i++) {
          a[i] = rounded(wide(norm[i]) * rounded(a[i] * scale));
          b[i] = rounded(wide(norm[PAIRS + i]) * rounded(b[i] * scale));
        }
      }
      for (int i = 0; busy && i < PAIRS; i++) {
        const int pair = lane * PAIRS + i;
        const float c = shared().cosine[rope][pair], n = shared().sine[rope][pair];
        const T first = narrow(a[i] * c - b[i] * n), second = narrow(a[i] * n + b[i] * c);
        if (key) {
          T* to = me.keys + static_cast<long long>(p.at) * HEAD_DIM;
          to[pair] = s.key[pair] = first;
          to[HEAD_DIM / 2 + pair] = s.key[HEAD_DIM / 2 + pair] = second;
        } else {
          s.q[head][pair] = wide(first) * number(ATTENTION_SCALE);
          s.q[head][HEAD_DIM / 2 + pair] = wide(second) * number(ATTENTION_SCALE);
        }
      }
    }
    if (me.mine) {
  #pragma unroll 1
    for (int d = threadIdx.x; d < HEAD_DIM; d += THREADS) {
        const T value = fresh(w->qkv + Q_ROWS + KV_ROWS + me.group * HEAD_DIM + d);
        me.values[static_cast<long long>(p.at) * HEAD_DIM + d] = value;
        s.newest[d] = value;
      }
    }
    __syncthreads();
    const int part = threadIdx.x / (HEAD_DIM / 2), column = threadIdx.x % (HEAD_DIM / 2);
    float sum[SHARE][2];
    float top = LOWEST, total = 0; // of the head with this warp's number
#pragma unroll
    for (int head = 0; head < SHARE; head++) {
      sum[head][0] = sum[head][1] = 0;
    }
#pragma unroll 1
    for (int first = me.begin; first < me.end; first += TILE) {
      const int count = me.count(first);
      if (first != me.begin || unit != blockIdx.x) {
        tile.load(me.keys, me.values, first, count);
      }
      const int d = lane % LANES_PER_KEY * 8;
#pragma unroll
      for (int i = 0; i < KEY_STEPS; i++) {
        if (first + Tile::key(i) == p.at) { // this token's own, which nobody had when the tile was asked for
          tile.keys[i] = *reinterpret_cast<const uint4*>(s.key + d);
        }
      }
#pragma unroll 4
      for (int head = 0; head < SHARE; head++) {
        const float4 low = *reinterpret_cast<const float4*>(&s.q[head][d]), high = *reinterpret_cast<const float4*>(&s.q[head][d + 4]);
        float dot[KEY_STEPS];
#pragma unroll
        for (int i = 0; i < KEY_STEPS; i++) {
          float k[8];
          eight(tile.keys[i], k);
          dot[i] = k[0] * low.x + k[1] * low.y + k[2] * low.z + k[3] * low.w + k[4] * high.x + k[5] * high.y + k[6] * high.z + k[7] * high.w;
        }
        int mine;
        const float score = sum_of_lanes(dot, mine);
        const int at = Tile::key(mine);
        if (lane % (LANES_PER_KEY / MERGED) == 0 && at < TILE) {
          s.weight[at][head] = at < count ? score : LOWEST;
        }
      }
      __syncthreads();
      for (int head = warp; head < SHARE; head += WARPS) { // one round: there are no more query heads of a key head than warps
        const float one = s.weight[lane][head], two = s.weight[lane + 32][head];
        const float larger = fmaxf(top, warp_max(fmaxf(one, two)));
        const float correction = __expf(top - larger);
        const float e1 = __expf(one - larger), e2 = __expf(two - larger);
        s.weight[lane][head] = e1;
        s.weight[lane + 32][head] = e2;
        total = total * correction + warp_sum(e1 + e2);
        top = larger;
        if (lane == 0) {
          s.correction[head] = correction;
        }
      }
      __syncthreads();
#pragma unroll
      for (int head = 0; head < SHARE; head++) {
        sum[head][0] *= s.correction[head];
        sum[head][1] *= s.correction[head];
      }
      const unsigned newest = *reinterpret_cast<const unsigned*>(s.newest + 2 * column);
#pragma unroll
      for (int i = 0; i < VALUE_STEPS; i++) {
        const int at = Tile::value(i);
        float a, b;
        both(first + at == p.at ? newest : tile.values[i], a, b);
#pragma unroll
        for (int head = 0; head < SHARE; head++) { // the weights of what is beyond the end are 0
          sum[head][0] += s.weight[at][head] * a;
          sum[head][1] += s.weight[at][head] * b;
        }
      }
      __syncthreads();
    }
#pragma unroll
    for (int head = 0; head < SHARE; head++) {
      s.value[part][head][2 * column] = sum[head][0];
      s.value[part][head][2 * column + 1] = sum[head][1];
    }
    if (warp < SHARE && lane == 0) {
      tops[unit * SHARE + warp] = make_float2(top, total);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < SHARE * HEAD_DIM; i += THREADS) {
      float all = 0;
#pragma unroll 1
      for (int j = 0; j < VALUE_PARTS; j++) {
        all += s.value[j][i / HEAD_DIM][i % HEAD_DIM];
      }
      out[static_cast<long long>(unit) * SHARE * HEAD_DIM + i] = all;
    }
    __syncthreads();
  }
}

// Puts the parts of an attention together: the input of the output projection, in every block.
__device__ __forceinline__ void combine(const Cut& cut, const float2* tops, const float* values) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int parts = cut.parts;
  float* weight = shared().combine;
  constexpr int MINE = (Q_ROWS + THREADS - 1) / THREADS; // results of a thread
  constexpr int TOGETHER = 8;                            // parts that are asked for at once
  const float* from[MINE];
  float sum[MINE];
#pragma unroll
  for (int i = 0; i < MINE; i++) { // the first part's values come while its weight is worked out
    const int at = i * THREADS + threadIdx.x < Q_ROWS ? i * THREADS + threadIdx.x : 0;
    const int head = at / HEAD_DIM;
    from[i] = values + (static_cast<long long>(head / SHARE) * parts * SHARE + head % SHARE) * HEAD_DIM + at % HEAD_DIM;
    sum[i] = freshf(from[i]);
  }
#pragma unroll 1
  for (int head = warp; head < HEADS; head += WARPS) {
    const float2* mine = tops + head / SHARE * parts * SHARE + head % SHARE;
    float top = LOWEST, total = 0;
    for (int i = lane; i < parts; i += 32) {
      const float2 one = __ldcg(mine + i * SHARE);
      const float larger = fmaxf(top, one.x);
      total = total * __expf(top - larger) + one.y * __expf(one.x - larger);
      top = larger;
      weight[head * parts + i] = one.x;
    }
    const float largest = warp_max(top);
    total = 1 / warp_sum(top == LOWEST ? 0.f : total * __expf(top - largest));
    for (int i = lane; i < parts; i += 32) {
      weight[head * parts + i] = __expf(weight[head * parts + i] - largest) * total;
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (at < Q_ROWS) {
      const float* mine = weight + at / HEAD_DIM * parts;
      sum[i] *= mine[0];
      for (int part = 1; part < parts; part += TOGETHER) {
        float value[TOGETHER];
#pragma unroll
        for (int j = 0; j < TOGETHER; j++) {
          value[j] = freshf(from[i] + (part + j < parts ? part + j : 0) * SHARE * HEAD_DIM);
        }
#pragma unroll
        for (int j = 0; j < TOGETHER; j++) {
          sum[i] += part + j < parts ? mine[part + j] * value[j] : 0.f;
        }
      }
      shared().x[at] = narrow(sum[i]);
    }
  }
  __syncthreads();
}

// The residual stream: every block has all of it, a thread so many numbers.
struct Stream {
  float h[EACH];
};

__device__ __forceinline__ void read_norm(const T* weights, T (&into)[EACH]) {
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    into[i] = __ldg(weights + (at < HIDDEN ? at : 0)); // those beyond are not used
  }
}

// x becomes the normed stream.
__device__ __forceinline__ void norm(const Stream& stream, const T (&weights)[EACH], int& which) {
  float squares = 0;
  for (int i = 0; i < EACH; i++) {
    squares += stream.h[i] * stream.h[i];
  }
  const float scale = rsqrtf(block_sum(squares, which) / HIDDEN + number(EPS));
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (at < HIDDEN) {
      shared().x[at] = narrow(wide(weights[i]) * rounded(stream.h[i] * scale));
    }
  }
  __syncthreads();
}

// Adds what a block of the model put out.
__device__ __forceinline__ void add(Stream& stream, const T* out, const T (&post)[EACH], int& which) {
  float y[EACH], squares = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    y[i] = wide(fresh(out + (at < HIDDEN ? at : 0)));
  }
  for (int i = 0; i < EACH; i++) {
    y[i] = i * THREADS + threadIdx.x < HIDDEN ? y[i] : 0.f;
    squares += y[i] * y[i];
  }
  if (POST_NORM) {
    const float scale = rsqrtf(block_sum(squares, which) / HIDDEN + number(EPS));
    for (int i = 0; i < EACH; i++) {
      y[i] = rounded(wide(post[i]) * rounded(y[i] * scale));
    }
  }
  for (int i = 0; i < EACH; i++) {
    float sum = stream.h[i] + y[i];
    if (POST_NORM && HALF) { // Gemma's activations exceed float16's range
      sum = fminf(fmaxf(sum, -65504.f), 65504.f);
    }
    stream.h[i] = rounded(sum);
  }
}

// The scaled embedding of the token.
__device__ __forceinline__ void look_up(Stream& stream, const Matrix& table, unsigned token) {
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    float x = 0;
    if (at < HIDDEN) {
#if BITS
      const unsigned word = __ldg(reinterpret_cast<const unsigned*>(table.weights + token * row_bytes<HIDDEN>()) + at / 8);
      const long long group = static_cast<long long>(token) * (HIDDEN / GROUP) + at / GROUP;
      x = rounded(wide(__ldg(table.scales + group)) * (word >> (at % 8 * 4) & 15u) + wide(__ldg(table.biases + group)));
#else
      x = wide(__ldg(reinterpret_cast<const T*>(table.weights + token * row_bytes<HIDDEN>()) + at));
#endif
      if (number(EMBED_SCALE) != 0.f) {
        x = rounded(x * number(EMBED_SCALE));
      }
    }
    stream.h[i] = x;
  }
}

// This block's logits; its largest, and the sum of the exponentials of the others' distances to it, go to the workspace.
__device__ __forceinline__ void project_head(Product<Neighbours, HIDDEN>& product, const Matrix& m, T* logits, Workspace* w) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int from = range<VOCAB>()[0], to = range<VOCAB>()[1];
  float top = LOWEST, total = 0;
  product.finish(m, [&](int unit, float (&sum)[2]) {
    for (int r = 0; r < 2; r++) {
      const int at = from + 2 * unit + r;
      if (at < to) {
        const T logit = narrow(sum[r]);
        if (lane == 0) {
          logits[at] = logit;
        }
        const float x = wide(logit), larger = fmaxf(top, x);
        total = (total == 0.f ? 0.f : total * __expf(top - larger)) + __expf(x - larger);
        top = larger;
      }
    }
  });
  float* tops = shared().parts;
  float* totals = tops + WARPS;
  if (lane == 0) {
    tops[warp] = top;
    totals[warp] = total;
  }
  __syncthreads();
  if (warp == 0) {
    const float mine = lane < WARPS ? tops[lane] : LOWEST;
    const float largest = warp_max(mine);
    const float sum = warp_sum(mine == LOWEST ? 0.f : totals[lane] * __expf(mine - largest));
    if (lane == 0) {
      w->tops[blockIdx.x] = largest;
      w->sums[blockIdx.x] = sum;
    }
  }
}

// The first of the most likely tokens among this block's. mlx-lm looks for it among log-probabilities, which after rounding may
// be equal where logits differ.
__device__ __forceinline__ unsigned most_likely(const T* logits, const Workspace* w) {
  const int lane = threadIdx.x % 32;
  float top = LOWEST;
  for (int i = lane; i < gridDim.x; i += 32) {
    top = fmaxf(top, freshf(w->tops + i));
  }
  top = warp_max(top);
  float total = 0;
  for (int i = lane; i < gridDim.x; i += 32) {
    total += freshf(w->sums + i) * __expf(freshf(w->tops + i) - top);
  }
  const float whole = rounded(logf(warp_sum(total)) + top);
  const float best = rounded(top - whole);
  unsigned found = NOBODY;
  for (int i = range<VOCAB>()[0] + threadIdx.x; i < range<VOCAB>()[1]; i += THREADS) {
    if (rounded(wide(fresh(logits + i)) - whole) == best) {
      found = found < i ? found : i;
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other = __shfl_xor_sync(0xffffffff, found, step);
    found = found < other ? found : other;
  }
  return found;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) go_mlx_token(PARAMETERS) {
  Workspace* w = reinterpret_cast<Workspace*>(workspace);
  float2* tops = reinterpret_cast<float2*>(w + 1);
  float* values = reinterpret_cast<float*>(tops + gridDim.x * HEADS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) {
    switch (warp) { POINTERS } // shared().pointer = the parameters, some by every warp
  }
  if (threadIdx.x < 4) {
    constexpr int rows[4] = {QKV_ROWS, HIDDEN, INTER, VOCAB};
    share_out(threadIdx.x, rows[threadIdx.x]);
  }
  for (int i = threadIdx.x; i < ROPES * (HEAD_DIM / 2); i += THREADS) {
    const int rope = i / (HEAD_DIM / 2), pair = i % (HEAD_DIM / 2);
    const float frequency = FREQS ? 1.f / freqs[pair] : exp2f(-(static_cast<float>(pair) / (HEAD_DIM / 2)) * number(rope_base[rope]));
    sincosf(number(rope_scale[rope]) * position * frequency, &shared().sine[rope][pair], &shared().cosine[rope][pair]);
  }
  const int at[KINDS] = AT, filled[KINDS] = FILLED, room[KINDS] = ROOM;
  const T* all_norms = static_cast<const T*>(norms);
  const T* all_head_norms = static_cast<const T*>(head_norms);
  Matrix table, output;
  table.weights = static_cast<const unsigned char*>(embed);
  table.scales = static_cast<const T*>(embed_scales);
  table.biases = static_cast<const T*>(embed_biases);
  output.weights = static_cast<const unsigned char*>(head);
  output.scales = static_cast<const T*>(head_scales);
  output.biases = static_cast<const T*>(head_biases);
  unsigned due = 0;
  int which = 0;
  Stream stream;
  T before[EACH], post[EACH];
  const unsigned id = *static_cast<const unsigned*>(token);
  read_norm(all_norms, before);
  look_up(stream, table, id < VOCAB ? id : 0);
  __syncthreads();
  Product<Rows<QKV_ROWS, SPLIT_QKV>, HIDDEN> for_qkv;
  for_qkv.begin(matrix(0));
  norm(stream, before, which);
#pragma unroll 1
  for (int layer = 0; layer < LAYERS; layer++) {
    const int base = layer * 4 * MATRIX;
    const T* layer_norms = all_norms + static_cast<long long>(layer) * NORMS * HIDDEN; // input, MLP's, after attention, after the MLP
    const Matrix qkv = matrix(base), o = matrix(base + MATRIX), gate_up = matrix(base + 2 * MATRIX), down = matrix(base + 3 * MATRIX);
    T* keys = reinterpret_cast<T*>(shared().pointer[LAYERS * 4 * MATRIX + 2 * layer]);
    T* kept = reinterpret_cast<T*>(shared().pointer[LAYERS * 4 * MATRIX + 2 * layer + 1]);
    const int kind = kind_of[layer];
    Place p;
    p.row = row;
    p.position = position;
    p.at = p.filled = p.room = 0;
#pragma unroll
    for (int k = 0; k < KINDS; k++) {
      if (k == kind) {
        p.at = at[k], p.filled = filled[k], p.room = room[k];
      }
    }
    const Cut cut(p.filled);
    auto prefetch_gate = [&](int begin, int end) {
      prefetch<INTER, HIDDEN>(gate_up, 0, begin / 2, end / 2);
      prefetch<INTER, HIDDEN>(gate_up, INTER, begin / 2, end / 2);
    };
    project<QKV_ROWS, HIDDEN, SPLIT_QKV>(for_qkv, qkv, w->qkv);
    Attention attention;
    meet(&w->arrived, due, [&] {
      attention.begin(cut, all_head_norms + 2 * layer * HEAD_DIM, all_head_norms + (2 * layer + 1) * HEAD_DIM, keys, kept, p);
      prefetch_gate(0, FIRST);
    });
    attention.finish(cut, w, tops, values, keys, kept, rope_of[layer], p);
    Product<Rows<HIDDEN, SPLIT_O>, Q_ROWS> for_o;
    meet(&w->arrived, due, [&] {
      for_o.begin(o);
      prefetch_gate(FIRST, SECOND);
    });
    combine(cut, tops, values);
    project<HIDDEN, Q_ROWS, SPLIT_O>(for_o, o, w->out);
    Product<GateAndUp, HIDDEN> for_gate;
    meet(&w->arrived, due, [&] {
      read_norm(layer_norms + HIDDEN, before);
      if (POST_NORM) {
        read_norm(layer_norms + 2 * HIDDEN, post);
      }
      for_gate.begin(gate_up);
      prefetch_gate(SECOND, THIRD);
    });
    add(stream, w->out, post, which);
    norm(stream, before, which);
    project_gate(for_gate, gate_up, w->gated);
    Product<Rows<HIDDEN, SPLIT_DOWN>, INTER> for_down;
    meet(&w->arrived, due, [&] {
      for_down.begin(down);
      prefetch<HIDDEN, INTER>(down, 0, 0, DOWN);
    });
#pragma unroll 4
    for (int i = threadIdx.x; i < INTER / 8; i += THREADS) {
      reinterpret_cast<uint4*>(shared().x)[i] = fresh16(w->gated + 8 * i);
    }
    __syncthreads();
    project<HIDDEN, INTER, SPLIT_DOWN>(for_down, down, w->out);
    meet(&w->arrived, due, [&] {
      read_norm(layer_norms + NORMS * HIDDEN, before); // of the next layer, or the last norm
      if (POST_NORM) {
        read_norm(layer_norms + 3 * HIDDEN, post);
      }
      for_qkv.begin(matrix(layer + 1 < LAYERS ? base + 4 * MATRIX : base));
    });
    add(stream, w->out, post, which);
    norm(stream, before, which);
  }
  T* all_logits = static_cast<T*>(logits);
  Product<Neighbours, HIDDEN> for_head;
  for_head.begin(output);
  project_head(for_head, output, all_logits, w);
  meet(&w->arrived, due);
  const unsigned found = most_likely(all_logits, w);
  if (lane == 0 && found != NOBODY) {
    atomicMin(&w->best, found);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(&w->done, 1u) == gridDim.x - 1) { // the last block: nobody waits for a counter any more
    __threadfence();
    const unsigned best_id = atomicExch(&w->best, NOBODY);
    *static_cast<unsigned*>(best) = best_id == NOBODY ? 0 : best_id;
    w->arrived = 0;
    w->done = 0;
  }
}

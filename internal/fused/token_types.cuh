// Sizes, numbers of two bytes, and sums over a warp.

constexpr int WARPS = THREADS / 32;
constexpr int Q_ROWS = HEADS * HEAD_DIM;
constexpr int KV_ROWS = KV_HEADS * HEAD_DIM;
constexpr int QKV_ROWS = Q_ROWS + 2 * KV_ROWS;
constexpr int SHARE = HEADS / KV_HEADS; // query heads of a key head
constexpr int TILE = 64;                // keys that a block looks at at a time
constexpr int NORMS = POST_NORM ? 4 : 2;
constexpr int MATRIX = BITS ? 3 : 1; // arrays of a matrix
constexpr int EACH = (HIDDEN + THREADS - 1) / THREADS;
// Bytes that a block asks for, ahead of what it reads itself, while it waits: of gate and up before the attention is known and before what it
// puts out, of down before the gated numbers.
constexpr int CHUNK = BITS ? 128 : 64; // columns of a unit of a product
constexpr int PIECES = BITS ? 1 : 2;   // of 16 bytes that a lane has of each of its rows
#ifndef FIRST
#define FIRST (16 << 10)
#define SECOND (16 << 10)
#define DOWN (16 << 10)
#endif
constexpr unsigned NOBODY = 0xffffffff;

__constant__ int kind_of[LAYERS] = KIND_OF;
__constant__ int rope_of[LAYERS] = ROPE_OF;
__constant__ unsigned rope_base[ROPES] = ROPE_BASE, rope_scale[ROPES] = ROPE_SCALE;

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

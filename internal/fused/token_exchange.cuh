// What blocks tell each other. Whoever needs numbers that others make reads each of them until it is there. So every number goes with the tick of the step that it belongs to, in one word, which is written and read as a whole. Ticks count the
// steps of all launches. A block has rows of every product (token.go launches no more blocks than that), so it cannot write a
// step's numbers before all others have read those of the last but one, and the room for them can be used again in each layer.

struct Workspace {
  unsigned ticks, done, best, arrived; // ticks as the last launch left them
  unsigned long long tops[BLOCKS], sums[BLOCKS]; // of every block's logits
  alignas(16) unsigned qkv[QKV_ROWS];
  alignas(16) unsigned out[HIDDEN];
  alignas(16) unsigned gated[INTER];
  // Then for every part of an attention: [parts, SHARE, 2], its largest score and the sum of its weights, and [parts, SHARE, HEAD_DIM], the
  // values' weighted sums.
};
constexpr unsigned LAST_TICK = 0xf0000000; // from which on they begin anew

// Numbers of two bytes have the lower half of a word, for the room is used in every layer: what stood there had a tick shortly before.
__device__ __forceinline__ void give(unsigned* to, T x, unsigned tick) {
  tell(to, tick << 16 | x);
}

__device__ __forceinline__ void give(unsigned long long* to, float x, unsigned tick) {
  tell(to, static_cast<unsigned long long>(tick) << 32 | __float_as_uint(x));
}

// If all threads of all blocks did nothing but read, what is to be read would wait behind them. So blocks count themselves when they have given
// numbers, and one thread of each looks at the count. Nothing is ordered by that: it says when reading is worth while.
__device__ __forceinline__ void arrive(Workspace* w) {
  if (threadIdx.x == 0) {
    count_one(&w->arrived);
  }
}

// Waits for so many arrivals, those of this launch all in all.
__device__ __forceinline__ void wait(const Workspace* w, unsigned due) {
  if (threadIdx.x == 0) {
    while (peek(&w->arrived) < due) {
    }
  }
  __syncthreads();
}

// N words, of which at says where they are; there are only so many, and others are 0. Loads take long: they go together, and again together until
// all are there.
template <int N, class At>
__device__ __forceinline__ void take(const unsigned* from, int count, unsigned tick, T (&into)[N], At at) {
  unsigned missing;
  do {
    missing = 0;
    unsigned word[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      word[i] = tick << 16;
      peek(word[i], from + at(i), at(i) < count);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
      missing |= word[i] >> 16 ^ (tick & 0xffff);
      into[i] = static_cast<T>(word[i]);
    }
  } while (missing);
}

// The first of N floats, a step apart; the others are 0.
template <int N>
__device__ __forceinline__ void take(const unsigned long long* from, int step, int count, unsigned tick, float (&into)[N]) {
  unsigned missing;
  do {
    missing = 0;
    unsigned long long word[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
      word[i] = static_cast<unsigned long long>(tick) << 32;
      peek(word[i], from + i * step, i < count);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
      missing |= static_cast<unsigned>(word[i] >> 32) ^ tick;
      into[i] = __uint_as_float(static_cast<unsigned>(word[i]));
    }
  } while (missing);
}

// The gated numbers of all blocks, as the input of a product.
__device__ __forceinline__ void take_gated(const unsigned* from, unsigned tick) {
  constexpr int FOURS = INTER / 4;
  constexpr int MINE = (FOURS + THREADS - 1) / THREADS;
  constexpr int TOGETHER = MINE < 4 ? MINE : 4;
  const unsigned wanted = tick & 0xffff;
#pragma unroll 1
  for (int first = 0; first < MINE; first += TOGETHER) {
    uint4 words[TOGETHER];
    unsigned missing;
    do {
      missing = 0;
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        const int at = (first + i) * THREADS + threadIdx.x;
        words[i] = make_uint4(tick << 16, tick << 16, tick << 16, tick << 16);
        peek(words[i], from + 4 * at, at < FOURS);
      }
#pragma unroll
      for (int i = 0; i < TOGETHER; i++) {
        missing |= words[i].x >> 16 ^ wanted | words[i].y >> 16 ^ wanted | words[i].z >> 16 ^ wanted | words[i].w >> 16 ^ wanted;
      }
    } while (missing);
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      const int at = (first + i) * THREADS + threadIdx.x;
      if (at - threadIdx.x % 32 >= FOURS) { // the whole warp is beyond
        continue;
      }
      unsigned low = __byte_perm(words[i].x, words[i].y, 0x5410), high = __byte_perm(words[i].z, words[i].w, 0x5410);
      if (BITS) { // neighbouring lanes have eight, and make pairs of those that are four apart
        const bool second = threadIdx.x % 2;
        const unsigned other = __shfl_xor_sync(0xffffffff, second ? low : high, 1);
        const unsigned mine = second ? high : low;
        const unsigned one = second ? other : mine, four = second ? mine : other;
        float sum = 0;
        float a, b;
        both(low, a, b);
        sum += a + b;
        both(high, a, b);
        sum += a + b;
        low = __byte_perm(one, four, 0x5410);
        high = __byte_perm(one, four, 0x7632);
        for (int step = 4; step > 0; step /= 2) {
          sum += __shfl_xor_sync(0xffffffff, sum, step);
        }
        if (at < FOURS && threadIdx.x % 8 == 0) {
          shared().sums_of_x[at / 8] = sum;
        }
      }
      if (at < FOURS) {
        const int where = BITS ? place(at / 2 * 8) + at % 2 * 4 : 4 * at;
        *reinterpret_cast<uint2*>(shared().x + where) = make_uint2(low, high);
      }
    }
  }
  __syncthreads();
}

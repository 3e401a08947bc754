constexpr int DRAW_THREADS = 1024;

// The bits of a number of type T, so that larger numbers have larger ones.
__device__ __forceinline__ uint32_t go_mlx_order(float x) {
  uint32_t bits = __float_as_uint(x);
#if ELEMENT == 1
  const T narrow = static_cast<T>(x);
  bits = static_cast<uint32_t>(narrow.bits) << 16;
#endif
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return ELEMENT == 0 ? bits : bits >> 16;
}

// What a search over the bits of numbers goes by: how much of each of 256 values there is, and what was found. Many numbers have the same few
// values, and sums in one place would wait for each other: there are COPIES of each, one for every other lane, and of a mass the high
// and the low bits, since only sums of 32 bits are fast.
struct GoMLXSearch {
  static constexpr int COPIES = 16;
  unsigned high[256][COPIES], low[256][COPIES]; // of 24 and 16 bits of a mass
  unsigned long long amounts[256], left;        // left: of what is to be reached, less what larger numbers have
  uint32_t prefix;
};

// The sum of those before this lane.
template <class E>
__device__ __forceinline__ E go_mlx_before(E x) {
  const int lane = threadIdx.x % 32;
  E sum = x;
  for (int step = 1; step < 32; step *= 2) {
    const E other = __shfl_up_sync(0xffffffff, sum, step);
    sum += lane >= step ? other : 0;
  }
  return sum - x;
}

// The sum of a warp; every lane gets it.
template <class E>
__device__ __forceinline__ E go_mlx_warp_sum(E x) {
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, step);
  }
  return x;
}

// Where the numbers that are kept end: the value of go_mlx_order at which so many are reached, from the largest down, or at which a part of all mass is (with
// most 0). search.left is how many with that value are wanted then.
template <int THREADS>
__device__ uint32_t go_mlx_cut(const T* row, int count, float whole, float part, unsigned most, GoMLXSearch& search) {
  static_assert(THREADS == 4 * 256, "four threads add up the copies of a value");
  constexpr int BITS = ELEMENT == 0 ? 32 : 16, COPIES = GoMLXSearch::COPIES;
  const int thread = threadIdx.x, lane = thread % 32;
  for (int shift = BITS - 8; shift >= 0; shift -= 8) {
    const bool first = shift == BITS - 8;
    const uint32_t prefix = first ? 0 : search.prefix;
    __syncthreads();
    for (int i = thread; i < 256 * COPIES; i += THREADS) {
      search.high[i / COPIES][i % COPIES] = search.low[i / COPIES][i % COPIES] = 0;
    }
    __syncthreads();
#pragma unroll 4
    for (int i = thread; i < count; i += THREADS) {
      const float x = rounded(static_cast<float>(row[i]) - whole);
      const uint32_t order = go_mlx_order(x);
      if (first || order >> (shift + 8) == prefix) {
        const uint32_t value = order >> shift & 255;
        if (most > 0) {
          atomicAdd(&search.low[value][lane % COPIES], 1u);
        } else {
          const float mass = __expf(x) * 0x1p24f;
          const unsigned high = static_cast<unsigned>(mass), low = static_cast<unsigned>((mass - static_cast<float>(high)) * 0x1p16f);
          if (high > 0) {
            atomicAdd(&search.high[value][lane % COPIES], high);
          }
          if (low > 0) {
            atomicAdd(&search.low[value][lane % COPIES], low);
          }
        }
      }
    }
    __syncthreads();
    unsigned long long amount = 0;
    for (int copy = thread % 4; copy < COPIES; copy += 4) {
      amount += (static_cast<unsigned long long>(search.high[thread / 4][copy]) << 16) + search.low[thread / 4][copy];
    }
    amount += __shfl_xor_sync(0xffffffff, amount, 1);
    amount += __shfl_xor_sync(0xffffffff, amount, 2);
    if (thread % 4 == 0) {
      search.amounts[thread / 4] = amount;
    }
    __syncthreads();
    if (thread < 32) { // a lane has eight values, the first lane the largest ones
      unsigned long long mine = 0;
      for (int i = 0; i < 8; i++) {
        mine += search.amounts[255 - 8 * lane - i];
      }
      const unsigned long long before = go_mlx_before(mine);
      unsigned long long left = search.left;
      if (first) {
        const unsigned long long all = __shfl_sync(0xffffffff, before + mine, 31);
        left = most > 0 ? most : static_cast<unsigned long long>(static_cast<double>(all) * part);
        left = left > 0 ? left : 1;
      }
      const unsigned reached = __ballot_sync(0xffffffff, before + mine >= left);
      if (lane == (reached ? __ffs(reached) - 1 : 31)) {
        left -= before;
        int at = 255 - 8 * lane;
        for (int i = 0; i < 7 && search.amounts[at] < left; i++) {
          left -= search.amounts[at--];
        }
        search.left = left;
        search.prefix = prefix << 8 | at;
      }
    }
    __syncthreads();
  }
  return search.prefix;
}

// The sums of all 32 numbers before each, in place, and of all behind the last.
template <class E>
__device__ void go_mlx_sums_before(E* numbers) {
  __syncthreads();
  if (threadIdx.x < 32) {
    const E mine = numbers[threadIdx.x], before = go_mlx_before(mine);
    numbers[threadIdx.x] = before;
    if (threadIdx.x == 31) {
      numbers[32] = before + mine;
    }
  }
  __syncthreads();
}

// The number from 0 to below 1 that MLX draws with a key: of threefry2x32 (Salmon et al. 2011), the first word for the counters 0 and 0.
__device__ __forceinline__ float go_mlx_uniform(uint32_t key0, uint32_t key1) {
  const uint32_t keys[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDAu};
  const int turns[8] = {13, 15, 26, 6, 17, 29, 16, 24};
  uint32_t x = keys[0], y = keys[1];
#pragma unroll
  for (int i = 0; i < 5; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int turn = turns[i % 2 * 4 + j];
      x += y;
      y = y << turn | y >> (32 - turn);
      y ^= x;
    }
    x += keys[(i + 1) % 3];
    y += keys[(i + 2) % 3] + i + 1;
  }
  return fminf(static_cast<float>(x) / 4294967296.f, 0x1.fffffep-1f);
}

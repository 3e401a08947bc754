// Attention of one token, cut into parts over the blocks.

// The first key of each part of an attention over filled keys, and how many parts there are for each key head.
__device__ __forceinline__ int keys_of_part(int filled) {
  const int tiles = (filled + TILE - 1) / TILE;
  const int parts = BLOCKS / KV_HEADS > 0 ? BLOCKS / KV_HEADS : 1;
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

  __device__ __forceinline__ void finish(const Cut& cut, const unsigned* qkv, unsigned long long* tops, unsigned long long* out, T* keys, T* values, int rope, const Place& p, unsigned tick);
};

// Attention of this block's parts, with the queries and the key and value of one tick, told at the next. Whoever has the key of this token puts it
// and the value into the cache.
__device__ __forceinline__ void Attention::finish(const Cut& cut, const unsigned* qkv, unsigned long long* tops, unsigned long long* out, T* keys, T* kept,
                                                  int rope, const Place& p, unsigned tick) {
  auto& s = shared().attend;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll 1
  for (int unit = blockIdx.x; unit < cut.parts * KV_HEADS; unit += BLOCKS) {
    const Part me(cut, unit, keys, kept, p);
    const bool busy = lane * PAIRS < HEAD_DIM / 2;
    // Norms and rotations of the queries, and of the key: a warp each.
    if (const int head = warp; head < SHARE + me.mine) {
      const bool key = head == SHARE;
      const unsigned* from = qkv + (key ? Q_ROWS + me.group * HEAD_DIM : (me.group * SHARE + head) * HEAD_DIM);
      float a[PAIRS], b[PAIRS], squares = 0;
      T both_halves[2 * PAIRS];
      take(from, HEAD_DIM, tick, both_halves, [&](int i) { return lane * PAIRS % (HEAD_DIM / 2) + (i < PAIRS ? i : HEAD_DIM / 2 - PAIRS + i); });
      for (int i = 0; i < PAIRS; i++) {
        a[i] = wide(both_halves[i]);
        b[i] = wide(both_halves[PAIRS + i]);
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
      for (int d = THREADS - 1 - threadIdx.x; d < HEAD_DIM; d += THREADS) { // the last warps: the first are busy with queries and the key
        T value[1];
        take(qkv + Q_ROWS + KV_ROWS + me.group * HEAD_DIM, HEAD_DIM, tick, value, [&](int) { return d; });
        me.values[static_cast<long long>(p.at) * HEAD_DIM + d] = value[0];
        s.newest[d] = value[0];
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
#pragma unroll 1
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
      give(tops + 2 * (unit * SHARE + warp), top, tick + 1);
      give(tops + 2 * (unit * SHARE + warp) + 1, total, tick + 1);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < SHARE * HEAD_DIM; i += THREADS) {
      float all = 0;
#pragma unroll 1
      for (int j = 0; j < VALUE_PARTS; j++) {
        all += s.value[j][i / HEAD_DIM][i % HEAD_DIM];
      }
      give(out + static_cast<long long>(unit) * SHARE * HEAD_DIM + i, all, tick + 1);
    }
    __syncthreads();
  }
}

// Puts the parts of an attention together: the input of the output projection, in every block.
__device__ __forceinline__ void combine(const Cut& cut, const unsigned long long* tops, const unsigned long long* values, unsigned tick) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int parts = cut.parts;
  float* weight = shared().combine;
  constexpr int MINE = (Q_ROWS + THREADS - 1) / THREADS; // results of a thread
  constexpr int TOGETHER = 8;                            // parts that are asked for at once
  const unsigned long long* from[MINE];
  float value[MINE][TOGETHER];
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    const int at = i * THREADS + threadIdx.x, head = at / HEAD_DIM;
    from[i] = values + (static_cast<long long>(head / SHARE) * parts * SHARE + head % SHARE) * HEAD_DIM + at % HEAD_DIM;
    take(from[i], SHARE * HEAD_DIM, at < Q_ROWS ? parts : 0, tick, value[i]);
  }
#pragma unroll 1
  for (int head = warp; head < HEADS; head += WARPS) {
    const unsigned long long* mine = tops + 2 * (head / SHARE * parts * SHARE + head % SHARE);
    float top = LOWEST, total = 0;
#pragma unroll 1
    for (int i = lane; i < parts; i += 32) {
      float one[2];
      take(mine + 2 * i * SHARE, 1, 2, tick, one);
      const float larger = fmaxf(top, one[0]);
      total = total * __expf(top - larger) + one[1] * __expf(one[0] - larger);
      top = larger;
      weight[head * parts + i] = one[0];
    }
    __syncwarp();
    const float largest = warp_max(top);
    total = 1 / warp_sum(top == LOWEST ? 0.f : total * __expf(top - largest));
#pragma unroll 1
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
      float sum = 0;
#pragma unroll 1
      for (int part = 0;;) {
#pragma unroll
        for (int j = 0; j < TOGETHER; j++) {
          sum += part + j < parts ? mine[part + j] * value[i][j] : 0.f;
        }
        if ((part += TOGETHER) >= parts) {
          break;
        }
        take(from[i] + static_cast<long long>(part) * SHARE * HEAD_DIM, SHARE * HEAD_DIM, parts - part, tick, value[i]);
      }
      put(at, sum);
    }
  }
  __syncthreads();
}

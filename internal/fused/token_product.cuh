// Products by the tensor cores. A unit of work of a warp is a tile of 16 rows by some columns, in two halves of eight rows: of both, a lane
// has neighbouring weights of row lane / 4. The cores multiply 16 rows by 16 columns at a time; as the order inside a sum is free, a lane
// gives its own columns, four at a time of each row, and the input at the same places.
//
// Weights are copied into shared memory long before they are needed, by a warp for itself. Loops are not unrolled: every step of a layer runs
// once, so its instructions come from far away, and there should be few of them.
//
// A packed weight is scale * q + bias, with these the same for a group of columns. Four bits q in the low bits of the number OFFSET are
// OFFSET + q: one instruction makes two of them, and what is too much is taken off by the sum of the group's input. The second matrix that
// the cores take has eight columns, though there is one input: column n has the input of the groups n, n + GROUPS, ... of the
// tile and else zeros, so that the groups' sums come out side by side. With plain weights all columns are the input.

constexpr int GROUPS = CHUNK / (BITS ? GROUP : CHUNK); // of a tile
static_assert(GROUPS == 1 || GROUPS == 2 || GROUPS == 4, "token.go takes groups of 32, 64 and 128");
constexpr float OFFSET = HALF ? 1024.f : 128.f;

// The weights with numbers i and i + 4 of eight, each OFFSET more.
template <int I>
__device__ __forceinline__ unsigned two_of(unsigned word) {
  return ((word >> (4 * I)) & 0x000f000fu) | (HALF ? 0x64006400u : 0x43004300u);
}

// Where a block's rows of a product are: tile and half say which eight, -1 is none.
template <int ROWS, int K_>
struct TileRows {
  static constexpr int K = K_;
  static constexpr int TILES = ((ROWS + BLOCKS - 1) / BLOCKS + 15) / 16; // at most
  static __device__ __forceinline__ int row(int tile, int half) {
    const int at = range<ROWS>()[0] + tile * 16 + half * 8 + threadIdx.x % 32 / 4;
    return at < range<ROWS>()[1] ? at : -1;
  }
};

struct GateAndUpRows { // a half is eight of gate, the other the same of up
  static constexpr int K = HIDDEN;
  static constexpr int TILES = ((INTER + BLOCKS - 1) / BLOCKS + 7) / 8;
  static __device__ __forceinline__ int row(int tile, int half) {
    const int at = range<INTER>()[0] + tile * 8 + threadIdx.x % 32 / 4;
    return at < range<INTER>()[1] ? half * INTER + at : -1;
  }
};

// A unit's weights in shared memory, each lane's own. Packed ones have 32 columns in a lane, plain ones two times eight, half a chunk apart.
struct alignas(16) Unit {
  uint4 upper[PIECES][32], lower[PIECES][32];
#if BITS
  unsigned factor[32], addend[GROUPS == 4 ? 32 : 4]; // of each lane, two scales or biases
#endif

  template <class Where>
  __device__ __forceinline__ void load(const Matrix& m, int tile, int chunk, bool wanted) {
    constexpr int K = Where::K;
    const int lane = threadIdx.x % 32, t = lane % 4;
    const int up = Where::row(tile, 0), low = Where::row(tile, 1);
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&upper[0][lane]));
    const unsigned char* of_up = m.weights + (up < 0 ? 0 : up) * row_bytes<K>();
    const unsigned char* of_low = m.weights + (low < 0 ? 0 : low) * row_bytes<K>();
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const int column = chunk * CHUNK + (BITS ? t * 32 : i * 32 + t * 8);
      const int at = BITS ? column / 2 : 2 * column;
      const bool there = wanted && column < K;
      copy16(to + 512 * i, of_up + (there ? at : 0), there && up >= 0);
      copy16(to + 512 * (PIECES + i), of_low + (there ? at : 0), there && low >= 0);
    }
#if BITS
    const int row = t / 2 ? low : up;
    const bool there = wanted && row >= 0 && chunk * CHUNK < K;
    const long long group = there ? static_cast<long long>(row) * (K / GROUP) + chunk * GROUPS : 0;
    const T* mine = t % 2 ? m.biases : m.scales;
    if constexpr (GROUPS == 4) {
      two<K>(factor, m.scales + group + t % 2 * 2, there, (chunk * 4 + t % 2 * 2) * GROUP < K, (chunk * 4 + t % 2 * 2 + 1) * GROUP < K);
      two<K>(addend, m.biases + group + t % 2 * 2, there, (chunk * 4 + t % 2 * 2) * GROUP < K, (chunk * 4 + t % 2 * 2 + 1) * GROUP < K);
    } else {
      two<K>(factor, mine + group, there, true, GROUPS == 2 && (chunk * 2 + 1) * GROUP < K);
    }
#endif
  }

#if BITS
  // Two neighbours, each only if it is there.
  template <int K>
  static __device__ __forceinline__ void two(unsigned* into, const T* at, bool wanted, bool first, bool second) {
    const int lane = threadIdx.x % 32;
    if constexpr (GROUPS > 1 && K / GROUP % 2 == 0) { // rows begin with pairs, and end with them
      copy4(static_cast<unsigned>(__cvta_generic_to_shared(into + lane)), at, wanted && first);
    } else {
      into[lane] = (wanted && first ? __ldg(at) : 0u) | (wanted && second ? __ldg(at + 1) : 0u) << 16;
    }
  }
#endif

  // This lane's share of the sums of its row: of the upper one in two lanes of four, of the lower one in the others.
  __device__ __forceinline__ float multiply(int chunk, int columns) const {
    const int lane = threadIdx.x % 32, t = lane % 4;
    float one[4] = {}, other[4] = {};
#if BITS
    const bool active = lane / 4 % GROUPS == t * 32 / (CHUNK / GROUPS) && chunk * CHUNK + t * 32 < columns;
    // At step j, four lanes read the places that put has for their eight; the others read zeros, from other banks.
    const T* x = shared().x + chunk * CHUNK + t * 32;
    const T* near = active ? x + (t & 2) * 8 : shared().zeros + 8;
    const T* far = active ? x + 16 - (t & 2) * 8 : shared().zeros + 24;
    const uint4 up = upper[0][lane], low = lower[0][lane];
    step(one, other, up.x, low.x, near);
    step(one, other, up.y, low.y, near + 8);
    step(one, other, up.z, low.z, far);
    step(one, other, up.w, low.w, far + 8);
    const float a = t / 2 ? one[2] + other[2] : one[0] + other[0];
    const float b = t / 2 ? one[3] + other[3] : one[1] + other[1];
    const float4 sums = *reinterpret_cast<const float4*>(shared().sums_of_x + chunk * 4);
    float scale, next;
    both(factor[lane], scale, next);
    if constexpr (GROUPS == 1) {
      const float all = sums.x + sums.y + sums.z + sums.w;
      return scale * (t % 2 ? all : a - OFFSET * all);
    } else if constexpr (GROUPS == 2) {
      const float first = sums.x + sums.y, second = sums.z + sums.w;
      const bool last = columns % CHUNK != 0 && chunk * CHUNK + GROUP >= columns;
      return scale * (t % 2 ? first : a - OFFSET * first) + (last ? 0.f : next * (t % 2 ? second : b - OFFSET * second));
    } else {
      const bool upper_pair = t % 2;
      const float first = upper_pair ? sums.z : sums.x, second = upper_pair ? sums.w : sums.y;
      float add, add_next;
      both(addend[lane], add, add_next);
      const int group = chunk * 4 + upper_pair * 2;
      return (group * GROUP < columns ? scale * (a - OFFSET * first) + add * first : 0.f) +
             ((group + 1) * GROUP < columns ? next * (b - OFFSET * second) + add_next * second : 0.f);
    }
#else
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
      const int column = chunk * CHUNK + i * 32 + t * 8;
      const uint4 x = *reinterpret_cast<const uint4*>(column < columns ? shared().x + column : shared().zeros);
      const uint4 up = upper[i][lane], low = lower[i][lane];
      multiply_tile(one, up.x, low.x, up.y, low.y, x.x, x.y);
      multiply_tile(other, up.z, low.z, up.w, low.w, x.z, x.w);
    }
    return t % 2 ? 0.f : t / 2 ? one[2] + other[2] : one[0] + other[0];
#endif
  }

#if BITS
  static __device__ __forceinline__ void step(float (&one)[4], float (&other)[4], unsigned up, unsigned low, const T* x) {
    const uint4 b = *reinterpret_cast<const uint4*>(x);
    multiply_tile(one, two_of<0>(up), two_of<0>(low), two_of<1>(up), two_of<1>(low), b.x, b.y);
    multiply_tile(other, two_of<2>(up), two_of<2>(low), two_of<3>(up), two_of<3>(low), b.z, b.w);
  }
#endif
};

// The units of a warp, AHEAD of them on the way. Every unit is a group of copies, and so are those beyond the last.
template <class Where, class Order>
struct UnitStream {
  static __device__ __forceinline__ Unit* mine() { return reinterpret_cast<Unit*>(memory + UNITS_AT) + threadIdx.x / 32 * AHEAD; }

  static __device__ __forceinline__ void load(const Matrix& m, int i, int slot, int count) {
    if (i < count) {
      mine()[slot].template load<Where>(m, Order::tile(i), Order::chunk(i), true);
    }
    end_group();
  }

  // Asks for the first weights.
  static __device__ __forceinline__ void begin(const Matrix& m) {
    const int count = Order::count();
#pragma unroll 1
    for (int i = 0; i < AHEAD; i++) {
      load(m, i, i, count);
    }
  }

  // Multiplies; done gets the lanes' shares of a tile's sums when the warp has no more of it.
  template <class Done>
  static __device__ __forceinline__ void finish(const Matrix& m, Done done) {
    const int count = Order::count();
    float sum = 0;
    int slot = 0;
#pragma unroll 1
    for (int i = 0; i < count; i++) {
      wait_groups<AHEAD - 1>();
      __syncwarp();
      const int chunk = Order::chunk(i);
      sum += mine()[slot].multiply(chunk, Where::K);
      __syncwarp();
      load(m, i + AHEAD, slot, count);
      slot = slot + 1 < AHEAD ? slot + 1 : 0;
      if (chunk == Order::CHUNKS - 1 || i == count - 1) {
        done(Order::tile(i), sum + __shfl_xor_sync(0xffffffff, sum, 1));
        sum = 0;
      }
    }
    wait_groups<0>(); // the next product has its own groups
  }
};

// Units are shared out to the warps in order.
template <class Where>
struct InOrder {
  static constexpr int CHUNKS = (Where::K + CHUNK - 1) / CHUNK;
  static constexpr int UNITS = Where::TILES * CHUNKS;
  static constexpr int EACH_WARP = (UNITS + WARPS - 1) / WARPS;
  static __device__ __forceinline__ int first() { return threadIdx.x / 32 * EACH_WARP; }
  static __device__ __forceinline__ int count() {
    const int left = UNITS - first();
    return left < EACH_WARP ? left : EACH_WARP;
  }
  static __device__ __forceinline__ int tile(int i) { return (first() + i) / CHUNKS; }
  static __device__ __forceinline__ int chunk(int i) { return (first() + i) % CHUNKS; }
};

template <class Where>
struct Product {
  using Order = InOrder<Where>;
  using Units = UnitStream<Where, Order>;
  static constexpr int CHUNKS = Order::CHUNKS, EACH_WARP = Order::EACH_WARP;
  static constexpr int PARTS_OF_TILE = (CHUNKS + EACH_WARP - 1) / EACH_WARP + 1;
  static_assert(Where::TILES * PARTS_OF_TILE * 16 <= PARTS, "token.go has too little room for the parts");

  __device__ __forceinline__ void begin(const Matrix& m) { Units::begin(m); }

  // Multiplies; sum_of has the sums then.
  __device__ __forceinline__ void finish(const Matrix& m) {
    Units::finish(m, [](int tile, float sum) {
      const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
      if (lane % 2 == 0) {
        const int part = tile * PARTS_OF_TILE + warp - tile * CHUNKS / EACH_WARP;
        shared().parts[part * 16 + lane % 4 / 2 * 8 + lane / 4] = sum;
      }
    });
    __syncthreads();
  }

  static __device__ __forceinline__ float sum_of(int tile, int row) {
    const int from = tile * CHUNKS / EACH_WARP, to = (tile * CHUNKS + CHUNKS - 1) / EACH_WARP;
    const float* part = shared().parts + tile * PARTS_OF_TILE * 16 + row;
    float sum = 0;
#pragma unroll 4
    for (int i = from; i <= to; i++) {
      sum += part[(i - from) * 16];
    }
    return sum;
  }
};

// The output layer: a warp has whole tiles. done gets a logit in every lane that has one, all of which are to store it.
struct HeadProduct {
  using Where = TileRows<VOCAB, HIDDEN>;
  struct Order {
    static constexpr int CHUNKS = (HIDDEN + CHUNK - 1) / CHUNK;
    static __device__ __forceinline__ int count() {
      const int tiles = (range<VOCAB>()[1] - range<VOCAB>()[0] + 15) / 16, warp = threadIdx.x / 32;
      return tiles > warp ? (tiles - warp + WARPS - 1) / WARPS * CHUNKS : 0;
    }
    static __device__ __forceinline__ int tile(int i) { return i / CHUNKS * WARPS + threadIdx.x / 32; }
    static __device__ __forceinline__ int chunk(int i) { return i % CHUNKS; }
  };

  __device__ __forceinline__ void begin(const Matrix& m) { UnitStream<Where, Order>::begin(m); }

  template <class Done>
  __device__ __forceinline__ void finish(const Matrix& m, Done done) {
    UnitStream<Where, Order>::finish(m, [&](int tile, float sum) {
      const int lane = threadIdx.x % 32, row = Where::row(tile, lane % 4 / 2);
      if (row >= 0 && lane % 2 == 0) {
        done(row, sum);
      }
    });
  }
};

using QKVProduct = Product<TileRows<QKV_ROWS, HIDDEN>>;
using OProduct = Product<TileRows<HIDDEN, Q_ROWS>>;
using GateProduct = Product<GateAndUpRows>;
using DownProduct = Product<TileRows<HIDDEN, INTER>>;

// This block's rows of a product with x, rounded, to all blocks.
template <int ROWS, int K>
__device__ __forceinline__ void project(Product<TileRows<ROWS, K>>& product, const Matrix& m, unsigned* out, unsigned tick) {
  product.finish(m);
  const int from = range<ROWS>()[0], count = range<ROWS>()[1] - from;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += THREADS) {
    give(out + from + i, narrow(product.sum_of(i / 16, i % 16)), tick);
  }
}

// This block's part of the gate and up projections, joined by the activation.
__device__ __forceinline__ void project_gate(GateProduct& product, const Matrix& m, unsigned* out, unsigned tick) {
  product.finish(m);
  const int from = range<INTER>()[0], count = range<INTER>()[1] - from;
#pragma unroll 1
  for (int i = threadIdx.x; i < count; i += THREADS) {
    give(out + from + i, activation(rounded(product.sum_of(i / 8, i % 8)), rounded(product.sum_of(i / 8, i % 8 + 8))), tick);
  }
}

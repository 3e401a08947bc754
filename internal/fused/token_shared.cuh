// What a block shares, and the weights' rows that are its.

__device__ constexpr int most(int a, int b) { return a > b ? a : b; }
constexpr int LANES_PER_KEY = HEAD_DIM / 8;
constexpr int VALUE_PARTS = THREADS / (HEAD_DIM / 2); // of the keys of a tile, which threads weigh values of
constexpr int LONGEST = most(most(HIDDEN, Q_ROWS), INTER);


// Where a number of a product's input stands in shared memory. Multiplying packed weights takes it in pairs of those four apart (see
// token_packed.cuh), and reads of four lanes 64 bytes apart should not meet in one bank.
__device__ __forceinline__ constexpr int place(int at) {
  if (BITS == 0) {
    return at;
  }
  const int eight = at / 8 ^ (at >> 5 & 2);
  return eight * 8 + (at % 4) * 2 + at / 4 % 2;
}

struct Shared {
  alignas(128) T x[LONGEST + 128]; // the input of a product, each number at its place
  alignas(128) T zeros[64];        // as the input where there is none
  alignas(16) float sums_of_x[LONGEST / 32 + 4]; // of every 32 numbers of the input
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

static_assert(sizeof(Shared) <= UNITS_AT, "token.go asks for too little"); // behind it are the units of products

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
    shared().ranges[which][end] = static_cast<int>(static_cast<long long>(rows) * (blockIdx.x + end) / BLOCKS);
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
    prefetch_line(rows + line);
  }
}


// Puts a number of a product's input into its place. A warp has 32 neighbours.
__device__ __forceinline__ void put(int at, float x) {
  const T value = narrow(x);
  shared().x[place(at)] = value;
  if (BITS) {
    const float sum = warp_sum(wide(value));
    if (threadIdx.x % 32 == 0) {
      shared().sums_of_x[at / 32] = sum;
    }
  }
}

// The sum over a block of THREADS threads, a multiple of 32; every thread gets it.
template <int THREADS>
__device__ float go_mlx_sum(float x, float* shared) {
  for (int step = 16; step > 0; step /= 2) {
    x += __shfl_xor_sync(0xffffffff, x, step);
  }
  if (THREADS > 32) {
    __syncthreads(); // whoever read the last sum is done
    if (threadIdx.x % 32 == 0) {
      shared[threadIdx.x / 32] = x;
    }
    __syncthreads();
    x = threadIdx.x % 32 < THREADS / 32 ? shared[threadIdx.x % 32] : 0.f;
    for (int step = 16; step > 0; step /= 2) {
      x += __shfl_xor_sync(0xffffffff, x, step);
    }
  }
  return x;
}

// The largest value of a block.
template <int THREADS>
__device__ float go_mlx_max(float x, float* shared) {
  for (int step = 16; step > 0; step /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
  }
  if (THREADS > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      shared[threadIdx.x / 32] = x;
    }
    __syncthreads();
    x = shared[threadIdx.x % (THREADS / 32)];
    for (int step = 16; step > 0; step /= 2) {
      x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, step));
    }
  }
  return x;
}

// Turns a block's scores into exponentials and returns what these are to be multiplied by for a softmax.
template <int THREADS>
__device__ float go_mlx_softmax(float* scores, int length, float* shared) {
  float top = LOWEST;
  for (int i = threadIdx.x; i < length; i += THREADS) {
    top = fmaxf(top, scores[i]);
  }
  top = go_mlx_max<THREADS>(top, shared);
  float sum = 0;
  for (int i = threadIdx.x; i < length; i += THREADS) {
    scores[i] = __expf(scores[i] - top);
    sum += scores[i];
  }
  return 1 / go_mlx_sum<THREADS>(sum, shared);
}

// N neighbouring elements, read at once.
template <typename E, int N>
struct alignas(sizeof(E) * N) GoMLXVector {
  E at[N];
};

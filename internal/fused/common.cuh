#include "mlx/backend/cuda/device/binary_ops.cuh"
#include "mlx/backend/cuda/device/unary_ops.cuh"

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

// N neighbouring elements, read at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) GoMLXVector {
  T at[N];
};

// Logits, and the most likely token.

// This block's logits; its largest, and the sum of the exponentials of the others' distances to it, go to the workspace.
__device__ __forceinline__ void project_head(HeadProduct& product, const Matrix& m, T* logits, Workspace* w, unsigned tick) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float top = LOWEST, total = 0; // of a lane's logits
  product.finish(m, [&](int at, float sum) {
    const T logit = narrow(sum);
    logits[at] = logit;
    const float x = wide(logit), larger = fmaxf(top, x);
    total = (total == 0.f ? 0.f : total * __expf(top - larger)) + __expf(x - larger);
    top = larger;
  });
  const float of_warp = warp_max(top);
  total = warp_sum(top == LOWEST ? 0.f : total * __expf(top - of_warp));
  top = of_warp;
  __syncthreads(); // of shared().parts, which the last step had
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
      give(w->tops + blockIdx.x, largest, tick);
      give(w->sums + blockIdx.x, sum, tick);
    }
  }
}

// The first of the most likely tokens among this block's. mlx-lm looks for it among log-probabilities, which after rounding may
// be equal where logits differ.
__device__ __forceinline__ unsigned most_likely(const T* logits, const Workspace* w, unsigned tick, unsigned due) {
  constexpr int MINE = (BLOCKS + 31) / 32;
  const int lane = threadIdx.x % 32;
  wait(w, due); // all of this block's logits are there too
  float tops[MINE], sums[MINE];
  const int mine = (BLOCKS - lane + 31) / 32;
  take(w->tops + lane, 32, mine, tick, tops);
  take(w->sums + lane, 32, mine, tick, sums);
  float top = LOWEST, total = 0;
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    top = fmaxf(top, i < mine ? tops[i] : LOWEST);
  }
  top = warp_max(top);
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    total += i < mine ? sums[i] * __expf(tops[i] - top) : 0.f;
  }
  const float whole = rounded(logf(warp_sum(total)) + top);
  const float best = rounded(top - whole);
  unsigned found = NOBODY;
  for (int i = range<VOCAB>()[0] + threadIdx.x; i < range<VOCAB>()[1]; i += THREADS) {
    if (rounded(wide(__ldcg(logits + i)) - whole) == best) {
      found = found < i ? found : i;
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other = __shfl_xor_sync(0xffffffff, found, step);
    found = found < other ? found : other;
  }
  return found;
}

  // One block of THREADS threads for each row of N. out is [2, rows, N]: the sums, then these normed.
  constexpr int EACH = (N + THREADS - 1) / THREADS;
  __shared__ float sums[32];
  const int64_t start = static_cast<int64_t>(blockIdx.x) * N;
  T* sum = out;
  T* normed = out + static_cast<int64_t>(gridDim.x) * N;
  T line[EACH];
  float squares = 0;
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    line[i] = at < N ? y[start + at] : static_cast<T>(0.f);
    squares += static_cast<float>(line[i]) * static_cast<float>(line[i]);
  }
  if (POST) {
    const float scale = rsqrtf(go_mlx_sum<THREADS>(squares, sums) / N + settings[0]);
    for (int i = 0; i < EACH; i++) {
      const int at = i * THREADS + threadIdx.x;
      if (at < N) {
        line[i] = static_cast<T>(static_cast<float>(post_weight[at]) * rounded(static_cast<float>(line[i]) * scale));
      }
    }
  }
  squares = 0;
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (at < N) {
      const float added = static_cast<float>(h[start + at]) + static_cast<float>(line[i]);
      line[i] = static_cast<T>(CLIP ? fminf(fmaxf(added, -65504.f), 65504.f) : added);
      sum[start + at] = line[i];
      squares += static_cast<float>(line[i]) * static_cast<float>(line[i]);
    }
  }
  const float scale = rsqrtf(go_mlx_sum<THREADS>(squares, sums) / N + settings[0]);
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (at < N) {
      normed[start + at] = static_cast<T>(static_cast<float>(next_weight[at]) * rounded(static_cast<float>(line[i]) * scale));
    }
  }

  // One block of D threads for each head of each token. qkv is [B, tokens, (H + 2 KV) D], out is
  // [B, H + 2 KV, tokens, D]: queries, keys, values.
  constexpr int SLOTS = H + 2 * KV;
  __shared__ float sums[32];
  __shared__ T line[D];
  const int tokens = qkv_shape[1];
  const int slot = blockIdx.x % SLOTS;
  const int row = blockIdx.x / SLOTS;
  const int b = row / tokens;
  const int t = row % tokens;
  const int d = threadIdx.x;
  T* result = out + (static_cast<int64_t>(b * SLOTS + slot) * tokens + t) * D + d;
  T x = qkv[static_cast<int64_t>(blockIdx.x) * D + d];
  if (slot >= H + KV) {
    *result = x;
    return;
  }
  if (NORM) {
    const float f = static_cast<float>(x);
    const float mean = go_mlx_sum<D>(f * f, sums) / D;
    const T normed = static_cast<T>(f * rsqrtf(mean + settings[0]));
    x = static_cast<T>(static_cast<float>(slot < H ? q_weight[d] : k_weight[d]) * static_cast<float>(normed));
  }
  line[d] = x;
  __syncthreads();
  constexpr int HALF = D / 2;
  const int pair = d % HALF;
  const float frequency = FREQS ? 1.0f / freqs[pair]
                                : exp2f(-(static_cast<float>(pair) / static_cast<float>(HALF)) * settings[1]);
  const float theta = settings[2] * static_cast<float>(positions[row]) * frequency;
  const float x1 = static_cast<float>(line[pair]);
  const float x2 = static_cast<float>(line[pair + HALF]);
  *result = static_cast<T>(d < HALF ? x1 * cosf(theta) - x2 * sinf(theta) : x1 * sinf(theta) + x2 * cosf(theta));

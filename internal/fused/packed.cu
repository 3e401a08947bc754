  // One block of 256 threads for one head of one token. queries are [1, H, T, D]; each sees those of the shared
  // past_keys [1, KV, P, D] and of the pass's keys [1, KV, T, D] for which visible [T, P + T] holds. out is
  // [1, T, H D].
  constexpr int GROUP = H / KV;
  constexpr int EACH = D / 32;
  constexpr int WARPS = 8;
  using Part = GoMLXVector<T, EACH>;
  __shared__ float shared[32];
  __shared__ float weights[MAX_KEYS];
  const int tokens = keys_shape[2];
  const int past = past_keys_shape[2];
  const int total = past + tokens;
  const int t = blockIdx.x;
  const int head = blockIdx.y;
  const int group = head / GROUP;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const bool* sees = visible + static_cast<int64_t>(t) * total;
  const float factor = rounded(scale[0]);
  float q[EACH];
  {
    const Part part = *reinterpret_cast<const Part*>(queries + (static_cast<int64_t>(head) * tokens + t) * D + lane * EACH);
    for (int i = 0; i < EACH; i++) {
      q[i] = rounded(factor * static_cast<float>(part.at[i]));
    }
  }
  const T* old_keys = past_keys + group * past_keys_strides[1];
  const T* new_keys = keys + static_cast<int64_t>(group) * tokens * D;
  for (int key = warp; key < total; key += WARPS) {
    float score = LOWEST;
    if (sees[key]) {
      const T* at = key < past ? old_keys + key * past_keys_strides[2] : new_keys + (key - past) * D;
      const Part part = *reinterpret_cast<const Part*>(at + lane * EACH);
      float dot = 0;
      for (int i = 0; i < EACH; i++) {
        dot += q[i] * static_cast<float>(part.at[i]);
      }
      for (int step = 16; step > 0; step /= 2) {
        dot += __shfl_xor_sync(0xffffffff, dot, step);
      }
      score = rounded(dot);
    }
    if (lane == 0) {
      weights[key] = score;
    }
  }
  __syncthreads();
  const float sum = go_mlx_softmax<WARPS * 32>(weights, total, shared);
  __syncthreads();
  const T* old_values = past_values + group * past_values_strides[1];
  const T* new_values = values + static_cast<int64_t>(group) * tokens * D;
  for (int d = threadIdx.x; d < D; d += WARPS * 32) {
    float result = 0;
#pragma unroll 8
    for (int key = 0; key < past; key++) {
      result += rounded(weights[key] * sum) * static_cast<float>(old_values[key * past_values_strides[2] + d]);
    }
#pragma unroll 8
    for (int key = 0; key < tokens; key++) {
      result += rounded(weights[past + key] * sum) * static_cast<float>(new_values[key * D + d]);
    }
    out[(static_cast<int64_t>(t) * H + head) * D + d] = static_cast<T>(result);
  }

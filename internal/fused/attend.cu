  // One block of 256 threads for one query head of one row: scores, softmax and weighted sum in one kernel, for at most
  // MAX_KEYS keys. queries are [B, H, 1, D], keys and values [B, KV, room, D] with any stride between rows and heads,
  // of which the first filled[row] hold something. out is [B, H, 1, D].
  constexpr int GROUP = H / KV;
  constexpr int EACH = D / 32;
  constexpr int WARPS = 8;
  using Part = GoMLXVector<T, EACH>;
  __shared__ float shared[32];
  __shared__ float weights[MAX_KEYS];
  __shared__ float parts[WARPS][D];
  const int head = blockIdx.x;
  const int row = blockIdx.y;
  const int length = filled[row];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const float factor = rounded(scale[0]);
  float line[EACH];
  {
    const Part part = *reinterpret_cast<const Part*>(queries + row * queries_strides[0] + head * D + lane * EACH);
    for (int i = 0; i < EACH; i++) {
      line[i] = rounded(factor * static_cast<float>(part.at[i]));
    }
  }
  const T* my_keys = keys + row * keys_strides[0] + (head / GROUP) * keys_strides[1] + lane * EACH;
#pragma unroll 4
  for (int key = warp; key < length; key += WARPS) {
    const Part part = *reinterpret_cast<const Part*>(my_keys + key * keys_strides[2]);
    float dot = 0;
    for (int i = 0; i < EACH; i++) {
      dot += line[i] * static_cast<float>(part.at[i]);
    }
    for (int step = 16; step > 0; step /= 2) {
      dot += __shfl_xor_sync(0xffffffff, dot, step);
    }
    if (lane == 0) {
      weights[key] = rounded(dot);
    }
  }
  __syncthreads();
  const float total = go_mlx_softmax<WARPS * 32>(weights, length, shared);
  __syncthreads();
  for (int i = 0; i < EACH; i++) {
    line[i] = 0;
  }
  const T* my_values = values + row * values_strides[0] + (head / GROUP) * values_strides[1] + lane * EACH;
#pragma unroll 4
  for (int key = warp; key < length; key += WARPS) {
    const float weight = rounded(weights[key] * total);
    const Part part = *reinterpret_cast<const Part*>(my_values + key * values_strides[2]);
    for (int i = 0; i < EACH; i++) {
      line[i] += weight * static_cast<float>(part.at[i]);
    }
  }
  for (int i = 0; i < EACH; i++) {
    parts[warp][lane * EACH + i] = line[i];
  }
  __syncthreads();
  for (int d = threadIdx.x; d < D; d += WARPS * 32) {
    float sum = 0;
    for (int i = 0; i < WARPS; i++) {
      sum += parts[i][d];
    }
    out[(static_cast<int64_t>(row) * H + head) * D + d] = static_cast<T>(sum);
  }

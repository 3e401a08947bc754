  // One block of 256 threads for 32 columns of one query head of one row: the softmax over the first length of its
  // scores [B, H, room], then the sum of values [B, KV, room, D] weighted by it. out is [B, H, 1, D].
  constexpr int GROUP = H / KV;
  constexpr int WARPS = 8;
  __shared__ float shared[32];
  __shared__ float parts[WARPS][32];
  const int room = scores_shape[2];
  const int head = blockIdx.y;
  const int row = blockIdx.z;
  const int length = FILLED ? filled[row] : room;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const T* mine = scores + (static_cast<int64_t>(row) * H + head) * room;
  float top = LOWEST;
  for (int key = threadIdx.x; key < length; key += WARPS * 32) {
    top = fmaxf(top, static_cast<float>(mine[key]));
  }
  top = go_mlx_max<WARPS * 32>(top, shared);
  float total = 0;
  for (int key = threadIdx.x; key < length; key += WARPS * 32) {
    total += __expf(static_cast<float>(mine[key]) - top);
  }
  total = 1 / go_mlx_sum<WARPS * 32>(total, shared);
  const T* column = values + row * values_strides[0] + (head / GROUP) * values_strides[1] + blockIdx.x * 32 + lane;
  float sum = 0;
#pragma unroll 8
  for (int key = warp; key < length; key += WARPS) {
    const T weight = static_cast<T>(__expf(static_cast<float>(mine[key]) - top) * total);
    sum += static_cast<float>(weight) * static_cast<float>(column[key * values_strides[2]]);
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp == 0) {
    for (int i = 1; i < WARPS; i++) {
      sum += parts[i][lane];
    }
    out[(static_cast<int64_t>(row) * H + head) * D + blockIdx.x * 32 + lane] = static_cast<T>(sum);
  }

  // A warp scores one key at a time for all query heads that share it; a block of 8 warps has 32 keys.
  // queries are [B, H, 1, D] and keys [B, KV, room, D] with any stride between rows and heads, of which the first
  // length hold something: filled[row], or all. out is [B, H, room].
  constexpr int GROUP = H / KV;
  constexpr int EACH = D / 32;
  using Part = GoMLXVector<T, EACH>;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int head = blockIdx.y;
  const int row = blockIdx.z;
  const int room = keys_shape[2];
  const int length = FILLED ? filled[row] : room;
  const float factor = rounded(scale[0]);
  float q[GROUP][EACH];
  for (int g = 0; g < GROUP; g++) {
    const T* query = queries + row * queries_strides[0] + (head * GROUP + g) * D;
    const Part part = *reinterpret_cast<const Part*>(query + lane * EACH);
    for (int i = 0; i < EACH; i++) {
      q[g][i] = rounded(factor * static_cast<float>(part.at[i]));
    }
  }
  const T* mine = keys + row * keys_strides[0] + head * keys_strides[1] + lane * EACH;
  for (int i = 0; i < 4; i++) {
    const int key = blockIdx.x * 32 + i * 8 + warp;
    if (key >= length) {
      break;
    }
    const Part part = *reinterpret_cast<const Part*>(mine + key * keys_strides[2]);
    for (int g = 0; g < GROUP; g++) {
      float dot = 0;
      for (int j = 0; j < EACH; j++) {
        dot += q[g][j] * static_cast<float>(part.at[j]);
      }
      for (int step = 16; step > 0; step /= 2) {
        dot += __shfl_xor_sync(0xffffffff, dot, step);
      }
      if (lane == 0) {
        out[(static_cast<int64_t>(row) * H + head * GROUP + g) * room + key] = static_cast<T>(dot);
      }
    }
  }

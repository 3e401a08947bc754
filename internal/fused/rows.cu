  // One thread for each number of the rows [N] of a table that ids [B, tokens] name, times a factor if SCALED.
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / N;
  if (row < static_cast<int64_t>(ids_shape[0]) * ids_shape[1]) {
    const float x = table[static_cast<int64_t>(ids[row]) * N + index % N];
    out[index] = static_cast<T>(SCALED ? x * static_cast<float>(factor[0]) : x);
  }

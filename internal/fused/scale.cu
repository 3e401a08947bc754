  // One thread for each of the [B, tokens, N] numbers, times a factor.
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index < static_cast<int64_t>(x_shape[0]) * x_shape[1] * N) {
    out[index] = static_cast<T>(static_cast<float>(x[index]) * static_cast<float>(factor[0]));
  }

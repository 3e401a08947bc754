  // One thread for each of the [B, tokens, N] results; gate_up is [B, tokens, 2 N]. Every step is rounded
  // to T, as MLX rounds the steps of its compiled functions.
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / N;
  if (row >= static_cast<int64_t>(gate_up_shape[0]) * gate_up_shape[1]) {
    return;
  }
  const T x = gate_up[row * 2 * N + index % N];
  const T up = gate_up[row * 2 * N + N + index % N];
  T gated;
  if (GELU) {
    const T cube = static_cast<T>(0.044715f) * mlx::core::cu::Power{}(x, static_cast<T>(3.f));
    const T inner = static_cast<T>(0.7978845608028654f) * static_cast<T>(x + cube);
    gated = static_cast<T>(static_cast<T>(0.5f) * x) * static_cast<T>(static_cast<T>(1.f) + mlx::core::cu::Tanh{}(inner));
  } else {
    gated = x * mlx::core::cu::Sigmoid{}(x);
  }
  out[index] = gated * up;

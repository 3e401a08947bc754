  // One thread for each of the [B, tokens, N] results; gate_up is [B, tokens, 2 N]. Every step is rounded
  // to T, as MLX rounds the steps of its compiled functions.
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t row = index / N;
  if (row >= static_cast<int64_t>(gate_up_shape[0]) * gate_up_shape[1]) {
    return;
  }
  const float x = gate_up[row * 2 * N + index % N];
  const float up = gate_up[row * 2 * N + N + index % N];
  float gated;
  if (GELU) {
    // The compiler makes one operation of the product and the sum that MLX has here.
    const float inner = rounded(rounded(0.7978845608028654f) * rounded(fmaf(rounded(0.044715f), rounded(x * x * x), x)));
    gated = rounded(rounded(0.5f * x) * rounded(1.f + rounded(tanhf(inner))));
  } else {
    const float small = rounded(1.f / rounded(1.f + rounded(expf(fabsf(x)))));
    gated = rounded(x * (x < 0.f ? small : rounded(1.f - small)));
  }
  out[index] = static_cast<T>(gated * up);

// The activation of gate times up, every step rounded as MLX rounds those of its compiled functions.
__device__ __forceinline__ T activation(float gate, float up) {
  float gated;
  if (GELU) {
    const float cube = rounded(rounded(0.044715f) * rounded(gate * gate * gate));
    const float inner = rounded(rounded(0.7978845608028654f) * rounded(gate + cube));
    gated = rounded(rounded(0.5f * gate) * rounded(1.f + rounded(tanhf(inner))));
  } else {
    gated = rounded(gate * rounded(1.f / (1.f + expf(-gate))));
  }
  return narrow(gated * up);
}

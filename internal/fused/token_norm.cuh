// The residual stream, its norms and the embedding.

// The residual stream: every block has all of it, a thread so many numbers.
struct Stream {
  float h[EACH];
};

__device__ __forceinline__ void read_norm(const T* weights, T (&into)[EACH]) {
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    into[i] = __ldg(weights + (at < HIDDEN ? at : 0)); // those beyond are not used
  }
}

// x becomes the normed stream.
__device__ __forceinline__ void norm(const Stream& stream, const T (&weights)[EACH], int& which) {
  float squares = 0;
  for (int i = 0; i < EACH; i++) {
    squares += stream.h[i] * stream.h[i];
  }
  const float scale = rsqrtf(block_sum(squares, which) / HIDDEN + number(EPS));
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    if (at < HIDDEN) {
      put(at, wide(weights[i]) * rounded(stream.h[i] * scale));
    }
  }
  __syncthreads();
}

// Adds what a product put out.
__device__ __forceinline__ void add(Stream& stream, const unsigned* out, const T (&post)[EACH], int& which, unsigned tick) {
  T put_out[EACH];
  take(out, HIDDEN, tick, put_out, [](int i) { return i * THREADS + static_cast<int>(threadIdx.x); });
  float y[EACH], squares = 0;
  for (int i = 0; i < EACH; i++) {
    y[i] = wide(put_out[i]);
    squares += y[i] * y[i];
  }
  if (POST_NORM) {
    const float scale = rsqrtf(block_sum(squares, which) / HIDDEN + number(EPS));
    for (int i = 0; i < EACH; i++) {
      y[i] = rounded(wide(post[i]) * rounded(y[i] * scale));
    }
  }
  for (int i = 0; i < EACH; i++) {
    float sum = stream.h[i] + y[i];
    if (POST_NORM && HALF) { // Gemma's activations exceed float16's range
      sum = fminf(fmaxf(sum, -65504.f), 65504.f);
    }
    stream.h[i] = rounded(sum);
  }
}

// The scaled embedding of the token.
__device__ __forceinline__ void look_up(Stream& stream, const Matrix& table, unsigned token) {
  for (int i = 0; i < EACH; i++) {
    const int at = i * THREADS + threadIdx.x;
    float x = 0;
    if (at < HIDDEN) {
#if BITS
      const unsigned word = __ldg(reinterpret_cast<const unsigned*>(table.weights + token * row_bytes<HIDDEN>()) + at / 8);
      const long long group = static_cast<long long>(token) * (HIDDEN / GROUP) + at / GROUP;
      x = rounded(wide(__ldg(table.scales + group)) * (word >> (at % 8 * 4) & 15u) + wide(__ldg(table.biases + group)));
#else
      x = wide(__ldg(reinterpret_cast<const T*>(table.weights + token * row_bytes<HIDDEN>()) + at));
#endif
      if (number(EMBED_SCALE) != 0.f) {
        x = rounded(x * number(EMBED_SCALE));
      }
    }
    stream.h[i] = x;
  }
}

  // out [rows, N] = x [rows, K] times weights [N, K] transposed, for few rows: what counts is that every weight is read
  // once. One block of 8 warps has 16 outputs of up to 8 * TILES rows; the warps share K in pieces of 32 and add up
  // at the end. The tensor cores' 16 x 16 tile of weights times 8 rows wants 16 of K at a time from four lanes; since the
  // order inside a sum is free, each lane takes 8 neighbours, read at once, as its share of two such steps.
  // With BITS == 4 weights are MLX's packed ones, [N, K / 8], with scales and biases [N, K / GROUP].
  constexpr int WARPS = 8;
  constexpr int OUT = 16;
  constexpr int PIECE = 32;
  __shared__ float parts[WARPS][TILES * 8 * OUT];
  const int rows = x_shape[0] * x_shape[1];
  const int K = x_shape[2];
  const int N = weights_shape[0];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int line = lane / 4;
  const int share = lane % 4 * 8;
  const int first_out = blockIdx.x * OUT;
  const int first_row = blockIdx.y * TILES * 8;
  float sums[TILES][4];
  for (int t = 0; t < TILES; t++) {
    for (int i = 0; i < 4; i++) {
      sums[t][i] = 0;
    }
  }
#pragma unroll 2
  for (int k = warp * PIECE + share; k < K; k += WARPS * PIECE) {
    GoMLXEight upper, lower;
    if (BITS == 4) {
      const int64_t at = static_cast<int64_t>(first_out + line) * K + k;
      const int64_t below = at + 8 * static_cast<int64_t>(K);
      upper.unpack(reinterpret_cast<const uint32_t*>(weights)[at / 8], scales[at / GROUP], biases[at / GROUP]);
      lower.unpack(reinterpret_cast<const uint32_t*>(weights)[below / 8], scales[below / GROUP], biases[below / GROUP]);
    } else {
      const auto* at = reinterpret_cast<const T*>(weights) + static_cast<int64_t>(first_out + line) * K + k;
      upper.load(at);
      lower.load(at + 8 * static_cast<int64_t>(K));
    }
    for (int t = 0; t < TILES; t++) {
      const int row = first_row + t * 8 + line;
      GoMLXEight in;
      if (row < rows) {
        in.load(x + static_cast<int64_t>(row) * K + k);
      } else {
        in.clear();
      }
      multiply_tile(sums[t], upper.pair[0], lower.pair[0], upper.pair[1], lower.pair[1], in.pair[0], in.pair[1]);
      multiply_tile(sums[t], upper.pair[2], lower.pair[2], upper.pair[3], lower.pair[3], in.pair[2], in.pair[3]);
    }
  }
  for (int t = 0; t < TILES; t++) {
    const int row = t * 8 + lane % 4 * 2;
    parts[warp][row * OUT + line] = sums[t][0];
    parts[warp][(row + 1) * OUT + line] = sums[t][1];
    parts[warp][row * OUT + line + 8] = sums[t][2];
    parts[warp][(row + 1) * OUT + line + 8] = sums[t][3];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < TILES * 8 * OUT; i += WARPS * 32) {
    float sum = 0;
    for (int w = 0; w < WARPS; w++) {
      sum += parts[w][i];
    }
    const int row = first_row + i / OUT;
    if (row < rows) {
      out[static_cast<int64_t>(row) * N + first_out + i % OUT] = static_cast<T>(sum);
    }
  }

  // One block draws a token from each row: out[i] from the row which[i] of logits [.., V], as the sampler's ops do one after the other. settings are
  // four numbers of each draw: the temperature's inverse, the mass of the most likely tokens to draw from (1: all), the logarithm of the least
  // probability beside the largest (above 0: any), and how many of the most likely tokens to draw from (0: all). keys are two words of each draw.
  //
  // Log-probabilities are rounded to T, as MLX's op leaves them. What is kept is found by their bits, eight at a time from the highest: masses are added
  // up as whole numbers, so that they do not depend on who comes first. Then each warp has a part of the row, neighbours beside each other in its
  // lanes, in which ties and sums are in the tokens' order.
  __shared__ float shared[32];
  __shared__ GoMLXSearch search;
  __shared__ float starts[33];
  __shared__ int ties[33];
  __shared__ unsigned drawer;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const T* row = logits + static_cast<int64_t>(which[blockIdx.x]) * V;
  const float inverse = rounded(settings[4 * blockIdx.x]), top_p = settings[4 * blockIdx.x + 1], min_p = settings[4 * blockIdx.x + 2];
  const unsigned top_k = static_cast<unsigned>(settings[4 * blockIdx.x + 3]);

  float top = LOWEST;
  for (int i = thread; i < V; i += DRAW_THREADS) {
    top = fmaxf(top, static_cast<float>(row[i]));
  }
  top = go_mlx_max<DRAW_THREADS>(top, shared);
  float total = 0;
  for (int i = thread; i < V; i += DRAW_THREADS) {
    total += __expf(static_cast<float>(row[i]) - top);
  }
  const float whole = rounded(logf(go_mlx_sum<DRAW_THREADS>(total, shared)) + top);
  const float best = rounded(top - whole);

  // The least number that is kept, as go_mlx_order has it.
  uint32_t least = 0;
  if (min_p <= 0) {
    least = go_mlx_order(rounded(best + rounded(min_p)));
  }
  if (top_p < 1) {
    const uint32_t from = go_mlx_cut<DRAW_THREADS>(row, V, whole, top_p, 0, search);
    least = from > least ? from : least;
  }
  uint32_t last = 0; // of top_k
  int spare = 0;     // so many with that value are kept
  if (top_k > 0 && top_k < V) {
    last = go_mlx_cut<DRAW_THREADS>(row, V, whole, 0.f, top_k, search);
    spare = last >= least ? static_cast<int>(search.left) : 0;
    least = last > least ? last : least;
  }
  const bool cut = spare > 0;

  static_assert(DRAW_THREADS == 32 * 32, "a warp adds up what the warps have");
  constexpr int EACH = (V + DRAW_THREADS - 1) / DRAW_THREADS * 32;
  const int begin = warp * EACH < V ? warp * EACH : V, end = begin + EACH < V ? begin + EACH : V;
  if (cut) {
    int mine = 0;
#pragma unroll 4
    for (int i = begin + lane; i < end; i += 32) {
      mine += go_mlx_order(rounded(static_cast<float>(row[i]) - whole)) == last;
    }
    mine = go_mlx_warp_sum(mine);
    if (lane == 0) {
      ties[warp] = mine;
    }
    go_mlx_sums_before(ties);
  }
  const float largest = rounded(best * inverse);
  int tie = cut ? ties[warp] : 0; // so many ties are before these 32 tokens
  auto weight = [&](int from) {
    const int i = from + lane;
    const float x = i < end ? rounded(static_cast<float>(row[i]) - whole) : LOWEST;
    const uint32_t order = go_mlx_order(x);
    bool kept = i < end && order >= least;
    if (cut) {
      const bool tied = i < end && order == last;
      const unsigned all = __ballot_sync(0xffffffff, tied);
      kept = kept && !(tied && tie + __popc(all & ((1u << lane) - 1)) >= spare);
      tie += __popc(all);
    }
    return kept ? __expf(rounded(x * inverse) - largest) : 0.f;
  };
  float sum = 0;
#pragma unroll 4
  for (int from = begin; from < end; from += 32) {
    sum += weight(from);
  }
  sum = go_mlx_warp_sum(sum);
  if (lane == 0) {
    starts[warp] = sum;
  }
  if (thread == 0) {
    drawer = 0;
  }
  go_mlx_sums_before(starts);
  const float at = go_mlx_uniform(keys[2 * blockIdx.x], keys[2 * blockIdx.x + 1]) * starts[32];
  if (lane == 0 && sum > 0 && starts[warp] <= at) {
    atomicMax(&drawer, static_cast<unsigned>(warp)); // the last one that begins before it
  }
  __syncthreads();
  if (warp == static_cast<int>(drawer)) {
    float before = starts[warp];
    unsigned token = begin < V ? begin : 0;
    tie = cut ? ties[warp] : 0;
    for (int from = begin; from < end; from += 32) {
      const float mine = weight(from), start = before + go_mlx_before(mine);
      const unsigned reached = __ballot_sync(0xffffffff, mine > 0 && start <= at);
      if (reached) {
        token = from + 31 - __clz(reached);
      }
      before = __shfl_sync(0xffffffff, start + mine, 31);
    }
    if (lane == 0) {
      out[blockIdx.x] = token;
    }
  }

  // One thread for each pick: its number of all logits, less its row's sum.
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at < picks_shape[0]) {
    out[at] = logits[picks[at]] - sums[rows[at]];
  }

// What the kernels of training compute with: low-rank additions to linear layers, and the way back through each step of a layer.
// The weights of a model are frozen, so the way back through a layer asks for the gradient of its inputs only. Plain C++, as types.h.
#pragma once

#include "types.h"

namespace gomlx {

// A LoRA of a linear layer: scale * (x A) B, with A [columns, rank] and B [rank, rows] in float32. a_rows is A transposed,
// [rank, columns], so that what is multiplied with a row of x is a row too.
struct LowRank {
  const float *a_rows, *b;
  long rank, columns, rows;
  float scale;
};

// y[m, :] += the addition for x[m, :].
struct AddLowRank {
  LowRank of;
  const void* x; // [m, columns]
  Type type;
  long m;
  float* y; // m rows, of which this layer's outputs are `rows` numbers
  long y_stride;
};

// The way back: dx[m, :] += what comes back through the addition, and the gradients of A and B.
struct BackLowRank {
  LowRank of;
  const void* x; // [m, columns]
  Type type;
  long m;
  const float* dy; // m rows
  long dy_stride;
  float* dx; // [m, columns], or null
  float *da, *db; // [columns, rank] and [rank, rows]
  float* work; // scratch: rank * (2 m + columns) numbers
};

// Back through h + norm(y) post, whose norm by next is the next block's input: through AddNorm, with the same names. dsum or dnormed
// may be null for zeros. Without dy there was no sum, and dh is the gradient of what was normed.
struct BackAddNorm {
  const void *sum, *next, *dsum, *dnormed; // [rows, n] and next [n], in type
  const float* y; // [rows, n]; only read with post
  const void* post; // [n], or null
  float eps;
  bool clip;
  long rows, n;
  Type type;
  void* dh; // [rows, n] in type
  float* dy; // [rows, n], or null
};

// Back through the attention of a pass without past keys.
struct BackAttention {
  Attention of; // own is filled again; out is not used
  const void* dout; // [rows, tokens, heads * head_dim] in type
  float* dqkv; // [rows, tokens, (heads + 2 kv_heads) * head_dim]
  float* work; // scratch: of units_at_once(of) * 2 * (heads / kv_heads) * tokens^2 numbers
};

// How many pairs of a row and a head of keys are worked on at once: what they need is up to 32 MiB, or the size of one pair.
inline long units_at_once(const Attention& a) {
  const long one = 2 * (a.heads / a.kv_heads) * a.tokens * a.tokens * 4, all = a.rows * a.kv_heads, fit = (32l << 20) / (one ? one : 1);
  return fit < 1 ? 1 : fit < all ? fit : all;
}

// A piece of the vocabulary in the cross entropy of rows. The softmax of all pieces is summed as they come, around the largest
// logit so far: `most` and `sum` of each row go from piece to piece, and what was added up around another one is to be multiplied
// by `keep`.
struct EntropyPiece {
  const float* logits; // [m, width]
  long m, first, width; // the piece's tokens begin at `first`
  const int32_t* targets; // [m]
  float *most, *sum, *keep, *target; // [m]; target receives the targets' logits
  void* weights; // [m, width] in type: e^(logit - most); or null
  Type type;
};

} // namespace gomlx

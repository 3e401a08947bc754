// What the kernels compute with. Plain C++: nothing here knows MLX, so that the kernels can be built and tested alone,
// for another processor too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gomlx {

enum class Type : int { f32, f16, bf16 };

inline long size_of(Type t) { return t == Type::f32 ? 4 : 2; }

// A matrix [rows, columns] in row-major order, plain or in MLX's affine packing: `bits` of every weight side by side in
// 32-bit words, and for every `group` of columns a scale and a bias, so that weight = scale * q + bias. Without biases weights lie
// around zero: weight = scale * (q - 2^(bits - 1)). Packed rows may be
// interleaved, sixteen by sixteen, but for those after the last whole sixteen: see interleave.h.
struct Matrix {
  const void* data;
  Type type; // of plain weights, or of scales and biases
  long rows, columns;
  int bits = 0; // 0: plain
  int group = 0;
  const void* scales = nullptr;
  const void* biases = nullptr; // may be null
  bool interleaved = false;

  // Whether a row is one of an interleaved sixteen.
  bool woven(long row) const { return interleaved && row < rows / 16 * 16; }
  float middle() const { return -float(1 << (bits - 1)); } // times scale, the bias of weights without biases
  long row_bytes() const { return bits ? columns * bits / 8 : columns * size_of(type); }
};

// How the halves of a gated MLP are joined: activation(gate) * up.
enum class Gate : int { none, gelu, silu };

// out[m, :] = x[m, :] * weights^T (+ bias), the parts' outputs one after the other. With a gate there are two parts of
// equal size, and out is their gated product. Every output is one sum in an order that depends on nothing but
// the number of columns: not on m, threads, or the other rows.
struct Product {
  const void* x;
  Type type; // of x
  long m, k;
  const Matrix* parts;
  const void* const* bias; // of each part, of x's type; entries may be null
  int n_parts;
  Gate gate;
  void* out;
  Type out_type;
  long out_stride; // elements between rows of out
  // For passes of many rows whose keys and values nobody keeps: packed weights may be unpacked, which is quicker then (split.h). A row's bits depend
  // on this, but not on the number of rows.
  bool many = false;
};

// The visible keys of one query: past positions from `past` on, then the pass's own tokens first[0] to last[0] and
// first[1] to last[1] (each without the last).
struct Visible {
  int32_t past;
  int32_t first[2], last[2];
};

// One sequence's kept keys and values, [kv_heads, room, head_dim]. The first `sinks` positions stay where they are for ever, later ones go
// round in the rest of the room.
struct Past {
  const void* keys;
  const void* values;
  long room, length, sinks;

  // Where a position lies.
  long place(long p) const { return p < sinks ? p : sinks + (p - sinks) % (room - sinks); }
  // The oldest position that is still there, but for the sinks.
  long oldest() const { return length > room ? length - (room - sinks) : lesser_of(sinks, length); }

 private:
  static long lesser_of(long a, long b) { return a < b ? a : b; }
};

// Attention of a pass: rows sequences of `tokens` tokens each.
struct Attention {
  const float* qkv; // [rows, tokens, (heads + 2 kv_heads) * head_dim], before norm and rotation
  const float* rotation; // [rows, tokens, head_dim]: cosines, then sines, of half of head_dim each
  const void *q_norm, *k_norm; // [head_dim] in type, or null
  float eps, scale;
  bool neighbours; // rotate neighbouring pairs instead of halves
  long rows, tokens, heads, kv_heads, head_dim;
  Type type; // of keys, values and out
  const Visible* visible; // [rows, tokens]
  const Past* past; // [rows]
  void* own; // scratch: [rows, tokens, (heads + 2 kv_heads) * head_dim] in type
  void* out; // [rows, tokens, heads * head_dim]
};

// h + norm(y), and that sum normed again.
struct AddNorm {
  const void* h; // [rows, n] in type
  const float* y; // [rows, n]
  const void* post; // [n], or null: y is added as it is
  const void* next; // [n]
  float eps;
  bool clip; // keep sums in float16's range
  long rows, n;
  Type type;
  void *sum, *normed; // [rows, n] in type
};

// log-probabilities of picked outputs of a layer, without keeping the others.
struct Scores {
  const void* x; // [m, k]
  Type type;
  long m, k;
  Matrix weights;
  const int32_t* pick_row; // [picks]
  const int32_t* pick_id;
  long picks;
  float* out; // [picks]
};

} // namespace gomlx

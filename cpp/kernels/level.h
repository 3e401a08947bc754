// One set of kernels: compiled once for each instruction set, chosen when the process starts.
#pragma once

#include "gradients.h"
#include "types.h"

namespace gomlx {

struct Level {
  const char* name;
  void (*product)(const Product&);
  void (*attention)(const Attention&);
  void (*add_norm)(const AddNorm&);
  void (*rms_norm)(const void* x, const void* weight, void* out, long rows, long n, float eps, Type type);
  void (*gate)(const float* gate_up, void* out, long rows, long n, Gate gate, Type type);
  void (*scores)(const Scores&);
  // Rows of a table, plain or packed, times `scale`, to out [n, columns] in type.
  void (*lookup)(const Matrix& table, const int32_t* ids, long n, float scale, void* out, Type type);
  // x - log(sum(exp(x))) over rows of n.
  void (*log_softmax)(const float* x, float* out, long rows, long n);
  // Whether products with weights of some bits are quicker where these are interleaved.
  bool (*likes_interleaved)(int bits);

  // Training; gradients.h says what these compute.
  // Up to eight matrices of the same columns, one below the other, transposed: out [columns, all rows] in type.
  void (*transpose)(const Matrix* parts, int n, void* out, Type type);
  void (*narrow)(const float* x, void* out, long n, Type type); // from float32
  void (*widen)(const void* x, float* out, long n, Type type);  // to float32
  void (*add_low_rank)(const AddLowRank&);
  void (*back_low_rank)(const BackLowRank&);
  void (*back_add_norm)(const BackAddNorm&);
  // Back through `gate`, with dout in type.
  void (*back_gate)(const float* gate_up, const void* dout, float* d_gate_up, long rows, long n, Gate gate, Type type);
  void (*back_attention)(const BackAttention&);
  void (*entropy_piece)(const EntropyPiece&);
  void (*scale_add)(float* to, const float* factor, const float* plus, long rows, long n); // to = to * factor + plus
};

// The best level that this processor has, or the one that GO_MLX_CPU names ("avx2", ...). An unknown name, or one of a
// level that the processor lacks, is an error that lists those there are.
const Level& level();

// Interleaves a packed matrix where it lies, but for the rows after the last whole sixteen.
void interleave(const Matrix& w);

// Chooses a level by name; null if it is not there. For tests: not while kernels run.
const Level* find_level(const char* name);

// The names of the levels that this processor has, best first, then a null.
const char* const* level_names();

} // namespace gomlx

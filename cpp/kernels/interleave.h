// The order in which packed weights are multiplied: rows in sixteens, and of each sixteen the bytes of eight columns of all its rows side
// by side, [rows / 16][columns / 8][16][bits], and scales and biases as [rows / 16][groups][16]. A vector then has the same
// columns of many rows, so a row's sum stays in its lane and weights are read from one place to the next.
#pragma once

#include <stdint.h>
#include <string.h>

#include "types.h"

namespace {

constexpr long sixteen = 16;

// Sixteen rows from row on, the last one repeated where a matrix has no more; to has room for them.
template <int bits> void interleave_rows(const gomlx::Matrix& w, long row, char* to) {
  const char* rows[sixteen];
  for (long r = 0; r < sixteen; r++) rows[r] = (const char*)w.data + (row + r < w.rows ? row + r : w.rows - 1) * w.row_bytes();
  for (long u = 0; u < w.columns / 8; u++)
    for (long r = 0; r < sixteen; r++, to += bits) memcpy(to, rows[r] + u * bits, bits);
}

inline void interleave_weights(const gomlx::Matrix& w, long row, char* to) {
  switch (w.bits) {
    case 2: return interleave_rows<2>(w, row, to);
    case 3: return interleave_rows<3>(w, row, to);
    case 4: return interleave_rows<4>(w, row, to);
    case 5: return interleave_rows<5>(w, row, to);
    case 6: return interleave_rows<6>(w, row, to);
    case 8: return interleave_rows<8>(w, row, to);
  }
}

// The scales, or biases, of sixteen rows: numbers of `size` bytes.
inline void interleave_numbers(const gomlx::Matrix& w, const void* from, long row, char* to) {
  const long groups = w.columns / w.group, size = gomlx::size_of(w.type);
  for (long r = 0; r < sixteen; r++) {
    const char* numbers = (const char*)from + (row + r < w.rows ? row + r : w.rows - 1) * groups * size;
    for (long g = 0; g < groups; g++) memcpy(to + (g * sixteen + r) * size, numbers + g * size, size_t(size));
  }
}

} // namespace

// The part of a matrix that products take at once.
#pragma once

#include "rows.h"

namespace {

using gomlx::Product;

constexpr long block = 32;

constexpr long padded(long k, long step) { return (k + step - 1) / step * step; }

// A block's weights: rows to start from, and the bytes between them.
struct Rows {
  const char* data;
  long stride;
  int type; // of the numbers
  long count; // rows that are there; fewer than a block at the end of a matrix
  bool unpacked; // into a panel, which is in the cache
  const Matrix* of; // and the first row's number there
  long first;
};

} // namespace

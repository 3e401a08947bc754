// The part of a matrix that products take at once.
#pragma once

#include "rows.h"

namespace {

using gomlx::Product;

constexpr long block = 32;

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

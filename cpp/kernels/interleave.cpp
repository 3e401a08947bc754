#include "interleave.h"

#include "level.h"
#include "pool.h"

namespace gomlx {

void interleave(const Matrix& w) {
  pool_run(w.rows / sixteen, [](void* p, long task, int) {
    const Matrix& w = *static_cast<const Matrix*>(p);
    const long row = task * sixteen, weights = sixteen * w.row_bytes(), numbers = sixteen * (w.columns / w.group) * size_of(w.type);
    char* room = static_cast<char*>(pool_scratch(slot_panel, size_t(weights + numbers)));
    auto replace = [&](const void* at, long bytes) { memcpy(static_cast<char*>(const_cast<void*>(at)) + task * bytes, room, size_t(bytes)); };
    interleave_weights(w, row, room);
    replace(w.data, weights);
    interleave_numbers(w, w.scales, row, room);
    replace(w.scales, numbers);
    if (!w.biases) return;
    interleave_numbers(w, w.biases, row, room);
    replace(w.biases, numbers);
  }, const_cast<Matrix*>(&w));
}

} // namespace gomlx

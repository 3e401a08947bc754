// The process-wide pool of threads that kernels run on.
#pragma once

#include <cstddef>

namespace gomlx {

// Threads that run tasks, the caller's included.
int pool_threads();

// Sets that number; 0 is what the machine and the process's cgroup offer.
void pool_set_threads(int n);

// Runs task(context, i, thread) for i from 0 to n and returns when all are done. Tasks may run in any order on any
// of pool_threads() threads; `thread` is below pool_max_threads and no two tasks that run at the same time share it.
// Only one caller at a time has the pool's threads: another one that comes meanwhile runs its tasks alone.
using Task = void (*)(void* context, long i, int thread);
void pool_run(long n, Task task, void* context);

// A buffer that belongs to the calling thread: the one of this slot from the last call, made larger if need be. What it
// held is lost when it grows. It stays allocated for the thread's next kernels.
enum Slot { slot_panel, slot_scores, slot_block, slot_input, slot_tiles, slot_partial, slot_count };
void* pool_scratch(Slot slot, size_t bytes);

} // namespace gomlx

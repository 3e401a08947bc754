#include "pool.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gomlx {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins before sleeping: some 50 microseconds. Between two kernels of a token there are a few.
constexpr int spins = 2000;

// The processors that a cgroup's quota amounts to, or 0 for no limit.
int cgroup_limit() {
#if defined(__linux__)
  auto read = [](const char* path, char* into, int size) {
    FILE* f = fopen(path, "r");
    if (!f) return false;
    bool ok = fgets(into, size, f) != nullptr;
    fclose(f);
    return ok;
  };
  char line[128];
  long quota = 0, period = 0;
  if (read("/sys/fs/cgroup/cpu.max", line, sizeof line)) {
    if (sscanf(line, "%ld %ld", &quota, &period) != 2) return 0; // "max"
  } else if (read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line)) {
    quota = atol(line);
    if (read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", line, sizeof line)) period = atol(line);
  }
  if (quota > 0 && period > 0) return int((quota + period - 1) / period);
#endif
  return 0;
}

int usable_processors() {
  int n = int(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
#endif
  if (int limit = cgroup_limit(); limit > 0 && limit < n) n = limit;
  return n < 1 ? 1 : n;
}

struct Pool {
  std::mutex busy; // held by the caller whose tasks run
  std::atomic<int> wanted{0}; // threads, the caller's included; 0: not decided yet
  std::vector<std::thread> threads; // guarded by busy; thread i runs as number i + 1

  // The job under way. `open` is its number while workers may join it, 0 otherwise. A worker counts itself into
  // `inside` before it looks at `open`; the caller clears `open` before it waits for `inside` to be 0. So a
  // worker that saw an open job is waited for, and the fields below do not change while it reads them.
  std::atomic<uint32_t> open{0};
  std::atomic<int> inside{0};
  std::atomic<long> next{0};
  long n = 0;
  Task task = nullptr;
  void* context = nullptr;
  int members = 0; // workers with a number below it may join

  std::atomic<uint32_t> bell{0}; // sleeping workers wait for it to change
  std::atomic<int> asleep{0};
  uint32_t jobs = 0;

  void work(int number) {
    for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) task(context, i, number);
  }

  void serve(int number) {
    uint32_t done = 0;
    for (;;) {
      uint32_t heard = bell.load();
      int spun = 0;
      while (open.load() == 0 || open.load() == done) {
        if (++spun < spins) {
          pause();
          continue;
        }
        asleep.fetch_add(1);
        if (bell.load() == heard) bell.wait(heard);
        asleep.fetch_sub(1);
        heard = bell.load();
        spun = 0;
      }
      inside.fetch_add(1);
      if (uint32_t job = open.load(); job != 0) {
        done = job;
        if (number < members) work(number);
      }
      inside.fetch_sub(1);
    }
  }

  void run(long count, Task t, void* c) {
    int want = pool_threads();
    if (want > 1 && count > 1 && busy.try_lock()) {
      std::lock_guard<std::mutex> release(busy, std::adopt_lock);
      while (int(threads.size()) < want - 1) {
        int number = int(threads.size()) + 1;
        threads.emplace_back([this, number] { serve(number); });
      }
      n = count, task = t, context = c, members = want;
      next.store(0);
      if (++jobs == 0) jobs = 1;
      open.store(jobs);
      bell.fetch_add(1);
      if (asleep.load() > 0) bell.notify_all();
      work(0);
      open.store(0);
      for (int spun = 0; inside.load() != 0; spun++) spun < spins ? pause() : std::this_thread::yield();
      return;
    }
    for (long i = 0; i < count; i++) t(c, i, 0);
  }
};

// Never destroyed: its threads wait for work until the process ends.
Pool& pool() {
  static Pool* p = new Pool;
  return *p;
}

struct Scratch {
  void* data[slot_count] = {};
  size_t size[slot_count] = {};
  ~Scratch() {
    for (void* p : data) std::free(p);
  }
};

constexpr size_t alignment = 64;

} // namespace

int pool_threads() {
  Pool& p = pool();
  if (int n = p.wanted.load(std::memory_order_relaxed)) return n;
  pool_set_threads(0);
  return p.wanted.load();
}

void pool_set_threads(int n) {
  pool().wanted.store(n > 0 ? n : usable_processors());
}

void pool_run(long n, Task task, void* context) {
  pool().run(n, task, context);
}

void* pool_scratch(Slot slot, size_t bytes) {
  static thread_local Scratch mine;
  if (mine.size[slot] < bytes) {
    std::free(mine.data[slot]);
    size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    mine.data[slot] = std::aligned_alloc(alignment, rounded);
    mine.size[slot] = mine.data[slot] ? rounded : 0;
    if (!mine.data[slot]) throw std::bad_alloc();
  }
  return mine.data[slot];
}

} // namespace gomlx

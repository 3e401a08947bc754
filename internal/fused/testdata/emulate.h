// CUDA kernels on a CPU, to be checked where there is no GPU: what the compiler for GPUs knows by itself. Every block is a
// thread of the system, and its threads are contexts that this switches between where they wait for each other. Copies into shared memory
// are made as late as they may be, so that a kernel that does not wait for them reads what was there before.

#include <setjmp.h>
#include <sched.h>
#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __constant__ static const
#define __shared__ thread_local
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct Index { unsigned x = 0, y = 0, z = 0; };
thread_local Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int STACK = 64 << 10;

struct Copy { unsigned to; const void* from; int bytes; bool wanted, end; };

struct Context {
  jmp_buf at;
  ucontext_t start;
  std::unique_ptr<char[]> stack;
  std::deque<Copy> copies;
  bool begun = false;
  int turn = 0; // which of the two sets of the warp's slots is next
};

struct Meeting { // of a warp or a block
  int size = 0, here = 0, votes = 0, result = 0;
  std::vector<int> waiting;
};

// What lanes of a warp show each other, in two sets: whoever is quick may fill one while others still read the other.
struct Slots { uint32_t word[2][32][6]; };

struct Block {
  std::vector<Context> contexts;
  std::vector<Meeting> warps;
  std::vector<Slots> slots;
  Meeting all;
  std::deque<int> ready;
  int running = 0, left = 0;
  jmp_buf back;
  void (*kernel)(void*) = nullptr;
  void* arguments = nullptr;
};

thread_local Block* block;

inline void resume(int i) {
  block->running = i;
  threadIdx.x = unsigned(i);
  Context& c = block->contexts[size_t(i)];
  if (c.begun) _longjmp(c.at, 1);
  c.begun = true;
  setcontext(&c.start);
}

// Lets another thread of the block go on; this one is woken by somebody.
inline void leave() {
  const int me = block->running;
  if (block->ready.empty()) {
    std::fprintf(stderr, "the threads of a block wait for each other for ever\n");
    std::abort();
  }
  if (_setjmp(block->contexts[me].at) == 0) {
    const int next = block->ready.front();
    block->ready.pop_front();
    resume(next);
  }
}

// Lets others go on, of other blocks too where this one has nothing else to do.
inline void yield() {
  if (block->ready.empty()) sched_yield();
  block->ready.push_back(block->running);
  leave();
}

// Waits for all who take part, and tells whether any of them voted.
inline int meet(Meeting& m, int vote) {
  m.votes |= vote;
  if (++m.here == m.size) {
    m.here = 0;
    m.result = m.votes;
    m.votes = 0;
    block->ready.insert(block->ready.end(), m.waiting.begin(), m.waiting.end());
    m.waiting.clear();
  } else {
    m.waiting.push_back(block->running);
    leave();
  }
  return m.result;
}

inline Meeting& warp() { return block->warps[block->running / 32]; }

// Shows words to the warp, and waits for those of the others.
inline uint32_t (*show(const uint32_t* words, int n))[6] {
  const int me = block->running;
  Context& c = block->contexts[me];
  auto* set = block->slots[me / 32].word[c.turn];
  c.turn ^= 1;
  std::memcpy(set[me % 32], words, sizeof(uint32_t) * size_t(n));
  meet(warp(), 0);
  return set;
}

inline void body() {
  block->kernel(block->arguments);
  if (--block->left == 0) _longjmp(block->back, 1);
  const int next = block->ready.front();
  block->ready.pop_front();
  resume(next);
}

// Runs one block in this thread of the system.
inline void run_block(unsigned index, const int (&grid)[3], int threads, void (*kernel)(void*), void* arguments) {
  Block b;
  block = &b;
  gridDim = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  blockDim = {unsigned(threads), 1, 1};
  blockIdx = {index % gridDim.x, index / gridDim.x % gridDim.y, index / gridDim.x / gridDim.y};
  b.contexts.resize(size_t(threads));
  b.warps.resize(size_t(threads / 32));
  b.slots.resize(b.warps.size());
  for (Meeting& w : b.warps) w.size = 32;
  b.all.size = threads;
  b.left = threads;
  b.kernel = kernel;
  b.arguments = arguments;
  for (int i = 0; i < threads; i++) {
    Context& c = b.contexts[size_t(i)];
    c.stack.reset(new char[STACK]); // which nobody clears, as few of it is used
    getcontext(&c.start);
    c.start.uc_stack.ss_sp = c.stack.get();
    c.start.uc_stack.ss_size = STACK;
    c.start.uc_link = nullptr;
    makecontext(&c.start, body, 0);
    if (i > 0) b.ready.push_back(i);
  }
  if (_setjmp(b.back) == 0) resume(0);
  block = nullptr;
}

// What a kernel is given.
struct Arguments { void** pointers; int* numbers; };

inline void all_of(void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, stdin) != bytes) std::exit(0); // nobody wants anything any more
}

// How a kernel is served: so many pointers and numbers, of which the first pointers get new contents for every run and the last ones are results.
struct Service { int pointers, fresh, results, numbers, grid[3], threads, together; };

// Reads how many bytes each pointer has, and then these; then again and again the new contents and the numbers of a run. After every run it
// writes the results. begin is called in every block; so many blocks run at a time.
inline void serve(void (*kernel)(void*), const Service& of, void (*begin)()) {
  std::vector<long long> sizes(static_cast<size_t>(of.pointers));
  all_of(sizes.data(), sizes.size() * sizeof(long long));
  std::vector<void*> at;
  for (long long size : sizes) {
    at.push_back(std::aligned_alloc(256, size_t(size + 255) / 256 * 256));
    all_of(at.back(), size_t(size));
  }
  std::vector<int> given(static_cast<size_t>(of.numbers));
  for (;;) {
    for (int i = 0; i < of.fresh; i++) all_of(at[size_t(i)], size_t(sizes[size_t(i)]));
    all_of(given.data(), given.size() * sizeof(int));
    Arguments arguments{at.data(), given.data()};
    std::atomic<int> next = 0;
    std::vector<std::thread> running;
    for (int i = 0; i < of.together; i++) {
      running.emplace_back([&] {
        begin();
        for (int index; (index = next++) < of.grid[0] * of.grid[1] * of.grid[2];) run_block(unsigned(index), of.grid, of.threads, kernel, &arguments);
      });
    }
    for (auto& t : running) t.join();
    for (size_t i = at.size() - size_t(of.results); i < at.size(); i++) std::fwrite(at[i], 1, size_t(sizes[i]), stdout);
    std::fflush(stdout);
  }
}

}  // namespace emulation

// Conversions.
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { return __uint_as_float(unsigned(x)); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
  const uint64_t both = uint64_t(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) out |= unsigned(both >> ((which >> (4 * i) & 7) * 8) & 0xff) << (8 * i);
  return out;
}

namespace emulation {

// Numbers of two bytes: float16, or else bfloat16.
template <bool IS_HALF> inline float wide(unsigned short x) {
  if (!IS_HALF) return __uint_as_float(unsigned(x) << 16);
  const unsigned sign = (x & 0x8000u) << 16, rest = x & 0x7fffu;
  const float size = rest < 0x400 ? rest * 0x1p-24f : rest < 0x7c00 ? __uint_as_float((rest << 13) + (112u << 23)) : __uint_as_float(0x7f800000u | rest << 13);
  return __uint_as_float(__float_as_uint(size) | sign);
}

template <bool IS_HALF> inline unsigned short narrow(float x) {
  using Short = unsigned short;
  const unsigned bits = __float_as_uint(x);
  if (!IS_HALF) return x != x ? Short(bits >> 16 | 0x40) : Short((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  const Short sign = Short(bits >> 16 & 0x8000u);
  const float size = std::fabs(x);
  if (x != x) return Short(sign | 0x7e00u);
  if (size < 0x1p-14f) return Short(sign | unsigned(std::nearbyint(size * 0x1p24f)));
  if (size >= 65520.f) return Short(sign | 0x7c00u);
  const unsigned rest = (bits & 0x7fffffffu) - (112u << 23);
  return Short(sign | ((rest + 0xfff + (rest >> 13 & 1)) >> 13));
}

// sums [16, 8] += a [16, 16] b [16, 8], in the lanes' shares that the PTX manual gives for mma.m16n8k16.
template <bool IS_HALF> inline void multiply_tile(float* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
  auto* all = show(mine, 6);
  const int group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
  auto number = [](unsigned word, int which) { return wide<IS_HALF>(static_cast<unsigned short>(word >> (16 * which))); };
  for (int half = 0; half < 2; half++) {     // of the rows
    for (int side = 0; side < 2; side++) {   // of a lane's two columns
      float sum = sums[half * 2 + side];
      for (int k = 0; k < 16; k++) {         // two neighbours in a word, four lanes, two words
        const unsigned a = all[group * 4 + k % 8 / 2][k / 8 * 2 + half];
        const unsigned b = all[(lane * 2 + side) * 4 + k % 8 / 2][4 + k / 8];
        sum += number(a, k % 2) * number(b, k % 2);
      }
      sums[half * 2 + side] = sum;
    }
  }
}

}  // namespace emulation

template <class E> inline E __ldg(const E* at) { return *at; }
inline unsigned short __ldcg(const unsigned short* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

// Meetings.
inline void __syncthreads() { emulation::meet(emulation::block->all, 0); }
inline int __syncthreads_or(int vote) { return emulation::meet(emulation::block->all, vote != 0); }
inline void __syncwarp() { emulation::meet(emulation::warp(), 0); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class E> inline E of_lane(E x, int lane) {
  static_assert(sizeof(E) <= 8);
  uint32_t words[2] = {};
  std::memcpy(words, &x, sizeof x);
  auto* all = emulation::show(words, 2);
  if (lane >= 0 && lane < 32) std::memcpy(&x, all[lane], sizeof x);
  return x;
}
template <class E> inline E __shfl_xor_sync(unsigned, E x, int step) { return of_lane(x, int(threadIdx.x % 32) ^ step); }
template <class E> inline E __shfl_up_sync(unsigned, E x, int step) { return of_lane(x, int(threadIdx.x % 32) - step); }
template <class E> inline E __shfl_sync(unsigned, E x, int lane) { return of_lane(x, lane); }

inline unsigned __ballot_sync(unsigned, bool vote) {
  const uint32_t word = vote;
  auto* all = emulation::show(&word, 1);
  unsigned votes = 0;
  for (int i = 0; i < 32; i++) votes |= all[i][0] << i;
  return votes;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : __builtin_ctz(x) + 1; }

template <class E> inline E atomicAdd(E* at, E x) { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicMax(unsigned* at, unsigned x) {
  unsigned was = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  while (x > was && !__atomic_compare_exchange_n(at, &was, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return was;
}
inline unsigned atomicExch(unsigned* at, unsigned x) { return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicMin(unsigned* at, unsigned x) {
  unsigned was = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  while (x < was && !__atomic_compare_exchange_n(at, &was, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return was;
}


// CUDA kernels on a CPU, to be checked where there is no GPU: in place of token_machine.cuh and of what the compiler for GPUs knows by itself. Every block is a
// thread of the system, and its threads are contexts that this switches between where they wait for each other. Copies into shared memory
// are made as late as they may be, so that a kernel that does not wait for them reads what was there before.

#include <setjmp.h>
#include <sched.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
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
thread_local Index threadIdx, blockIdx;

namespace emulation {

constexpr int STACK = 64 << 10;

struct Copy { unsigned to; const void* from; int bytes; bool wanted, end; };

struct Context {
  jmp_buf at;
  ucontext_t start;
  std::vector<char> stack;
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
inline void run_block(unsigned index, int threads, void (*kernel)(void*), void* arguments) {
  Block b;
  block = &b;
  blockIdx.x = index;
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
    c.stack.resize(STACK);
    getcontext(&c.start);
    c.start.uc_stack.ss_sp = c.stack.data();
    c.start.uc_stack.ss_size = c.stack.size();
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

// Reads how many bytes each of so many pointers has, and then these; then again and again a number for what the first points to, and the kernel's
// numbers. Every time it runs the kernel and writes what the last two point to.
inline void serve(void (*kernel)(void*), int pointers, int numbers, int blocks, int threads, void (*begin)()) {
  std::vector<long long> sizes(static_cast<size_t>(pointers));
  all_of(sizes.data(), sizes.size() * sizeof(long long));
  std::vector<void*> at;
  for (long long size : sizes) {
    at.push_back(std::aligned_alloc(256, size_t(size + 255) / 256 * 256));
    all_of(at.back(), size_t(size));
  }
  std::vector<int> given(static_cast<size_t>(numbers));
  for (;;) {
    all_of(at[0], 4);
    all_of(given.data(), given.size() * sizeof(int));
    Arguments arguments{at.data(), given.data()};
    std::vector<std::thread> running;
    for (int i = 0; i < blocks; i++) {
      running.emplace_back([&, i] {
        begin();
        run_block(unsigned(i), threads, kernel, &arguments);
      });
    }
    for (auto& t : running) t.join();
    for (size_t i = at.size() - 2; i < at.size(); i++) std::fwrite(at[i], 1, size_t(sizes[i]), stdout);
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

template <class E> inline E __ldg(const E* at) { return *at; }
inline unsigned short __ldcg(const unsigned short* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }

// Meetings.
inline void __syncthreads() { emulation::meet(emulation::block->all, 0); }
inline int __syncthreads_or(int vote) { return emulation::meet(emulation::block->all, vote != 0); }
inline void __syncwarp() { emulation::meet(emulation::warp(), 0); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

template <class E> inline E __shfl_xor_sync(unsigned, E x, int step) {
  uint32_t word;
  std::memcpy(&word, &x, 4);
  auto* all = emulation::show(&word, 1);
  std::memcpy(&x, all[threadIdx.x % 32 ^ unsigned(step)], 4);
  return x;
}

inline unsigned atomicAdd(unsigned* at, unsigned x) { return __atomic_fetch_add(at, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicExch(unsigned* at, unsigned x) { return __atomic_exchange_n(at, x, __ATOMIC_SEQ_CST); }
inline unsigned atomicMin(unsigned* at, unsigned x) {
  unsigned was = __atomic_load_n(at, __ATOMIC_SEQ_CST);
  while (x < was && !__atomic_compare_exchange_n(at, &was, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
  return was;
}

// What token_machine.cuh has.
typedef unsigned short T;
#define LOWEST (-__int_as_float(0x7f800000))

inline float wide(T x) {
#if HALF
  const unsigned sign = (x & 0x8000u) << 16, rest = x & 0x7fffu;
  const float size = rest < 0x400 ? rest * 0x1p-24f : rest < 0x7c00 ? __uint_as_float((rest << 13) + (112u << 23)) : __uint_as_float(0x7f800000u | rest << 13);
  return __uint_as_float(__float_as_uint(size) | sign);
#else
  return __uint_as_float(unsigned(x) << 16);
#endif
}

inline T narrow(float x) {
  const unsigned bits = __float_as_uint(x);
#if HALF
  const T sign = T(bits >> 16 & 0x8000u);
  const float size = std::fabs(x);
  if (x != x) return T(sign | 0x7e00u);
  if (size < 0x1p-14f) return T(sign | unsigned(std::nearbyint(size * 0x1p24f)));
  if (size >= 65520.f) return T(sign | 0x7c00u);
  const unsigned rest = (bits & 0x7fffffffu) - (112u << 23);
  return T(sign | ((rest + 0xfff + (rest >> 13 & 1)) >> 13));
#else
  if (x != x) return T(bits >> 16 | 0x40);
  return T((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#endif
}

inline void prefetch_line(const void*) {}

inline void multiply_tile(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  const uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
  auto* all = emulation::show(mine, 6);
  const int group = threadIdx.x % 32 / 4, lane = threadIdx.x % 4;
  auto number = [](unsigned word, int which) { return wide(T(word >> (16 * which))); };
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

extern thread_local unsigned char memory[] __attribute__((aligned(16)));
inline uint64_t __cvta_generic_to_shared(const void* p) { return uint64_t(static_cast<const unsigned char*>(p) - memory); }

inline void later(unsigned to, const void* from, int bytes, bool wanted, bool end) {
  emulation::block->contexts[size_t(emulation::block->running)].copies.push_back({to, from, bytes, wanted, end});
}
inline void copy16(unsigned to, const void* from, bool wanted) { later(to, from, 16, wanted, false); }
inline void copy4(unsigned to, const void* from, bool wanted) { later(to, from, 4, wanted, false); }
inline void end_group() { later(0, nullptr, 0, false, true); }

template <int BUT> inline void wait_groups() {
  auto& copies = emulation::block->contexts[size_t(emulation::block->running)].copies;
  int groups = 0;
  for (const auto& c : copies) groups += c.end;
  for (; groups > BUT; copies.pop_front()) {
    const auto& c = copies.front();
    groups -= c.end;
    if (c.bytes && c.wanted) std::memcpy(memory + c.to, c.from, size_t(c.bytes));
    if (c.bytes && !c.wanted) std::memset(memory + c.to, 0, size_t(c.bytes));
  }
}

inline unsigned peek(const unsigned* at) {
  emulation::yield();
  return __atomic_load_n(at, __ATOMIC_RELAXED);
}
inline void peek(unsigned& word, const unsigned* at, bool wanted) {
  emulation::yield();
  if (wanted) word = __atomic_load_n(at, __ATOMIC_RELAXED);
}
inline void peek(uint4& words, const unsigned* at, bool wanted) {
  peek(words.x, at, wanted);
  if (!wanted) return;
  words.y = __atomic_load_n(at + 1, __ATOMIC_RELAXED);
  words.z = __atomic_load_n(at + 2, __ATOMIC_RELAXED);
  words.w = __atomic_load_n(at + 3, __ATOMIC_RELAXED);
}
inline void peek(unsigned long long& word, const unsigned long long* at, bool wanted) {
  emulation::yield();
  if (wanted) word = __atomic_load_n(at, __ATOMIC_RELAXED);
}
inline void tell(unsigned* to, unsigned word) { __atomic_store_n(to, word, __ATOMIC_RELAXED); }
inline void tell(unsigned long long* to, unsigned long long word) { __atomic_store_n(to, word, __ATOMIC_RELAXED); }
inline void count_one(unsigned* at) { __atomic_fetch_add(at, 1u, __ATOMIC_RELAXED); }

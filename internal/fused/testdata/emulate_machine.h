// What token_machine.cuh has, for a CPU.
typedef unsigned short T;
inline float wide(T x) { return emulation::wide<HALF>(x); }
inline T narrow(float x) { return emulation::narrow<HALF>(x); }
#define LOWEST (-__int_as_float(0x7f800000))

inline void prefetch_line(const void*) {}

inline void multiply_tile(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  emulation::multiply_tile<HALF>(sums, a0, a1, a2, a3, b0, b1);
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

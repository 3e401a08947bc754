// What a GPU does that C++ has no words for: conversions, copies that go on meanwhile, reads and writes that other blocks see, and the tensor cores.
// testdata/emulate.h has the same for a CPU.

typedef unsigned short T;
#define LOWEST (-__int_as_float(0x7f800000))

__device__ __forceinline__ float wide(T x) {
#if HALF
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
#else
  return __uint_as_float(static_cast<unsigned>(x) << 16);
#endif
}

__device__ __forceinline__ T narrow(float x) {
  T y;
#if HALF
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#endif
  return y;
}

// Asks for a line of memory.
__device__ __forceinline__ void prefetch_line(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Copies of 16 or 4 bytes into shared memory that go on meanwhile; what is not wanted becomes 0.
__device__ __forceinline__ void copy16(unsigned to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy4(unsigned to, const void* from, bool wanted) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(wanted ? 4 : 0) : "memory");
}

// The copies since the last call are a group.
__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for all groups but the last so many.
template <int BUT>
__device__ __forceinline__ void wait_groups() {
  asm volatile("cp.async.wait_group %0;" ::"n"(BUT) : "memory");
}

// Reads of what other blocks write.
__device__ __forceinline__ unsigned peek(const unsigned* at) {
  unsigned word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(at) : "memory");
  return word;
}

// Reads only what is wanted, and without a branch: if those with nothing to read read something, all would read the same.
__device__ __forceinline__ void peek(unsigned& word, const unsigned* at, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.relaxed.gpu.global.u32 %0, [%1];}" : "+r"(word) : "l"(at), "r"(static_cast<int>(wanted)) : "memory");
}

__device__ __forceinline__ void peek(uint4& words, const unsigned* at, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0; @p ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];}"
               : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w) : "l"(at), "r"(static_cast<int>(wanted)) : "memory");
}

__device__ __forceinline__ void peek(unsigned long long& word, const unsigned long long* at, bool wanted) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.relaxed.gpu.global.u64 %0, [%1];}" : "+l"(word) : "l"(at), "r"(static_cast<int>(wanted)) : "memory");
}

// Writes that other blocks see, of a word as a whole.
__device__ __forceinline__ void tell(unsigned* to, unsigned word) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory"); }

__device__ __forceinline__ void tell(unsigned long long* to, unsigned long long word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Adds one to a count of all blocks.
__device__ __forceinline__ void count_one(unsigned* at) { asm volatile("red.relaxed.gpu.global.add.u32 [%0], 1;" ::"l"(at) : "memory"); }

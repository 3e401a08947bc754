// What kernels have instead of headers, which the run-time compiler would take most of its time for. ELEMENT is the model's type: 0 for
// float32, 1 for float16, 2 for bfloat16.
typedef long long int64_t;
typedef unsigned int uint32_t;
#define LOWEST (-__int_as_float(0x7f800000))

#if ELEMENT == 0
typedef float T;
#else
// A number of two bytes. It is computed with as a float32, and rounded where it is made.
struct T {
  unsigned short bits;

  T() = default;

  __device__ __forceinline__ explicit T(float x) {
#if ELEMENT == 1
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#endif
  }

  __device__ __forceinline__ operator float() const {
#if ELEMENT == 1
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#endif
  }
};
#endif

// x as the model's type has it.
__device__ __forceinline__ float rounded(float x) { return static_cast<float>(static_cast<T>(x)); }

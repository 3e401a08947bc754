// What types.cuh has, for a CPU.
#define LOWEST (-__int_as_float(0x7f800000))

#if ELEMENT == 0
typedef float T;
#else
struct T {
  unsigned short bits;

  T() = default;
  explicit T(float x) : bits(emulation::narrow<ELEMENT == 1>(x)) {}
  operator float() const { return emulation::wide<ELEMENT == 1>(bits); }
};
#endif

inline float rounded(float x) { return static_cast<float>(static_cast<T>(x)); }

#if ELEMENT != 0
inline void multiply_tile(float* sums, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  emulation::multiply_tile<ELEMENT == 1>(sums, a0, a1, a2, a3, b0, b1);
}
#endif

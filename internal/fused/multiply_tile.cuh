// sums [16, 8] += a [16, 16] b [16, 8] by the tensor cores, in the lanes' shares that the PTX manual gives for mma.m16n8k16. a and b are pairs
// of float16 or of bfloat16: the kernel of a token says which by HALF, others by ELEMENT.
__device__ __forceinline__ void multiply_tile(float (&sums)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
#if defined(ELEMENT) ? ELEMENT == 1 : HALF
#define PAIRS_OF "f16.f16"
#else
#define PAIRS_OF "bf16.bf16"
#endif
  asm("mma.sync.aligned.m16n8k16.row.col.f32." PAIRS_OF ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

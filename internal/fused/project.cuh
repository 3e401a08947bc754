// Eight neighbouring elements of a type of two bytes, as pairs for the tensor cores.
struct GoMLXEight {
  uint32_t pair[4];

  __device__ void load(const T* from) {
    const uint4 all = *reinterpret_cast<const uint4*>(from);
    pair[0] = all.x;
    pair[1] = all.y;
    pair[2] = all.z;
    pair[3] = all.w;
  }

  __device__ void clear() {
    pair[0] = pair[1] = pair[2] = pair[3] = 0;
  }

  // Eight weights of four bits, the first in the lowest.
  __device__ void unpack(uint32_t word, float scale, float bias) {
    T* each = reinterpret_cast<T*>(pair);
    for (int i = 0; i < 8; i++) {
      each[i] = static_cast<T>(scale * static_cast<float>(word >> (4 * i) & 15) + bias);
    }
  }
};

// sums [16, 8] += a [16, 16] b [16, 8], in the lanes' shares that the PTX manual gives for mma.m16n8k16.
__device__ void go_mlx_mma(float* sums, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
#if ELEMENT == 1
#define GO_MLX_PAIRS "f16.f16"
#else
#define GO_MLX_PAIRS "bf16.bf16"
#endif
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32." GO_MLX_PAIRS ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

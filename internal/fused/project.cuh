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

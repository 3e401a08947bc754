// What the kernels' tests share: numbers of every type with what they are worth, weights of every packing, and counted failures.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "level.h"
#include "pool.h"

using namespace gomlx;

inline int failures = 0;
inline std::string where;

inline void check(bool ok, const std::string& what) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAIL %s: %s\n", where.c_str(), what.c_str());
}

inline std::mt19937 generator(1);
inline double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }
inline long whole(long low, long high) { return std::uniform_int_distribution<long>(low, high)(generator); }

inline uint16_t round_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

inline double half_value(uint16_t h) {
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  double v = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return h & 0x8000 ? -v : v;
}

// The nearest float16, found by value so that it owes nothing to the code under test.
inline uint16_t round_half(double v) {
  uint16_t sign = std::signbit(v) ? 0x8000 : 0;
  v = std::fabs(v);
  int low = 0, high = 0x7bff;
  while (low < high) {
    int mid = (low + high + 1) / 2;
    if (half_value(uint16_t(mid)) <= v) low = mid;
    else high = mid - 1;
  }
  if (low < 0x7bff) {
    double below = v - half_value(uint16_t(low)), above = half_value(uint16_t(low + 1)) - v;
    if (above < below || (above == below && (low & 1))) low++;
  }
  return uint16_t(sign | low);
}

// Numbers of a type with what they are worth.
struct Numbers {
  Type type;
  std::vector<char> bytes;
  std::vector<double> values;

  void put(long i, double v) {
    if (type == Type::f32) {
      float f = float(v);
      std::memcpy(&bytes[i * 4], &f, 4);
      values[i] = f;
    } else if (type == Type::bf16) {
      uint16_t h = round_bf16(float(v));
      std::memcpy(&bytes[i * 2], &h, 2);
      uint32_t u = uint32_t(h) << 16;
      float f;
      std::memcpy(&f, &u, 4);
      values[i] = f;
    } else {
      uint16_t h = round_half(v);
      std::memcpy(&bytes[i * 2], &h, 2);
      values[i] = half_value(h);
    }
  }
  Numbers(Type t, long n, double low = -1, double high = 1) : type(t), bytes(n * size_of(t)), values(n) {
    for (long i = 0; i < n; i++) put(i, uniform(low, high));
  }
  double at(long i) const {
    if (type == Type::f32) {
      float f;
      std::memcpy(&f, &bytes[i * 4], 4);
      return f;
    }
    uint16_t h;
    std::memcpy(&h, &bytes[i * 2], 2);
    if (type == Type::f16) return half_value(h);
    uint32_t u = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
  }
};

inline double step_of(Type t) { return t == Type::f32 ? 1e-6 : t == Type::f16 ? 1. / 2048 : 1. / 256; }

// A matrix, plain or packed, and its values.
struct Weights {
  Matrix m;
  Numbers plain, scales, biases;
  std::vector<uint32_t> words;
  std::vector<double> values;

  Weights(Type t, long rows, long columns, int bits, int group, bool biased = true)
      : m{nullptr, t, rows, columns, bits, group}, plain(t, bits ? 0 : rows * columns), scales(t, bits ? rows * columns / group : 0, 0.05 / (1 << bits), 0.5 / (1 << bits)),
        biases(t, bits ? rows * columns / group : 0, -1, 1), words(bits ? rows * columns * bits / 32 : 0), values(rows * columns) {
    if (!bits) {
      m.data = plain.bytes.data();
      values = plain.values;
      return;
    }
    m.data = words.data(), m.scales = scales.bytes.data(), m.biases = biased ? biases.bytes.data() : nullptr;
    for (long r = 0; r < rows; r++)
      for (long k = 0; k < columns; k++) {
        uint32_t q = uint32_t(whole(0, (1 << bits) - 1));
        long bit = k * bits;
        char* row = (char*)words.data() + r * m.row_bytes();
        for (int b = 0; b < bits; b++)
          if (q >> b & 1) row[(bit + b) / 8] = char(row[(bit + b) / 8] | 1 << (bit + b) % 8);
        long g = (r * columns + k) / group;
        values[r * columns + k] = biased ? scales.values[g] * q + biases.values[g] : scales.values[g] * (double(q) - (1 << (bits - 1)));
      }
  }
};

inline double largest(const Numbers& x, long from, long n) {
  double most = 0;
  for (long i = from; i < from + n; i++) most = std::max(most, std::fabs(x.values[i]));
  return most;
}

inline const int threads[] = {1, 2, 3};

// Packed weights may have scales of another type than x.
inline Type scale_type() { return Type(whole(0, 2)); }

// One round of training_test.cpp.
void test_training(const Level& level, Type type);

#include "level.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gomlx {

#if defined(__x86_64__)
extern const Level level_base, level_avx2, level_avx512, level_avx512bf16, level_amx;
#elif defined(__aarch64__)
extern const Level level_neon;
#else
extern const Level level_base;
#endif

namespace {

constexpr int most = 5;

struct Known {
  const Level* levels[most + 1] = {};
  const char* names[most + 1] = {};
  int n = 0;

  void add(const Level& l) {
    levels[n] = &l;
    names[n++] = l.name;
  }

  Known() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
    if (avx512bf16 && tiles()) add(level_amx);
    if (avx512bf16) add(level_avx512bf16);
    if (avx512) add(level_avx512);
    if (avx2) add(level_avx2);
    add(level_base);
#elif defined(__aarch64__)
    add(level_neon);
#else
    add(level_base);
#endif
  }

  // Whether the processor has AMX with bfloat16 and integers, and the system lets this process use it.
  static bool tiles() {
#if defined(__linux__) && defined(__x86_64__)
    unsigned a = 7, b = 0, c = 0, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return (d & bf16) && (d & tile) && (d & int8) && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
  }
};

const Known& known() {
  static const Known k;
  return k;
}

} // namespace

const Level* find_level(const char* name) {
  for (int i = 0; i < known().n; i++)
    if (std::strcmp(known().names[i], name) == 0) return known().levels[i];
  return nullptr;
}

const char* const* level_names() {
  return known().names;
}

const Level& level() {
  static const Level& chosen = []() -> const Level& {
    const char* name = std::getenv("GO_MLX_CPU");
    if (!name || !*name) return *known().levels[0];
    if (const Level* l = find_level(name)) return *l;
    std::string there;
    for (int i = 0; i < known().n; i++) there += std::string(i ? ", " : "") + known().names[i];
    throw std::runtime_error("GO_MLX_CPU names \"" + std::string(name) + "\"; this processor has " + there);
  }();
  return chosen;
}

} // namespace gomlx

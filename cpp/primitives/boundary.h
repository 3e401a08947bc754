// Between C handles and MLX's C++ arrays.
#pragma once

#include <exception>

#include "gomlx_kernels.h"
#include "mlx/mlx.h"

namespace gomlx {

inline const mlx::core::array& unwrap(mlx_array a) {
  if (!a.ctx) throw std::invalid_argument("an operand is an empty handle");
  return *static_cast<mlx::core::array*>(a.ctx);
}

inline mlx::core::Stream unwrap(mlx_stream s) {
  if (!s.ctx) throw std::invalid_argument("the stream is an empty handle");
  return *static_cast<mlx::core::Stream*>(s.ctx);
}

inline mlx::core::Dtype unwrap(mlx_dtype d) {
  switch (d) {
    case MLX_FLOAT16: return mlx::core::float16;
    case MLX_BFLOAT16: return mlx::core::bfloat16;
    case MLX_FLOAT32: return mlx::core::float32;
    case MLX_INT32: return mlx::core::int32;
    case MLX_UINT32: return mlx::core::uint32;
    case MLX_INT8: return mlx::core::int8;
    case MLX_UINT8: return mlx::core::uint8;
    case MLX_INT16: return mlx::core::int16;
    case MLX_UINT16: return mlx::core::uint16;
    case MLX_INT64: return mlx::core::int64;
    case MLX_UINT64: return mlx::core::uint64;
    case MLX_BOOL: return mlx::core::bool_;
    default: throw std::invalid_argument("no kernel takes this type");
  }
}

inline void give(mlx_array* out, mlx::core::array a) {
  out->ctx = new mlx::core::array(std::move(a));
}

// Runs f and returns 0, or 1 with the exception's words in the error slot.
template <class F> int guarded(F f) {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    mlx_error("%s", e.what());
  } catch (...) {
    mlx_error("unknown C++ exception");
  }
  return 1;
}

} // namespace gomlx

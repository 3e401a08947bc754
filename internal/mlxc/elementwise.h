// Ops with one or two operands and nothing else, called by number: one cgo entry each instead of dozens.
#pragma once

#include "glue.h"

enum {
  GOMLX_ABS,
  GOMLX_CEIL,
  GOMLX_COS,
  GOMLX_ERF,
  GOMLX_EXP,
  GOMLX_FLOOR,
  GOMLX_ISNAN,
  GOMLX_LOG,
  GOMLX_LOGICAL_NOT,
  GOMLX_NEGATIVE,
  GOMLX_RECIPROCAL,
  GOMLX_RSQRT,
  GOMLX_SIGMOID,
  GOMLX_SIN,
  GOMLX_SQRT,
  GOMLX_SQUARE,
  GOMLX_STOP_GRADIENT,
  GOMLX_TANH,
};
int gomlx_unary(int op, mlx_array* res, const mlx_array a, const mlx_stream s);

enum {
  GOMLX_ADD,
  GOMLX_SUBTRACT,
  GOMLX_MULTIPLY,
  GOMLX_DIVIDE,
  GOMLX_POWER,
  GOMLX_MATMUL,
  GOMLX_MAXIMUM,
  GOMLX_MINIMUM,
  GOMLX_EQUAL,
  GOMLX_NOT_EQUAL,
  GOMLX_GREATER,
  GOMLX_GREATER_EQUAL,
  GOMLX_LESS,
  GOMLX_LESS_EQUAL,
  GOMLX_LOGICAL_AND,
  GOMLX_LOGICAL_OR,
  GOMLX_FLOOR_DIVIDE,
  GOMLX_REMAINDER,
  GOMLX_LOGADDEXP,
};
int gomlx_binary(int op, mlx_array* res, const mlx_array a, const mlx_array b, const mlx_stream s);


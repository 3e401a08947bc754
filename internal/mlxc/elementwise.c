#include "elementwise.h"

typedef int (*unary_op)(mlx_array*, const mlx_array, const mlx_stream);

static const unary_op unary_ops[] = {
    [GOMLX_ABS] = mlx_abs,
    [GOMLX_CEIL] = mlx_ceil,
    [GOMLX_COS] = mlx_cos,
    [GOMLX_ERF] = mlx_erf,
    [GOMLX_EXP] = mlx_exp,
    [GOMLX_FLOOR] = mlx_floor,
    [GOMLX_ISNAN] = mlx_isnan,
    [GOMLX_LOG] = mlx_log,
    [GOMLX_LOGICAL_NOT] = mlx_logical_not,
    [GOMLX_NEGATIVE] = mlx_negative,
    [GOMLX_RECIPROCAL] = mlx_reciprocal,
    [GOMLX_RSQRT] = mlx_rsqrt,
    [GOMLX_SIGMOID] = mlx_sigmoid,
    [GOMLX_SIN] = mlx_sin,
    [GOMLX_SQRT] = mlx_sqrt,
    [GOMLX_SQUARE] = mlx_square,
    [GOMLX_STOP_GRADIENT] = mlx_stop_gradient,
    [GOMLX_TANH] = mlx_tanh,
};

int gomlx_unary(int op, mlx_array* res, const mlx_array a, const mlx_stream s) {
  return unary_ops[op](res, a, s);
}

typedef int (*binary_op)(mlx_array*, const mlx_array, const mlx_array, const mlx_stream);

static const binary_op binary_ops[] = {
    [GOMLX_ADD] = mlx_add,
    [GOMLX_SUBTRACT] = mlx_subtract,
    [GOMLX_MULTIPLY] = mlx_multiply,
    [GOMLX_DIVIDE] = mlx_divide,
    [GOMLX_POWER] = mlx_power,
    [GOMLX_MATMUL] = mlx_matmul,
    [GOMLX_MAXIMUM] = mlx_maximum,
    [GOMLX_MINIMUM] = mlx_minimum,
    [GOMLX_EQUAL] = mlx_equal,
    [GOMLX_NOT_EQUAL] = mlx_not_equal,
    [GOMLX_GREATER] = mlx_greater,
    [GOMLX_GREATER_EQUAL] = mlx_greater_equal,
    [GOMLX_LESS] = mlx_less,
    [GOMLX_LESS_EQUAL] = mlx_less_equal,
    [GOMLX_LOGICAL_AND] = mlx_logical_and,
    [GOMLX_LOGICAL_OR] = mlx_logical_or,
    [GOMLX_FLOOR_DIVIDE] = mlx_floor_divide,
    [GOMLX_REMAINDER] = mlx_remainder,
    [GOMLX_LOGADDEXP] = mlx_logaddexp,
};

int gomlx_binary(int op, mlx_array* res, const mlx_array a, const mlx_array b, const mlx_stream s) {
  return binary_ops[op](res, a, b, s);
}


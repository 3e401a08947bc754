package mlxc

/*
#include "elementwise.h"
*/
import "C"

func (s *Scope) unary(op C.int, name string, a *Array) *Array {
	if !s.ready(name, a) {
		return s.none()
	}
	r := s.fresh()
	return s.done(name, r, C.gomlx_unary(op, &r.h, a.h, s.stream))
}

func (s *Scope) binary(op C.int, name string, a, b *Array) *Array {
	if !s.ready(name, a, b) {
		return s.none()
	}
	r := s.fresh()
	return s.done(name, r, C.gomlx_binary(op, &r.h, a.h, b.h, s.stream))
}

// Abs is |a|, element by element.
func (s *Scope) Abs(a *Array) *Array { return s.unary(C.GOMLX_ABS, "abs", a) }

// Ceil is the least integer not below a, element by element.
func (s *Scope) Ceil(a *Array) *Array { return s.unary(C.GOMLX_CEIL, "ceil", a) }

// Cos is cos a, element by element.
func (s *Scope) Cos(a *Array) *Array { return s.unary(C.GOMLX_COS, "cos", a) }

// Erf is the error function of a, element by element.
func (s *Scope) Erf(a *Array) *Array { return s.unary(C.GOMLX_ERF, "erf", a) }

// Exp is e^a, element by element.
func (s *Scope) Exp(a *Array) *Array { return s.unary(C.GOMLX_EXP, "exp", a) }

// Floor is the greatest integer not above a, element by element.
func (s *Scope) Floor(a *Array) *Array { return s.unary(C.GOMLX_FLOOR, "floor", a) }

// Isnan is whether a is not a number, element by element.
func (s *Scope) Isnan(a *Array) *Array { return s.unary(C.GOMLX_ISNAN, "isnan", a) }

// Log is the natural logarithm of a, element by element.
func (s *Scope) Log(a *Array) *Array { return s.unary(C.GOMLX_LOG, "log", a) }

// LogicalNot is not a, element by element.
func (s *Scope) LogicalNot(a *Array) *Array { return s.unary(C.GOMLX_LOGICAL_NOT, "logical_not", a) }

// Negative is -a, element by element.
func (s *Scope) Negative(a *Array) *Array { return s.unary(C.GOMLX_NEGATIVE, "negative", a) }

// Reciprocal is 1/a, element by element.
func (s *Scope) Reciprocal(a *Array) *Array { return s.unary(C.GOMLX_RECIPROCAL, "reciprocal", a) }

// Rsqrt is 1/sqrt(a), element by element.
func (s *Scope) Rsqrt(a *Array) *Array { return s.unary(C.GOMLX_RSQRT, "rsqrt", a) }

// Sigmoid is 1/(1+e^-a), element by element.
func (s *Scope) Sigmoid(a *Array) *Array { return s.unary(C.GOMLX_SIGMOID, "sigmoid", a) }

// Sin is sin a, element by element.
func (s *Scope) Sin(a *Array) *Array { return s.unary(C.GOMLX_SIN, "sin", a) }

// Sqrt is the square root of a, element by element.
func (s *Scope) Sqrt(a *Array) *Array { return s.unary(C.GOMLX_SQRT, "sqrt", a) }

// Square is a*a, element by element.
func (s *Scope) Square(a *Array) *Array { return s.unary(C.GOMLX_SQUARE, "square", a) }

// StopGradient is a, through which no gradient flows, element by element.
func (s *Scope) StopGradient(a *Array) *Array {
	return s.unary(C.GOMLX_STOP_GRADIENT, "stop_gradient", a)
}

// Tanh is the hyperbolic tangent of a, element by element.
func (s *Scope) Tanh(a *Array) *Array { return s.unary(C.GOMLX_TANH, "tanh", a) }

// Add is a+b, element by element with broadcasting.
func (s *Scope) Add(a, b *Array) *Array { return s.binary(C.GOMLX_ADD, "add", a, b) }

// Subtract is a-b, element by element with broadcasting.
func (s *Scope) Subtract(a, b *Array) *Array { return s.binary(C.GOMLX_SUBTRACT, "subtract", a, b) }

// Multiply is a*b, element by element with broadcasting.
func (s *Scope) Multiply(a, b *Array) *Array { return s.binary(C.GOMLX_MULTIPLY, "multiply", a, b) }

// Divide is a/b, element by element with broadcasting.
func (s *Scope) Divide(a, b *Array) *Array { return s.binary(C.GOMLX_DIVIDE, "divide", a, b) }

// Power is a to the power b, element by element with broadcasting.
func (s *Scope) Power(a, b *Array) *Array { return s.binary(C.GOMLX_POWER, "power", a, b) }

// Matmul is the matrix product of the last two axes, [..., m, k] by [..., k, n].
func (s *Scope) Matmul(a, b *Array) *Array { return s.binary(C.GOMLX_MATMUL, "matmul", a, b) }

// AddMM is c + a b, with c broadcast to the product of [..., m, k] by [..., k, n].
func (s *Scope) AddMM(c, a, b *Array) *Array {
	if !s.ready("addmm", c, a, b) {
		return s.none()
	}
	r := s.fresh()
	return s.done("addmm", r, C.mlx_addmm(&r.h, c.h, a.h, b.h, 1, 1, s.stream))
}

// Maximum is the greater of a and b, element by element with broadcasting.
func (s *Scope) Maximum(a, b *Array) *Array { return s.binary(C.GOMLX_MAXIMUM, "maximum", a, b) }

// Minimum is the lesser of a and b, element by element with broadcasting.
func (s *Scope) Minimum(a, b *Array) *Array { return s.binary(C.GOMLX_MINIMUM, "minimum", a, b) }

// Equal is a == b, element by element with broadcasting.
func (s *Scope) Equal(a, b *Array) *Array { return s.binary(C.GOMLX_EQUAL, "equal", a, b) }

// NotEqual is a != b, element by element with broadcasting.
func (s *Scope) NotEqual(a, b *Array) *Array { return s.binary(C.GOMLX_NOT_EQUAL, "not_equal", a, b) }

// Greater is a > b, element by element with broadcasting.
func (s *Scope) Greater(a, b *Array) *Array { return s.binary(C.GOMLX_GREATER, "greater", a, b) }

// GreaterEqual is a >= b, element by element with broadcasting.
func (s *Scope) GreaterEqual(a, b *Array) *Array {
	return s.binary(C.GOMLX_GREATER_EQUAL, "greater_equal", a, b)
}

// Less is a < b, element by element with broadcasting.
func (s *Scope) Less(a, b *Array) *Array { return s.binary(C.GOMLX_LESS, "less", a, b) }

// LessEqual is a <= b, element by element with broadcasting.
func (s *Scope) LessEqual(a, b *Array) *Array {
	return s.binary(C.GOMLX_LESS_EQUAL, "less_equal", a, b)
}

// LogicalAnd is a and b, element by element with broadcasting.
func (s *Scope) LogicalAnd(a, b *Array) *Array {
	return s.binary(C.GOMLX_LOGICAL_AND, "logical_and", a, b)
}

// LogicalOr is a or b, element by element with broadcasting.
func (s *Scope) LogicalOr(a, b *Array) *Array {
	return s.binary(C.GOMLX_LOGICAL_OR, "logical_or", a, b)
}

// FloorDivide is floor(a/b), element by element with broadcasting.
func (s *Scope) FloorDivide(a, b *Array) *Array {
	return s.binary(C.GOMLX_FLOOR_DIVIDE, "floor_divide", a, b)
}

// Remainder is a mod b, with the sign of b, element by element with broadcasting.
func (s *Scope) Remainder(a, b *Array) *Array { return s.binary(C.GOMLX_REMAINDER, "remainder", a, b) }

// Logaddexp is log(e^a + e^b), element by element with broadcasting.
func (s *Scope) Logaddexp(a, b *Array) *Array { return s.binary(C.GOMLX_LOGADDEXP, "logaddexp", a, b) }

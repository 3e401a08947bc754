package head

import (
	"context"
	"errors"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
)

// Products and factorisations of [size, size] take seconds for wide models. They are computed in parts of some tenths of a second, between which a
// context that ended is noticed: gonum's own functions for whole matrices cannot be stopped.
const (
	productRows  = 768
	productCols  = 256
	factorBlock  = 64
	solvedAtOnce = 32
)

var errNotPositive = errors.New("the matrix is not positive definite")

// addProduct adds the upper triangle of rowsᵀ * rows to sum, in blocks of columns.
func addProduct(ctx context.Context, rows, sum blas32.General) error {
	for begin := 0; begin < rows.Cols; begin += productCols {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(begin+productCols, rows.Cols)
		left, right, out := rows, rows, sum
		left.Cols = end
		right.Cols, right.Data = end-begin, rows.Data[begin:]
		out.Rows, out.Cols, out.Data = end, end-begin, sum.Data[begin:]
		blas32.Gemm(blas.Trans, blas.NoTrans, 1, left, right, 1, out)
	}
	return nil
}

// addOuterProduct adds the upper triangle of rows * rowsᵀ to sum, in blocks of columns.
func addOuterProduct(ctx context.Context, rows, sum blas32.General) error {
	for begin := 0; begin < rows.Rows; begin += productCols {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(begin+productCols, rows.Rows)
		left, right, out := rows, rows, sum
		left.Rows = end
		right.Rows, right.Data = end-begin, rows.Data[begin*rows.Stride:]
		out.Rows, out.Cols, out.Data = end, end-begin, sum.Data[begin:]
		blas32.Gemm(blas.NoTrans, blas.Trans, 1, left, right, 1, out)
	}
	return nil
}

// multiply is a * b or, if b is transposed, a * bᵀ.
func multiply(ctx context.Context, a blas64.General, b blas32.General, transposed blas.Transpose) (blas64.General, error) {
	cols := b.Cols
	if transposed == blas.Trans {
		cols = b.Rows
	}
	out := blas64.General{Rows: a.Rows, Cols: cols, Stride: cols, Data: make([]float64, a.Rows*cols)}
	part := blas32.General{Cols: a.Cols, Stride: a.Cols, Data: make([]float32, min(a.Rows, solvedAtOnce)*a.Cols)}
	product := blas32.General{Cols: cols, Stride: cols, Data: make([]float32, min(a.Rows, solvedAtOnce)*cols)}
	for begin := 0; begin < a.Rows; begin += solvedAtOnce {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		part.Rows = min(solvedAtOnce, a.Rows-begin)
		product.Rows = part.Rows
		for i := range part.Rows * a.Cols {
			part.Data[i] = float32(a.Data[begin*a.Cols+i])
		}
		blas32.Gemm(blas.NoTrans, transposed, 1, part, b, 0, product)
		for i := range product.Rows * cols {
			out.Data[begin*cols+i] = float64(product.Data[i])
		}
	}
	return out, nil
}

// workspace is memory that one matrix after the other is computed in.
type workspace struct{ data []float64 }

func (w *workspace) of(n int) []float64 {
	if len(w.data) < n {
		w.data = make([]float64, n)
	}
	return w.data[:n]
}

// factorise is the Cholesky decomposition of a matrix of which the upper triangle is given, which the factor takes the place of. The error is
// errNotPositive, or the context's.
func factorise(ctx context.Context, a blas64.Symmetric) (blas64.Triangular, error) {
	factor := blas64.Triangular{Uplo: blas.Upper, Diag: blas.NonUnit, N: a.N, Stride: a.Stride, Data: a.Data}
	part := func(row, col, rows, cols int) blas64.General {
		return blas64.General{Rows: rows, Cols: cols, Stride: a.Stride, Data: a.Data[row*a.Stride+col:]}
	}
	for begin := 0; begin < a.N; begin += factorBlock {
		if err := ctx.Err(); err != nil {
			return factor, err
		}
		n := min(factorBlock, a.N-begin)
		diagonal := blas64.Symmetric{Uplo: blas.Upper, N: n, Stride: a.Stride, Data: a.Data[begin*a.Stride+begin:]}
		if begin > 0 { // the block's rows, less what the rows above account for
			blas64.Syrk(blas.Trans, -1, part(0, begin, begin, n), 1, diagonal)
		}
		done, ok := lapack64.Potrf(diagonal)
		if !ok {
			return factor, errNotPositive
		}
		right := a.N - begin - n
		if right == 0 {
			break
		}
		rest := part(begin, begin+n, n, right)
		if begin > 0 {
			blas64.Gemm(blas.Trans, blas.NoTrans, -1, part(0, begin, begin, n), part(0, begin+n, begin, right), 1, rest)
		}
		blas64.Trsm(blas.Left, blas.Trans, 1, done, rest)
	}
	return factor, nil
}

// solve solves (factorᵀ * factor) * x = b for each row b.
func solve(ctx context.Context, factor blas64.Triangular, b blas64.General) (blas64.General, error) {
	x := b
	x.Data = append([]float64(nil), b.Data...)
	for begin := 0; begin < x.Rows; begin += solvedAtOnce {
		if err := ctx.Err(); err != nil {
			return x, err
		}
		part := x
		part.Rows, part.Data = min(solvedAtOnce, x.Rows-begin), x.Data[begin*x.Stride:]
		blas64.Trsm(blas.Right, blas.NoTrans, 1, factor, part) // xᵀ * factor = ...
		blas64.Trsm(blas.Right, blas.Trans, 1, factor, part)
	}
	return x, nil
}

package head

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"
)

// watched is a context that counts how often it was asked whether it has ended, and ends when it was asked often enough.
type watched struct {
	context.Context
	asked atomic.Int64
	ends  int64 // 0 for never
}

func (w *watched) Err() error {
	if n := w.asked.Add(1); w.ends > 0 && n > w.ends {
		return context.Canceled
	}
	return nil
}

// wide is n vectors of d values, with labels and folds.
func wide(n, d int) (data Data, folds []int) {
	rng := rand.New(rand.NewPCG(8, 1))
	for i := range n {
		x := make([]float32, d)
		for j := range x {
			x[j] = float32(rng.NormFloat64())
		}
		x[i%3] += 2
		data.X, data.Y, folds = append(data.X, x), append(data.Y, i%3), append(folds, i/3%2)
	}
	return data, folds
}

// For states of 2,560 values a product or a factorisation as a whole takes seconds: they ask for each block.
func TestProductsAndFactorsAskForEachBlock(t *testing.T) {
	const size = 3 * productCols
	rows := blas32.General{Rows: size, Cols: size, Stride: size, Data: make([]float32, size*size)}
	identity := blas64.Symmetric{Uplo: blas.Upper, N: size, Stride: size, Data: make([]float64, size*size)}
	for i := range size {
		identity.Data[i*size+i] = 1
	}
	many := blas64.General{Rows: 4 * solvedAtOnce, Cols: size, Stride: size, Data: make([]float64, 4*solvedAtOnce*size)}
	factor := blas64.Triangular{Uplo: blas.Upper, Diag: blas.NonUnit, N: size, Stride: size, Data: slices.Clone(identity.Data)}
	for name, c := range map[string]struct {
		blocks  int64
		compute func(ctx context.Context) error
	}{
		"product":       {3, func(ctx context.Context) error { return addProduct(ctx, rows, rows) }},
		"outer product": {3, func(ctx context.Context) error { return addOuterProduct(ctx, rows, rows) }},
		"factor":        {size / factorBlock, func(ctx context.Context) error { _, err := factorise(ctx, identity); return err }},
		"solution":      {4, func(ctx context.Context) error { _, err := solve(ctx, factor, many); return err }},
		"multiply":      {4, func(ctx context.Context) error { _, err := multiply(ctx, many, rows, blas.NoTrans); return err }},
	} {
		ctx := &watched{Context: t.Context()}
		require.NoError(t, c.compute(ctx))
		require.Equal(t, c.blocks, ctx.asked.Load(), name)
	}
}

// Wherever a context ends, the fit ends with its error.
func TestAFitEndsWhereverItsContextEnds(t *testing.T) {
	data, folds := wide(60, 300)
	fits := map[string]func(ctx context.Context) error{
		"Fit": func(ctx context.Context) error {
			_, err := Fit(ctx, info(), data, Data{X: data.X[:20], Y: data.Y[:20]})
			return err
		},
		"CrossFit": func(ctx context.Context) error {
			_, _, _, err := CrossFit(ctx, info(), data, folds)
			return err
		},
	}
	for name, fit := range fits {
		all := &watched{Context: t.Context()}
		require.NoError(t, fit(all))
		for ends := int64(1); ends < all.asked.Load(); ends += 7 {
			ctx := &watched{Context: t.Context(), ends: ends}
			require.ErrorIs(t, fit(ctx), context.Canceled, "%s, after %d questions", name, ends)
			require.Less(t, ctx.asked.Load(), ends+200, "%s went on after question %d", name, ends)
		}
	}
}

// Products and factors in blocks are those of whole matrices.
func TestBlocksMakeTheWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	for _, d := range []int{1, 2, factorBlock - 1, factorBlock, factorBlock + 1, 2*productCols + 3} {
		n := d + 5
		rows := blas32.General{Rows: n, Cols: d, Stride: d, Data: make([]float32, n*d)}
		values := make([]float64, n*d)
		for i := range values {
			rows.Data[i] = float32(rng.NormFloat64())
			values[i] = float64(rows.Data[i])
		}
		sum := blas32.General{Rows: d, Cols: d, Stride: d, Data: make([]float32, d*d)}
		require.NoError(t, addProduct(t.Context(), rows, sum))
		require.NoError(t, addProduct(t.Context(), rows, sum))
		var want mat.SymDense
		want.SymOuterK(2, mat.NewDense(n, d, values).T())
		matrix := blas64.Symmetric{Uplo: blas.Upper, N: d, Stride: d, Data: make([]float64, d*d)}
		off := 0.0
		for i := range d {
			for j := i; j < d; j++ {
				off = max(off, math.Abs(want.At(i, j)-float64(sum.Data[i*d+j])))
				matrix.Data[i*d+j] = want.At(i, j)
			}
			matrix.Data[i*d+i] += float64(d)
			want.SetSym(i, i, want.At(i, i)+float64(d))
		}
		require.Less(t, off, 1e-2)
		b := blas64.General{Rows: solvedAtOnce + 3, Cols: d, Stride: d}
		for range b.Rows * d {
			b.Data = append(b.Data, rng.NormFloat64())
		}
		factor, err := factorise(t.Context(), matrix)
		require.NoError(t, err)
		x, err := solve(t.Context(), factor, b)
		require.NoError(t, err)
		var back mat.Dense
		back.Mul(mat.NewDense(b.Rows, d, x.Data), &want)
		off = 0
		for i, v := range b.Data {
			off = max(off, math.Abs(v-back.At(i/d, i%d)))
		}
		require.Less(t, off, 1e-8)
	}
	for _, v := range []float64{0, -1, math.NaN()} {
		_, err := factorise(t.Context(), blas64.Symmetric{Uplo: blas.Upper, N: 1, Stride: 1, Data: []float64{v}})
		require.ErrorIs(t, err, errNotPositive)
	}
}

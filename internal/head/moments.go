package head

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
)

// moments are what a linear discriminant is made of: the labels' means and the covariance within labels, of the vectors' directions times the
// square root of their size, so that values are about 1.
type moments struct {
	size, labels int
	mean, scale  []float32      // [size]; see direction
	means        blas64.General // [labels, size]; zeros for a label without a vector
	prior        []float64      // [labels], each label's share of the weights
	within       blas32.General // [size, size], of which only the upper triangle is filled in; float32, since each fold has one

	// Of few vectors the covariance is kept as the rows whose product it is, with the products of these with each other (upper triangle): equations then
	// have as many unknowns as there are vectors, and not as values. within has no data then.
	rows, gram blas32.General // [n, size], [n, n]
}

// few reports whether n vectors are few for their size: rows and their products then take at most a third more memory than the covariance, and less than half of
// the time.
func few(n, size int) bool { return 4*n <= 3*size }

// newMoments takes them from data. Where labels are balanced, each counts as much as any other, else each vector does.
func newMoments(ctx context.Context, data Data, labels int, balanced bool) (*moments, error) {
	n, d := len(data.X), len(data.X[0])
	m := &moments{size: d, labels: labels, prior: make([]float64, labels)}
	m.means = blas64.General{Rows: labels, Cols: d, Stride: d, Data: make([]float64, labels*d)}
	var err error
	if m.mean, m.scale, err = standardisation(ctx, data.X); err != nil {
		return nil, err
	}
	counts, occurring := make([]float64, labels), 0.0
	for _, y := range data.Y {
		if counts[y]++; counts[y] == 1 {
			occurring++
		}
	}
	weight := func(y int) float64 { // of each vector of a label
		if balanced {
			return 1 / (occurring * counts[y])
		}
		return 1 / float64(n)
	}
	root := math.Sqrt(float64(d))
	for i, x := range data.X {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		y := data.Y[i]
		m.prior[y] += weight(y)
		floats.AddScaled(m.meanOf(y), root/counts[y], direction(x, m.mean, m.scale))
	}
	// Rows are what a vector is away from its label's mean, times the square root of its weight: their product is the covariance.
	if few(n, d) {
		m.rows = blas32.General{Rows: n, Cols: d, Stride: d, Data: make([]float32, n*d)}
		m.gram = blas32.General{Rows: n, Cols: n, Stride: n, Data: make([]float32, n*n)}
		m.fillRows(m.rows, data, 0, weight)
		return m, addOuterProduct(ctx, m.rows, m.gram)
	}
	m.within = blas32.General{Rows: d, Cols: d, Stride: d, Data: make([]float32, d*d)}
	rows := blas32.General{Cols: d, Stride: d, Data: make([]float32, min(n, productRows)*d)}
	for begin := 0; begin < n; begin += productRows {
		rows.Rows = min(productRows, n-begin)
		m.fillRows(rows, data, begin, weight)
		if err := addProduct(ctx, rows, m.within); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// fillRows makes rows of the vectors from begin on.
func (m *moments) fillRows(rows blas32.General, data Data, begin int, weight func(label int) float64) {
	root := math.Sqrt(float64(m.size))
	for i := range rows.Rows {
		y, row := data.Y[begin+i], rows.Data[i*m.size:][:m.size]
		mean, rootWeight := m.meanOf(y), math.Sqrt(weight(y))
		for j, v := range direction(data.X[begin+i], m.mean, m.scale) {
			row[j] = float32((v*root - mean[j]) * rootWeight)
		}
	}
}

// meanOf is a label's mean.
func (m *moments) meanOf(label int) []float64 { return m.means.Data[label*m.size:][:m.size] }

// standardisation is what brings each value of the vectors to mean 0 and variance 1: a mean to subtract and a scale to multiply with.
func standardisation(ctx context.Context, vectors [][]float32) (mean, scale []float32, err error) {
	n, d := float64(len(vectors)), len(vectors[0])
	means, variances := make([]float64, d), make([]float64, d)
	for _, x := range vectors {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		for j, v := range x {
			means[j] += float64(v) / n
		}
	}
	for _, x := range vectors {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		for j, v := range x {
			difference := float64(v) - means[j]
			variances[j] += difference * difference / n
		}
	}
	mean, scale = make([]float32, d), make([]float32, d)
	for j, variance := range variances {
		mean[j], scale[j] = float32(means[j]), 1
		if variance > 1e-12 {
			scale[j] = float32(1 / math.Sqrt(variance))
		}
	}
	return mean, scale, nil
}

// direction is a vector standardised and brought to length 1; zeros stay zeros.
func direction(x, mean, scale []float32) []float64 {
	z := make([]float64, len(x))
	for j, v := range x {
		z[j] = (float64(v) - float64(mean[j])) * float64(scale[j])
	}
	if length := floats.Norm(z, 2); length > 0 {
		floats.Scale(1/length, z)
	}
	return z
}

// head is the regularised linear discriminant (Friedman 1989, Regularized Discriminant Analysis, doi:10.1080/01621459.1989.10478752): a label's
// logit is the log-density, up to what all labels share, of a normal distribution around its mean, with the covariance (1 - shrinkage) * within +
// shrinkage * identity, plus the log of its prior.
func (m *moments) head(ctx context.Context, info Info, shrinkage float64, space *workspace) (*Head, error) {
	d := m.size
	weights, err := m.solve(ctx, shrinkage, space)
	if errors.Is(err, errNotPositive) {
		return nil, errors.New("the fit failed: the hidden states have no finite covariance")
	}
	if err != nil {
		return nil, err
	}
	h := &Head{Info: info, size: d, weight: make([]float32, m.labels*d), bias: make([]float32, m.labels), mean: m.mean, scale: m.scale, centres: m.centres()}
	h.Temperature, h.Shrinkage, h.AbstainBy = 1, shrinkage, ByDistance
	for k := range m.labels {
		w := weights.Data[k*d:][:d]
		bias := math.Log(m.prior[k])
		if m.prior[k] == 0 {
			bias = impossible
		}
		h.bias[k] = float32(bias - floats.Dot(w, m.meanOf(k))/2)
		for j, v := range w {
			h.weight[k*d+j] = float32(v * math.Sqrt(float64(d)))
		}
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("the fit failed: %w", err)
	}
	return h, nil
}

// solve is the shrunk covariance's inverse times each label's mean: [labels, size].
func (m *moments) solve(ctx context.Context, shrinkage float64, space *workspace) (blas64.General, error) {
	if m.rows.Rows == 0 {
		factor, err := factorise(ctx, shrunk(m.within, 1-shrinkage, shrinkage, space))
		if err != nil {
			return blas64.General{}, err
		}
		return solve(ctx, factor, m.means)
	}
	// With R the rows and s the shrinkage, by Woodbury's identity: ((1-s) RᵀR + s I)⁻¹ = (I - Rᵀ (R Rᵀ + s/(1-s) I)⁻¹ R) / s.
	factor, err := factorise(ctx, shrunk(m.gram, 1, shrinkage/(1-shrinkage), space))
	if err != nil {
		return blas64.General{}, err
	}
	seen, err := multiply(ctx, m.means, m.rows, blas.Trans)
	if err != nil {
		return blas64.General{}, err
	}
	if seen, err = solve(ctx, factor, seen); err != nil {
		return blas64.General{}, err
	}
	out, err := multiply(ctx, seen, m.rows, blas.NoTrans)
	for i, v := range m.means.Data {
		out.Data[i] = (v - out.Data[i]) / shrinkage
	}
	return out, err
}

// shrunk is scale * a + shift * identity, in the workspace. Of a only the upper triangle is read.
func shrunk(a blas32.General, scale, shift float64, space *workspace) blas64.Symmetric {
	out := blas64.Symmetric{Uplo: blas.Upper, N: a.Rows, Stride: a.Rows, Data: space.of(a.Rows * a.Rows)}
	for i := range a.Rows {
		for j := i; j < a.Rows; j++ {
			out.Data[i*out.Stride+j] = scale * float64(a.Data[i*a.Stride+j])
		}
		out.Data[i*out.Stride+i] += shift
	}
	return out
}

// centres are the directions of the labels' means: [labels, size], each of length 1 or 0.
func (m *moments) centres() []float32 {
	out := make([]float32, m.labels*m.size)
	for k := range m.labels {
		mean := m.meanOf(k)
		if length := floats.Norm(mean, 2); length > 0 {
			for j, v := range mean {
				out[k*m.size+j] = float32(v / length)
			}
		}
	}
	return out
}

package head

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Data are vectors of one length with the index of each one's label.
type Data struct {
	X [][]float32
	Y []int
}

// shrinkages are tried on the validation part, from the strongest. See moments.head.
var shrinkages = []float64{0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02}

const (
	// widestLogTemperature bounds the temperature: it is between e^-6 and e^6. With a strong shrinkage logits are large, since it takes values
	// that say the same for independent ones.
	widestLogTemperature = 6
	// keptKnown is the share of validation texts that the thresholds let through.
	keptKnown = 0.95
	// impossible is the bias of a label without a vector to fit to. Whatever the temperature, its probability is 0.
	impossible = -1e6
)

// Fit fits a head to training data and chooses its shrinkage, temperature and thresholds on validation data. Labels, model and layer
// are those of info.
func Fit(ctx context.Context, info Info, train, validation Data) (*Head, error) {
	if err := checkLabels(info.Labels); err != nil {
		return nil, err
	}
	if len(train.X) == 0 || len(validation.X) == 0 {
		return nil, fmt.Errorf("%d texts to fit to and %d to validate with: there must be some of both", len(train.X), len(validation.X))
	}
	m, err := newMoments(ctx, train, len(info.Labels), false)
	if err != nil {
		return nil, err
	}
	var best *Head
	var logits [][]float64
	bestLoss := math.Inf(1)
	for _, shrinkage := range shrinkages {
		h, err := m.head(info, shrinkage)
		if err != nil {
			return nil, err
		}
		of := make([][]float64, len(validation.X))
		for i, x := range validation.X {
			of[i] = h.Logits(x)
		}
		h.Temperature = bestTemperature(of, validation.Y)
		loss := logLoss(of, validation.Y, h.Temperature)
		if loss >= bestLoss {
			break // less shrinkage fits the training part only
		}
		best, logits, bestLoss = h, of, loss
	}
	if best == nil {
		return nil, errors.New("the fit failed: no finite loss on the validation part")
	}
	distances := make([]float64, len(validation.X))
	for i, x := range validation.X {
		distances[i] = best.Distance(x)
	}
	best.Texts = len(train.X)
	best.setThresholds(logits, distances)
	return best, nil
}

// moments are what a linear discriminant is made of: the labels' means and the covariance within labels, of the vectors' directions times the
// square root of their size, so that values are about 1.
type moments struct {
	ctx         context.Context
	d, k        int
	mean, scale []float32     // [d]; see direction
	means       *mat.Dense    // [k, d], of each label; zeros for a label without a vector
	prior       []float64     // [k], each label's share of the weights
	within      *mat.SymDense // [d, d]
}

// newMoments takes them from data. Where labels are balanced, each counts as much as any other, else each vector does.
func newMoments(ctx context.Context, data Data, labels int, balanced bool) (*moments, error) {
	n, d := len(data.X), len(data.X[0])
	m := &moments{ctx: ctx, d: d, k: labels, means: mat.NewDense(labels, d, nil), prior: make([]float64, labels)}
	m.mean, m.scale = standardisation(data.X)
	counts, occurring := make([]float64, labels), 0.0
	for _, y := range data.Y {
		if counts[y]++; counts[y] == 1 {
			occurring++
		}
	}
	// Rows are what a vector is away from its label's mean, times the square root of its weight: their product is the covariance.
	rows := blas32.General{Rows: n, Cols: d, Stride: d, Data: make([]float32, n*d)}
	root := math.Sqrt(float64(d))
	for i, x := range data.X {
		mean := m.means.RawRowView(data.Y[i])
		for j, v := range direction(x, m.mean, m.scale) {
			rows.Data[i*d+j] = float32(v * root)
			mean[j] += v * root / counts[data.Y[i]]
		}
	}
	for i, y := range data.Y {
		weight := 1 / float64(n)
		if balanced {
			weight = 1 / (occurring * counts[y])
		}
		m.prior[y] += weight
		mean, row := m.means.RawRowView(y), rows.Data[i*d:][:d]
		for j := range row {
			row[j] = float32((float64(row[j]) - mean[j]) * math.Sqrt(weight))
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	product := blas32.General{Rows: d, Cols: d, Stride: d, Data: make([]float32, d*d)}
	blas32.Gemm(blas.Trans, blas.NoTrans, 1, rows, rows, 0, product)
	m.within = mat.NewSymDense(d, nil)
	for i := range d {
		for j := i; j < d; j++ {
			m.within.SetSym(i, j, float64(product.Data[i*d+j]))
		}
	}
	return m, ctx.Err()
}

// standardisation is what brings each value of the vectors to mean 0 and variance 1: a mean to subtract and a scale to multiply with.
func standardisation(vectors [][]float32) (mean, scale []float32) {
	n, d := float64(len(vectors)), len(vectors[0])
	means, variances := make([]float64, d), make([]float64, d)
	for _, x := range vectors {
		for j, v := range x {
			means[j] += float64(v) / n
		}
	}
	for _, x := range vectors {
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
	return mean, scale
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
func (m *moments) head(info Info, shrinkage float64) (*Head, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, err
	}
	covariance := mat.NewSymDense(m.d, nil)
	covariance.ScaleSym(1-shrinkage, m.within)
	for j := range m.d {
		covariance.SetSym(j, j, covariance.At(j, j)+shrinkage)
	}
	var cholesky mat.Cholesky
	var weights mat.Dense // [d, k]
	if !cholesky.Factorize(covariance) {
		return nil, errors.New("the fit failed: the hidden states have no finite covariance")
	}
	if err := cholesky.SolveTo(&weights, m.means.T()); err != nil {
		return nil, fmt.Errorf("the fit failed: %w", err)
	}
	h := &Head{Info: info, size: m.d, weight: make([]float32, m.k*m.d), bias: make([]float32, m.k), mean: m.mean, scale: m.scale, centres: m.centres()}
	h.Temperature, h.Shrinkage, h.AbstainBy = 1, shrinkage, ByDistance
	for k := range m.k {
		bias := math.Log(m.prior[k])
		if m.prior[k] == 0 {
			bias = impossible
		}
		for j := range m.d {
			w := weights.At(j, k)
			bias -= w * m.means.At(k, j) / 2
			h.weight[k*m.d+j] = float32(w * math.Sqrt(float64(m.d)))
		}
		h.bias[k] = float32(bias)
	}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("the fit failed: %w", err)
	}
	return h, nil
}

// logLoss is the mean negative log-probability of the right labels at a temperature.
func logLoss(logits [][]float64, truth []int, temperature float64) float64 {
	total := 0.0
	for i, y := range truth {
		total -= math.Log(max(probabilities(logits[i], temperature)[y], 1e-300))
	}
	return total / float64(len(truth))
}

// bestTemperature is the temperature with the least loss.
func bestTemperature(logits [][]float64, truth []int) float64 {
	return engine.BestTemperature(func(temperature float64) float64 { return logLoss(logits, truth, temperature) }, widestLogTemperature)
}

// quantile is the value below which a share of the values lies.
func quantile(values []float64, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

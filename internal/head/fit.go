package head

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/optimize"

	"forge.lthn.ai/core/go-mlx/engine"
)

// Data are vectors of one length with the index of each one's label.
type Data struct {
	X [][]float32
	Y []int
}

// penalties are tried on the validation part, from the strongest, each from where the last one ended.
var penalties = []float64{0.3, 0.1, 0.03, 0.01, 0.003, 0.001}

const (
	// maxSteps bounds the optimiser for one penalty. Fits of standardised states take 30 to 80 steps.
	maxSteps = 150
	// enoughGradient ends it: below this no label of a text changes.
	enoughGradient = 1e-4
	// widestLogTemperature bounds the temperature: it is between e^-3 and e^3.
	widestLogTemperature = 3
	// keptKnown is the share of validation texts that the thresholds let through.
	keptKnown = 0.95
)

// Fit fits a head to training data and chooses its penalty, temperature and thresholds on validation data. Labels, model and layer
// are those of info.
func Fit(ctx context.Context, info Info, train, validation Data) (*Head, error) {
	if err := checkLabels(info.Labels); err != nil {
		return nil, err
	}
	if len(train.X) == 0 || len(validation.X) == 0 {
		return nil, fmt.Errorf("%d texts to fit to and %d to validate with: there must be some of both", len(train.X), len(validation.X))
	}
	p := newProblem(ctx, train, len(info.Labels))
	var best *Head
	bestLoss := math.Inf(1)
	at := make([]float64, p.k*(p.d+1))
	for _, penalty := range penalties {
		p.penalty = penalty
		var err error
		if at, err = p.minimise(at); err != nil {
			return nil, err
		}
		h := p.head(info, at)
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("the fit failed: %w", err)
		}
		// Before the temperature is applied: it would hide that a fit is sure of wrong labels.
		loss := h.loss(validation)
		if loss >= bestLoss {
			break // weaker penalties fit the training part only
		}
		best, bestLoss = h, loss
	}
	if best == nil {
		return nil, errors.New("the fit failed: no finite loss on the validation part")
	}
	logits, distances := make([][]float64, len(validation.X)), make([]float64, len(validation.X))
	for i, x := range validation.X {
		logits[i], distances[i] = best.Logits(x), best.Distance(x)
	}
	best.Temperature, best.Texts = bestTemperature(logits, validation.Y), len(train.X)
	best.setThresholds(logits, distances)
	return best, nil
}

// problem is a regression on standardised vectors.
type problem struct {
	ctx         context.Context
	x           blas32.General // [n, d], standardised
	y           []int
	share       []float64 // of each vector in the loss; together 1
	n, d, k     int
	mean, scale []float64
	penalty     float64
	logits      blas32.General // [n, k]; scratch
	w, g        blas32.General // [k, d]; scratch
}

func newProblem(ctx context.Context, data Data, labels int) *problem {
	n, d := len(data.X), len(data.X[0])
	general := func(rows, cols int) blas32.General {
		return blas32.General{Rows: rows, Cols: cols, Stride: cols, Data: make([]float32, rows*cols)}
	}
	p := &problem{ctx: ctx, x: general(n, d), y: data.Y, n: n, d: d, k: labels, mean: make([]float64, d), scale: make([]float64, d),
		logits: general(n, labels), w: general(labels, d), g: general(labels, d)}
	p.share = slices.Repeat([]float64{1 / float64(n)}, n)
	for _, x := range data.X {
		for j, v := range x {
			p.mean[j] += float64(v) / float64(n)
		}
	}
	for _, x := range data.X {
		for j, v := range x {
			difference := float64(v) - p.mean[j]
			p.scale[j] += difference * difference / float64(n)
		}
	}
	for j, variance := range p.scale {
		p.scale[j] = 1
		if variance > 1e-12 {
			p.scale[j] = 1 / math.Sqrt(variance)
		}
	}
	for i, x := range data.X {
		for j, v := range x {
			p.x.Data[i*d+j] = float32((float64(v) - p.mean[j]) * p.scale[j])
		}
	}
	return p
}

// balance makes every label that occurs count as much as any other.
func (p *problem) balance() {
	counts, labels := make([]int, p.k), 0
	for _, y := range p.y {
		if counts[y]++; counts[y] == 1 {
			labels++
		}
	}
	for i, y := range p.y {
		p.share[i] = 1 / float64(labels*counts[y])
	}
}

// minimise finds the weights with the least loss by L-BFGS.
func (p *problem) minimise(from []float64) ([]float64, error) {
	// The optimiser asks for loss and gradient at the same place one after the other; most of the work is the same.
	var last, lastGrad []float64
	lastLoss := 0.0
	at := func(v []float64) {
		if last == nil {
			last, lastGrad = make([]float64, len(v)), make([]float64, len(v))
		} else if slices.Equal(last, v) {
			return
		}
		copy(last, v)
		lastLoss = p.loss(v, lastGrad)
	}
	result, err := optimize.Minimize(optimize.Problem{
		Func: func(v []float64) float64 { at(v); return lastLoss },
		Grad: func(grad, v []float64) { at(v); copy(grad, lastGrad) },
		Status: func() (optimize.Status, error) {
			if err := p.ctx.Err(); err != nil {
				return optimize.Failure, err
			}
			return optimize.NotTerminated, nil
		},
	}, from, &optimize.Settings{GradientThreshold: enoughGradient, MajorIterations: maxSteps,
		Converger: &optimize.FunctionConverge{Absolute: 1e-6, Relative: 1e-6, Iterations: 8}}, &optimize.LBFGS{})
	if ctxErr := p.ctx.Err(); ctxErr != nil {
		return nil, ctxErr
	}
	// A line search that cannot go on, since losses are sums in float32, has arrived.
	if result == nil {
		return nil, fmt.Errorf("the fit failed: %w", err)
	}
	return result.X, nil
}

// loss is the mean negative log-probability of the right labels with the penalty; grad takes its gradient if it is not nil. v is the weights
// [k, d] and the biases [k].
func (p *problem) loss(v, grad []float64) float64 {
	for i := range p.w.Data {
		p.w.Data[i] = float32(v[i])
	}
	bias := v[p.k*p.d:]
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, p.x, p.w, 0, p.logits)
	total := 0.0
	biasGrad := make([]float64, p.k)
	for i, y := range p.y {
		row := p.logits.Data[i*p.k:][:p.k]
		best := math.Inf(-1)
		for k := range row {
			best = max(best, float64(row[k])+bias[k])
		}
		sum := 0.0
		for k := range row {
			sum += math.Exp(float64(row[k]) + bias[k] - best)
		}
		norm := best + math.Log(sum)
		total += p.share[i] * (norm - float64(row[y]) - bias[y])
		if grad == nil {
			continue
		}
		for k := range row {
			q := math.Exp(float64(row[k]) + bias[k] - norm)
			if k == y {
				q--
			}
			q *= p.share[i]
			row[k] = float32(q)
			biasGrad[k] += q
		}
	}
	for _, w := range v[:p.k*p.d] {
		total += p.penalty / 2 * w * w
	}
	if grad != nil {
		blas32.Gemm(blas.Trans, blas.NoTrans, 1, p.logits, p.x, 0, p.g)
		for i, g := range p.g.Data {
			grad[i] = float64(g) + p.penalty*v[i]
		}
		copy(grad[p.k*p.d:], biasGrad)
	}
	return total
}

// head folds the standardisation into the weights.
func (p *problem) head(info Info, v []float64) *Head {
	h := &Head{Info: info, size: p.d, weight: make([]float32, p.k*p.d), bias: make([]float32, p.k)}
	h.Temperature, h.Penalty, h.AbstainBy = 1, p.penalty, ByDistance
	h.mean, h.scale, h.centres = make([]float32, p.d), make([]float32, p.d), p.centres()
	for j := range p.d {
		h.mean[j], h.scale[j] = float32(p.mean[j]), float32(p.scale[j])
	}
	for k := range p.k {
		bias := v[p.k*p.d+k]
		for j := range p.d {
			w := v[k*p.d+j] * p.scale[j]
			h.weight[k*p.d+j] = float32(w)
			bias -= w * p.mean[j]
		}
		h.bias[k] = float32(bias)
	}
	return h
}

// loss is the mean negative log-probability of the right labels.
func (h *Head) loss(data Data) float64 {
	logits := make([][]float64, len(data.X))
	for i, x := range data.X {
		logits[i] = h.Logits(x)
	}
	return logLoss(logits, data.Y, 1)
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

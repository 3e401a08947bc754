package parity

import (
	"cmp"
	"encoding/json"
	"math"
)

// Difference is how far the values of one array are from those of another.
type Difference struct {
	MaxAbs   float64 // largest absolute difference
	Relative float64 // ||got - want|| / ||want||, or 1 if all that was wanted are zeros
	Cosine   float64
	ULP      Histogram // distances in units in the last place of the model's dtype
	Broken   int64     // values that are a number on one side only
}

// Histogram counts elements by their distance in ULP: 0, 1, 2 to 3, 4 to 15, 16 to 255, and more.
type Histogram [6]int64

// Buckets names the counts of a Histogram.
var Buckets = [6]string{"0", "1", "2-3", "4-15", "16-255", "256+"}

// Equal reports whether not a bit differs.
func (d Difference) Equal() bool { return d.MaxAbs == 0 && d.Broken == 0 }

// MarshalJSON writes a cosine that is no number, that of zeros, as null.
func (d Difference) MarshalJSON() ([]byte, error) {
	var cosine *float64
	if !math.IsNaN(d.Cosine) {
		cosine = &d.Cosine
	}
	return json.Marshal(map[string]any{
		"max_abs": d.MaxAbs, "relative": d.Relative, "cosine": cosine, "ulp": d.ULP, "broken": d.Broken,
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (d *Difference) UnmarshalJSON(data []byte) error {
	var v struct {
		MaxAbs   float64 `json:"max_abs"`
		Relative float64
		Cosine   *float64
		ULP      Histogram
		Broken   int64
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	*d = Difference{v.MaxAbs, v.Relative, math.NaN(), v.ULP, v.Broken}
	if v.Cosine != nil {
		d.Cosine = *v.Cosine
	}
	return nil
}

// bits is how many of float32's low bits a dtype does not have.
var bits = map[string]uint{"bfloat16": 16, "float16": 13, "float32": 0}

// Compare measures got against want; dtype is the type that both were computed in. Float16's denormals count as if
// they had float32's exponents.
func Compare(want, got []float32, dtype string) Difference {
	var d Difference
	var difference, wantNorm, gotNorm, dot float64
	for i := range want {
		a, b := float64(want[i]), float64(got[i])
		if finite(a) != finite(b) {
			d.Broken++
			continue
		}
		if !finite(a) {
			continue
		}
		delta := math.Abs(a - b)
		d.MaxAbs = max(d.MaxAbs, delta)
		difference, wantNorm, gotNorm, dot = difference+delta*delta, wantNorm+a*a, gotNorm+b*b, dot+a*b
		d.ULP[bucket(ulps(want[i], got[i])>>bits[dtype])]++
	}
	if difference > 0 {
		d.Relative = math.Sqrt(difference / cmp.Or(wantNorm, difference))
	}
	d.Cosine = dot / math.Sqrt(wantNorm*gotNorm)
	return d
}

// merge is the worst of both, all elements counted.
func (d Difference) merge(other Difference) Difference {
	d.MaxAbs, d.Relative, d.Broken = max(d.MaxAbs, other.MaxAbs), max(d.Relative, other.Relative), d.Broken+other.Broken
	if math.IsNaN(d.Cosine) || other.Cosine < d.Cosine {
		d.Cosine = other.Cosine
	}
	for i, n := range other.ULP {
		d.ULP[i] += n
	}
	return d
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// ulps is how many float32 lie between two finite numbers.
func ulps(a, b float32) uint64 {
	ordered := func(x float32) int64 {
		bits := int64(math.Float32bits(x))
		if bits>>31 != 0 {
			return -(bits & 0x7fffffff)
		}
		return bits
	}
	distance := ordered(a) - ordered(b)
	return uint64(max(distance, -distance))
}

func bucket(ulps uint64) int {
	switch {
	case ulps < 2:
		return int(ulps)
	case ulps < 4:
		return 2
	case ulps < 16:
		return 3
	case ulps < 256:
		return 4
	}
	return 5
}

// Package quality says how good classifications are: accuracy, F1, calibration and coverage of a list of predictions, as text, HTML or
// JSON, and a test whether two classifiers differ.
package quality

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Prediction is the label that a text got, and the right one.
type Prediction struct {
	Text        string  `json:"text,omitempty"`
	Language    string  `json:"language,omitempty"`
	Truth       string  `json:"truth"`
	Label       string  `json:"label"`
	Probability float64 `json:"probability"`
	Confidence  float64 `json:"confidence"` // what texts are sorted by to find the surest ones
	Unknown     bool    `json:"unknown,omitempty"`
}

// Row is one label's or one language's measures, all from 0 to 1.
type Row struct {
	Name      string  `json:"name"`
	Texts     int     `json:"texts"`
	Precision float64 `json:"precision,omitempty"` // of a label
	Recall    float64 `json:"recall,omitempty"`
	F1        float64 `json:"f1"` // of a language: the mean over the labels that occur in it
	Accuracy  float64 `json:"accuracy,omitempty"`
}

// Bin is a part of the calibration curve: the texts whose probability lies in one tenth of the range from 0 to 1.
type Bin struct {
	Texts      int     `json:"texts"`
	Confidence float64 `json:"confidence"` // their mean probability
	Accuracy   float64 `json:"accuracy"`   // share that is right
}

// Cover says what abstaining brings: the accuracy on the share of the texts with the highest confidence.
type Cover struct {
	Coverage float64 `json:"coverage"` // share of the texts, 0 to 1
	Accuracy float64 `json:"accuracy"`
}

// Report is how good predictions are. Accuracy and F1 are from 0 to 1.
type Report struct {
	Texts     int     `json:"texts"`
	Accuracy  float64 `json:"accuracy"`
	MacroF1   float64 `json:"macro_f1"` // mean over the labels that texts have
	ECE       float64 `json:"ece"`      // expected calibration error over ten bins
	Labels    []Row   `json:"labels"`
	Languages []Row   `json:"languages,omitempty"`
	// Confusion counts texts: a row for each right label, a column for each that was given.
	Confusion   [][]int      `json:"confusion"`
	Calibration []Bin        `json:"calibration"`
	Coverage    []Cover      `json:"coverage"`
	Kept        Cover        `json:"kept"`               // the texts that were not abstained from
	Mistakes    []Prediction `json:"mistakes,omitempty"` // the surest ones
	Predictions []Prediction `json:"predictions,omitempty"`
	TextsPerSec float64      `json:"texts_per_second,omitempty"`
}

const (
	bins        = 10
	maxMistakes = 100
)

// NewReport measures predictions. labels gives the order of rows; labels that occur only in predictions come after them.
func NewReport(labels []string, predictions []Prediction) (*Report, error) {
	if len(predictions) == 0 {
		return nil, fmt.Errorf("no labelled texts to measure with")
	}
	labels = slices.Clone(labels)
	for i, p := range predictions {
		if !(p.Probability >= 0 && p.Probability <= 1+1e-6) || math.IsNaN(p.Confidence) {
			return nil, fmt.Errorf("prediction %d: probability %v is not between 0 and 1, or confidence %v not a number", i+1, p.Probability, p.Confidence)
		}
		for _, l := range []string{p.Truth, p.Label} {
			if !slices.Contains(labels, l) {
				labels = append(labels, l)
			}
		}
	}
	r := &Report{Texts: len(predictions), Confusion: make([][]int, len(labels)), Calibration: make([]Bin, bins)}
	for i := range r.Confusion {
		r.Confusion[i] = make([]int, len(labels))
	}
	byLanguage := map[string][]Prediction{}
	for _, p := range predictions {
		r.Confusion[slices.Index(labels, p.Truth)][slices.Index(labels, p.Label)]++
		b := &r.Calibration[min(int(p.Probability*bins), bins-1)]
		b.Texts++
		b.Confidence += p.Probability
		if p.Label == p.Truth {
			b.Accuracy++
			r.Accuracy += 1 / float64(len(predictions))
		} else {
			r.Mistakes = append(r.Mistakes, p)
		}
		if p.Language != "" {
			byLanguage[p.Language] = append(byLanguage[p.Language], p)
		}
	}
	for i := range r.Calibration {
		if b := &r.Calibration[i]; b.Texts > 0 {
			r.ECE += math.Abs(b.Confidence-b.Accuracy) / float64(len(predictions))
			b.Confidence /= float64(b.Texts)
			b.Accuracy /= float64(b.Texts)
		}
	}
	r.Labels = rows(labels, predictions)
	r.MacroF1 = macro(r.Labels)
	for _, language := range slices.Sorted(maps.Keys(byLanguage)) {
		of := byLanguage[language]
		row := Row{Name: language, Texts: len(of), F1: macro(rows(labels, of))}
		for _, p := range of {
			if p.Label == p.Truth {
				row.Accuracy += 1 / float64(len(of))
			}
		}
		r.Languages = append(r.Languages, row)
	}
	r.Coverage = coverage(predictions)
	kept := slices.DeleteFunc(slices.Clone(predictions), func(p Prediction) bool { return p.Unknown })
	right := 0.0
	for _, p := range kept {
		if p.Label == p.Truth {
			right++
		}
	}
	r.Kept = Cover{float64(len(kept)) / float64(len(predictions)), ratio(right, float64(len(kept)))}
	slices.SortStableFunc(r.Mistakes, func(a, b Prediction) int { return cmp.Compare(b.Probability, a.Probability) })
	r.Mistakes = r.Mistakes[:min(len(r.Mistakes), maxMistakes)]
	return r, nil
}

// rows are the measures of each label.
func rows(labels []string, predictions []Prediction) []Row {
	out := make([]Row, len(labels))
	for i, label := range labels {
		var right, given, there float64
		for _, p := range predictions {
			if p.Truth == label {
				there++
			}
			if p.Label == label {
				given++
				if p.Truth == label {
					right++
				}
			}
		}
		out[i] = Row{Name: label, Texts: int(there), Precision: ratio(right, given), Recall: ratio(right, there), F1: ratio(2*right, given+there)}
	}
	return out
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// macro is the mean F1 of the labels that occur.
func macro(rows []Row) float64 {
	sum, n := 0.0, 0.0
	for _, row := range rows {
		if row.Texts > 0 {
			sum, n = sum+row.F1, n+1
		}
	}
	return ratio(sum, n)
}

// coverage is the accuracy of the surest texts.
func coverage(predictions []Prediction) []Cover {
	sorted := slices.Clone(predictions)
	slices.SortStableFunc(sorted, func(a, b Prediction) int { return cmp.Compare(b.Confidence, a.Confidence) })
	var out []Cover
	for tenth := 1; tenth <= 10; tenth++ {
		n := max(1, len(sorted)*tenth/10)
		right := 0.0
		for _, p := range sorted[:n] {
			if p.Label == p.Truth {
				right++
			}
		}
		out = append(out, Cover{float64(n) / float64(len(sorted)), right / float64(n)})
	}
	return out
}

// Comparison is McNemar's test of two lists of predictions for the same texts.
type Comparison struct {
	Texts     int     `json:"texts"`
	OnlyA     int     `json:"only_a_right"`
	OnlyB     int     `json:"only_b_right"`
	Both      int     `json:"both_right"`
	Neither   int     `json:"neither_right"`
	Agree     int     `json:"same_label"`
	PValue    float64 `json:"p_value"` // of a difference at least as large if both were as good: exact, two-sided
	AccuracyA float64 `json:"accuracy_a"`
	AccuracyB float64 `json:"accuracy_b"`
}

// Compare tests whether two classifiers differ in how often they are right.
func Compare(a, b []Prediction) (Comparison, error) {
	c := Comparison{Texts: len(a)}
	if len(a) == 0 || len(a) != len(b) {
		return c, fmt.Errorf("%d predictions and %d: both must be of the same texts", len(a), len(b))
	}
	for i := range a {
		if a[i].Text != b[i].Text {
			return c, fmt.Errorf("text %d is %.60q in one and %.60q in the other: both must be of the same texts", i+1, a[i].Text, b[i].Text)
		}
		if a[i].Truth != b[i].Truth {
			return c, fmt.Errorf("the right label of text %d, %.60q, is %q in one and %q in the other: both must be of the same data", i+1, a[i].Text, a[i].Truth, b[i].Truth)
		}
		rightA, rightB := a[i].Label == a[i].Truth, b[i].Label == b[i].Truth
		if a[i].Label == b[i].Label {
			c.Agree++
		}
		switch {
		case rightA && rightB:
			c.Both++
		case rightA:
			c.OnlyA++
		case rightB:
			c.OnlyB++
		default:
			c.Neither++
		}
	}
	n := float64(len(a))
	c.AccuracyA, c.AccuracyB = float64(c.Both+c.OnlyA)/n, float64(c.Both+c.OnlyB)/n
	c.PValue = signTest(min(c.OnlyA, c.OnlyB), c.OnlyA+c.OnlyB)
	return c, nil
}

// signTest is the probability that of n fair coins at most k, or at least n-k, show heads.
func signTest(k, n int) float64 {
	logFactorial := func(n int) float64 { v, _ := math.Lgamma(float64(n) + 1); return v }
	p := 0.0
	for i := 0; i <= k; i++ {
		p += math.Exp(logFactorial(n) - logFactorial(i) - logFactorial(n-i) - float64(n)*math.Ln2)
	}
	return min(1, 2*p)
}

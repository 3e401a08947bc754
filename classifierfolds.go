package mlx

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/head"
	"forge.lthn.ai/core/go-mlx/quality"
)

// fitClassifier fits to vectors. Without groups the texts of a share are held back; with groups CrossFit is used.
func fitClassifier(ctx context.Context, info head.Info, texts []LabelledText, vectors [][]float32, truth []int, share float64) (*Classifier, error) {
	var h *head.Head
	var held []int
	var predictions []Prediction
	var err error
	if slices.ContainsFunc(texts, func(t LabelledText) bool { return t.Group != "" }) {
		folds := foldsOf(texts)
		if slices.Max(folds) == 0 {
			return nil, &OptionError{Option: "texts", Reason: fmt.Sprintf("there are %d, too few to be judged by each other: give more, or more groups", len(texts))}
		}
		h, held, predictions, err = head.CrossFit(ctx, info, head.Data{X: vectors, Y: truth}, folds)
		if err != nil {
			return nil, err
		}
	} else {
		if held = heldBack(texts, share); len(held) == 0 {
			return nil, &OptionError{Option: "Validation", Reason: fmt.Sprintf("a share of %v keeps none of %d texts back, by which the fit would be judged: give more texts, or a larger share", share, len(texts))}
		}
		var train, validation head.Data
		for i := range texts {
			part := &train
			if _, found := slices.BinarySearch(held, i); found {
				part = &validation
			}
			part.X, part.Y = append(part.X, vectors[i]), append(part.Y, truth[i])
		}
		if h, err = head.Fit(ctx, info, train, validation); err != nil {
			return nil, err
		}
		for _, x := range validation.X {
			predictions = append(predictions, h.Predict(x))
		}
	}
	for n, i := range held {
		predictions[n].Truth, predictions[n].Text = texts[i].Label, texts[i].Text
	}
	if h.Validation, err = quality.NewReport(info.Labels, predictions); err != nil {
		return nil, err
	}
	h.Validation.Mistakes = nil // the file holds none of the texts
	if len(info.Labels) > maxConfusion {
		h.Validation.Confusion = nil
	}
	return &Classifier{h}, nil
}

// maxConfusion is how many labels have their confusions in a classifier's file: a table of thousands of labels would be most of it.
const maxConfusion = 256

// heldBack are the indices of the texts of a share, by their hash, in order. Where these are all texts of a label, none of them are: nothing would be known
// of the label.
func heldBack(texts []LabelledText, share float64) (held []int) {
	left := map[string]bool{} // labels with texts to fit to
	for _, t := range texts {
		left[t.Label] = left[t.Label] || hashShare(t.Text) >= share
	}
	for i, t := range texts {
		if left[t.Label] && hashShare(t.Text) < share {
			held = append(held, i)
		}
	}
	return held
}

// groupFolds is how many folds the groups are divided into. With more of them fits know more of the data, and take longer.
const groupFolds = 4

// foldsOf divides the groups of each label among folds, the largest first, each to the fold that has the fewest of the label's texts. The texts of
// a label with a single group are divided by their hash.
func foldsOf(texts []LabelledText) []int {
	type place struct{ label, group string }
	sizes := map[place]int{}
	groups := map[string]int{} // how many a label has
	for _, t := range texts {
		p := place{t.Label, t.Group}
		if sizes[p] == 0 {
			groups[t.Label]++
		}
		sizes[p]++
	}
	places := slices.SortedFunc(maps.Keys(sizes), func(a, b place) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), strings.Compare(a.label, b.label), strings.Compare(a.group, b.group))
	})
	fold := map[place]int{}
	for n, label := range slices.Sorted(maps.Keys(groups)) {
		var loads [groupFolds]int
		for _, p := range places {
			if p.label != label {
				continue
			}
			// Labels begin with different folds, so that no fold has the largest group of all of them.
			best := n % groupFolds
			for i := range groupFolds {
				if other := (n + i) % groupFolds; loads[other] < loads[best] {
					best = other
				}
			}
			fold[p] = best
			loads[best] += sizes[p]
		}
	}
	out := make([]int, len(texts))
	for i, t := range texts {
		if out[i] = fold[place{t.Label, t.Group}]; groups[t.Label] == 1 {
			out[i] = int(hashShare(t.Text) * groupFolds)
		}
	}
	// With few texts some folds are empty; the others are numbered without gaps.
	used := slices.Compact(slices.Sorted(slices.Values(out)))
	for i, f := range out {
		out[i], _ = slices.BinarySearch(used, f)
	}
	return out
}

// hashShare is a number from 0 up to 1 that follows from a text.
func hashShare(text string) float64 {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, text)
	// The last bits of FNV are its best ones.
	return float64(hash.Sum64()%100003) / 100003
}

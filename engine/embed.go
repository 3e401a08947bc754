package engine

import (
	"errors"
	"fmt"
	"math"
)

// EmbedOptions are the settings of one embedding call.
type EmbedOptions struct {
	// Prompt names a prompt of the model, such as "query", that is put before each text; "" for none.
	Prompt string
	// Dimensions cuts vectors of models trained for it (Matryoshka, arXiv:2205.13147) and norms them anew; 0 for all.
	Dimensions int
	// IDs are texts given as token ids, which are taken as they are: those at i stand for the text at i, unless they are nil. Nil for none.
	IDs [][]int32
}

// Validate checks the options and the texts.
func (o EmbedOptions) Validate(texts []string) error {
	if o.Dimensions < 0 {
		return &OptionError{Option: "Dimensions", Reason: fmt.Sprintf("%d is negative", o.Dimensions)}
	}
	if o.IDs != nil && len(o.IDs) != len(texts) {
		return &OptionError{Option: "TokenIDs", Reason: fmt.Sprintf("they are for %d texts, and there are %d", len(o.IDs), len(texts))}
	}
	if o.IDs != nil && o.Prompt != "" {
		return &OptionError{Option: "TokenIDs", Reason: "token ids are taken as they are, so a prompt cannot go before them"}
	}
	return checkTexts(texts)
}

// Vector makes the vector of one text of what the layers after the pooling gave: it is cut as the options say, and normed where the model
// says so or it is cut.
func (o EmbedOptions) Vector(values []float32, normalize bool) ([]float32, error) {
	for _, x := range values {
		if x != x || math.IsInf(float64(x), 0) {
			return nil, errors.New("embed: a value is not a finite number: the model's weights or their dtype are broken")
		}
	}
	if n := o.Dimensions; n > 0 && n < len(values) {
		values, normalize = values[:n:n], true
	}
	if !normalize {
		return values, nil
	}
	var squares float64
	for _, x := range values {
		squares += float64(x) * float64(x)
	}
	norm := max(math.Sqrt(squares), 1e-12)
	for i := range values {
		values[i] = float32(float64(values[i]) / norm)
	}
	return values, nil
}

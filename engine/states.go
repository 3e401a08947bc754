package engine

import "fmt"

// StatesOptions say which hidden states are wanted.
type StatesOptions struct {
	// Layers are the numbers of layers, 1 for what the first puts out.
	Layers []int
}

// Validate checks the options against a model, and the texts.
func (o StatesOptions) Validate(layers int, texts []string) error {
	if len(o.Layers) == 0 {
		return &OptionError{Option: "Layers", Reason: "no layer was named"}
	}
	for _, l := range o.Layers {
		if l < 1 || l > layers {
			return &OptionError{Option: "Layers", Reason: fmt.Sprintf("the model has layers 1 to %d and no layer %d", layers, l)}
		}
	}
	return checkTexts(texts)
}

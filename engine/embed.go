package engine

import "fmt"

// EmbedOptions are the settings of one embedding call.
type EmbedOptions struct {
	// Prompt names a prompt of the model, such as "query", that is put before each text; "" for none.
	Prompt string
	// Dimensions cuts vectors of models trained for it (Matryoshka, arXiv:2205.13147) and norms them anew; 0 for all.
	Dimensions int
}

// Validate checks the options and the texts.
func (o EmbedOptions) Validate(texts []string) error {
	if o.Dimensions < 0 {
		return &OptionError{Option: "Dimensions", Reason: fmt.Sprintf("%d is negative", o.Dimensions)}
	}
	return checkTexts(texts)
}

package native

import (
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/tokenizer"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/decoder"
)

// Supported reports whether the engine has code for the model in a folder or a GGUF file, and if not, why. It reads
// its config only.
func Supported(path string) error {
	from, err := modelfiles.Find(path)
	if err != nil {
		return err
	}
	c, err := checkpoint.ReadConfig(from)
	if err != nil {
		return err
	}
	return decoder.Supported(c)
}

// ReadsTemplate reports whether the engine can read the model's chat template, and if not, why. A model without one has nothing to
// read.
func ReadsTemplate(path string) error {
	from, err := modelfiles.Find(path)
	if err != nil {
		return err
	}
	template, err := tokenizer.LoadTemplate(from)
	if errors.Is(err, tokenizer.ErrNoTemplate) {
		return nil
	}
	if err == nil {
		template.Close()
	}
	return err
}

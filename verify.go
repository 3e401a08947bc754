package mlx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// Verify checks that the files which loading a model with these options reads exist and have valid headers: those of the model, its
// draft model and its adapter. It loads nothing, and takes as long as reading headers does; a program that loads models later calls it
// when it starts.
func Verify(model string, options ...LoadOption) error {
	o := loadOptionsOf(options)
	err := o.err
	if err == nil {
		err = verify(model, o)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", model, err)
	}
	return nil
}

func verify(model string, o loadOptions) error {
	path, from, err := verifyFiles(model)
	if err != nil {
		return err
	}
	if o.python() && from.GGUF != "" {
		return errGGUF
	}
	if o.engine == EngineNative || from.GGUF != "" {
		if err := nativeSupports(path); err != nil {
			return err
		}
	}
	for _, draft := range []string{o.native.Draft, o.bridge.Draft} {
		if draft == "" {
			continue
		}
		if _, _, err := verifyFiles(draft); err != nil {
			return optionFile("WithDraftModel", draft, err)
		}
	}
	for _, adapter := range []string{o.native.Adapter, o.bridge.Adapter} {
		if adapter == "" {
			continue
		}
		if err := verifyAdapter(adapter); err != nil {
			return optionFile("WithAdapter", adapter, err)
		}
	}
	return nil
}

// verifyFiles finds a model and reads its headers.
func verifyFiles(model string) (path string, from *modelfiles.Source, err error) {
	if path, err = Locate(model); err != nil {
		return "", nil, err
	}
	if from, err = modelfiles.Find(path); err != nil {
		return "", nil, err
	}
	_, err = from.Describe()
	return path, from, err
}

// verifyAdapter looks for the two files of an adapter in mlx-lm's form.
func verifyAdapter(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "adapter_config.json"))
	missing := err != nil
	if !missing {
		_, err = safetensors.ReadFile(filepath.Join(dir, "adapters.safetensors"))
		missing = errors.Is(err, os.ErrNotExist)
	}
	if missing {
		return fmt.Errorf("%w; an adapter is a folder with adapter_config.json and adapters.safetensors, as go-mlx train writes it", err)
	}
	return err
}

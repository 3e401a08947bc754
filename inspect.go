package mlx

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// ModelDescription describes a model by its files.
type ModelDescription struct {
	ModelInfo    // Engine and Reason say which engine LoadModel would take, and why; Device and MLXVersion are empty
	ChatTemplate bool
}

// Inspect describes a model (see LoadModel for what names one) by its config and the headers of its weight files. Nothing is loaded.
func Inspect(model string) (ModelDescription, error) {
	d, err := inspect(model)
	if err != nil {
		return d, whileDoing("inspect", model, unfinished(model, err))
	}
	return d, nil
}

// whileDoing says what was done with a model, which the error may have named already.
func whileDoing(what, model string, err error) error {
	for _, name := range []string{model, absolute(model)} {
		if strings.HasPrefix(err.Error(), name+": ") {
			return fmt.Errorf("%s %w", what, err)
		}
	}
	return fmt.Errorf("%s %s: %w", what, model, err)
}

// absolute is a path from the root, or the path itself where there is no working directory.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func inspect(model string) (d ModelDescription, err error) {
	path, err := Locate(model)
	if err != nil {
		return d, err
	}
	from, err := modelfiles.Find(path)
	if err != nil {
		return d, err
	}
	if d.ModelInfo, err = from.Describe(); err != nil {
		return d, err
	}
	if d.ChatTemplate, err = from.HasTemplate(); err != nil {
		return d, err
	}
	if d.Source, err = describeSource(model, path); err != nil {
		return d, err
	}
	reason := nativeSupports(path)
	switch {
	case reason == nil:
		d.Engine, d.Reason = EngineNative, "the native engine supports this architecture"
	case from.GGUF == "" && errors.Is(reason, ErrUnsupported):
		d.Engine, d.Reason = EnginePython, reason.Error()
	default:
		d.Engine, d.Reason = EngineNone, reason.Error()
	}
	return d, nil
}

package mlx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
)

// LoadModel loads the model in a folder of Hugging Face layout (config.json, *.safetensors,
// tokenizer.json). The caller closes it.
func LoadModel(path string, options ...LoadOption) (TextModel, error) {
	return LoadModelContext(context.Background(), path, options...)
}

// LoadModelContext is LoadModel for loads that may have to be given up.
func LoadModelContext(ctx context.Context, path string, options ...LoadOption) (TextModel, error) {
	o := loadOptions{engine: EngineAuto}
	for _, option := range options {
		option.apply(&o)
	}
	m, err := load(ctx, path, o)
	if err == nil && o.shadow != nil {
		if m.shadow, err = newShadow(ctx, path, o); err != nil {
			err = errors.Join(err, m.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

func load(ctx context.Context, path string, o loadOptions) (*model, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err != nil {
		return nil, fmt.Errorf("not a model folder: %w", err)
	}
	switch o.engine {
	case EngineNative:
		if len(o.pythonOnly) > 0 {
			return nil, &OptionError{Option: o.pythonOnly[0], Reason: "only the python engine has it"}
		}
		return loadNative(ctx, path, o.native, "asked for")
	case EnginePython:
		if len(o.nativeOnly) > 0 {
			return nil, &OptionError{Option: o.nativeOnly[0], Reason: "only the native engine has it"}
		}
		return loadPython(ctx, path, o, "asked for")
	case EngineAuto:
		return loadAuto(ctx, path, o)
	}
	return nil, &OptionError{Option: "WithEngine", Reason: fmt.Sprintf("unknown engine %q; there are auto, native and python", o.engine)}
}

// WeightFileBytes is how large the weight files are that loading a model with these options reads: its own, those of a draft model
// and an adapter, for each worker of the python engine once, and for a shadow's too. It is about what the weights need in memory.
func WeightFileBytes(path string, options ...LoadOption) int64 {
	o := loadOptions{engine: EngineAuto}
	for _, option := range options {
		option.apply(&o)
	}
	one := modelfiles.Bytes(path, "*.safetensors", "*.gguf")
	for _, dir := range []string{o.native.Draft, o.native.Adapter} {
		if dir != "" {
			one += modelfiles.Bytes(dir, "*.safetensors", "*.gguf")
		}
	}
	total := one
	if o.engine == EnginePython || o.engine == EngineAuto && len(o.pythonOnly) > 0 {
		total *= int64(max(1, o.bridge.Workers))
	}
	if o.shadow != nil {
		total += one * int64(max(1, o.shadow.load.bridge.Workers))
	}
	return total
}

// NativeSupport returns nil if the native engine has code for the model in a folder, or why it cannot run it. It reads
// config.json only.
func NativeSupport(path string) error { return nativeSupports(path) }

// loadAuto takes the native engine where it can do what was asked.
func loadAuto(ctx context.Context, path string, o loadOptions) (*model, error) {
	if len(o.pythonOnly) > 0 && len(o.nativeOnly) > 0 {
		return nil, &OptionError{Option: o.nativeOnly[0], Reason: "only the native engine has it, and only the python engine has " + o.pythonOnly[0]}
	}
	if len(o.pythonOnly) > 0 {
		return loadPython(ctx, path, o, "only the python engine has "+strings.Join(o.pythonOnly, " and "))
	}
	reason := nativeSupports(path)
	if reason == nil {
		m, err := loadNative(ctx, path, o.native, "the native engine supports this architecture")
		if err == nil || !errors.Is(err, ErrUnsupported) {
			return m, err
		}
		reason = err // found only in the details of the config
	}
	if !errors.Is(reason, ErrUnsupported) || len(o.nativeOnly) > 0 {
		return nil, reason
	}
	m, err := loadPython(ctx, path, o, reason.Error())
	if err != nil {
		return nil, fmt.Errorf("%w (the python engine was tried because: %w)", err, reason)
	}
	return m, nil
}

func loadPython(ctx context.Context, path string, o loadOptions, reason string) (*model, error) {
	m, err := bridge.Load(ctx, path, o.bridge)
	if err != nil {
		return nil, err
	}
	return &model{engine: m, reason: reason}, nil
}

var _ engine.Engine = (*bridge.Model)(nil)

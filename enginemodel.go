package mlx

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
)

// PromptCacheFiles is implemented by models of the native engine: what WithPromptCache has kept can be written to a file and read again.
//
//	if c, ok := m.(mlx.PromptCacheFiles); ok {
//		err = c.SavePromptCache(ctx, "prompts.safetensors")
//	}
type PromptCacheFiles interface {
	// SavePromptCache writes the prompt cache to a safetensors file.
	SavePromptCache(ctx context.Context, path string) error
	// LoadPromptCache adds the contents of such a file to the prompt cache. The model must be the same; a file of another one, or a
	// broken one, is an error and changes nothing.
	LoadPromptCache(ctx context.Context, path string) error
}

// Supervised is implemented by models of the python engine: their workers can be looked at and renewed.
//
//	if s, ok := m.(mlx.Supervised); ok {
//		fmt.Println(s.Stat().Crashes)
//	}
type Supervised interface {
	// Stat describes the model's workers and its queue.
	Stat() WorkerPool
	// Reset loads the model anew from its folder, for weights that changed, and returns when the first worker has done so. Requests
	// under way end on the old weights. Quarantined requests are tried again.
	Reset(ctx context.Context) error
	// Shutdown refuses new requests, waits until those under way have ended, and closes the model. If ctx ends first, the model is
	// closed at once, requests under way end with ErrClosed, and ctx's error is returned.
	Shutdown(ctx context.Context) error
}

// WorkerPool describes the workers of a model of the python engine; see [bridge.Stat].
type WorkerPool = bridge.Stat

// Shadowed is implemented by models loaded with WithShadow.
type Shadowed interface {
	// Shadow returns what the second engine has seen.
	Shadow() ShadowReport
}

// public is the model as callers get it: with the interfaces that only its engine implements.
func (m *model) public() TextModel {
	switch e := m.engine.(type) {
	case *bridge.Model:
		return pythonModel{m, e}
	case nativeEngine:
		if m.shadow != nil {
			return shadowedModel{nativeModel{m, e}}
		}
		return nativeModel{m, e}
	}
	return m
}

// nativeEngine is the native engine with the methods that only it has. It is an interface because a program may be built without it.
type nativeEngine interface {
	engine.Engine
	PromptCacheFiles
	HiddenStates
}

type nativeModel struct {
	*model
	native nativeEngine
}

func (m nativeModel) SavePromptCache(ctx context.Context, path string) error {
	return named(m.native.SavePromptCache(ctx, path))
}

func (m nativeModel) LoadPromptCache(ctx context.Context, path string) error {
	return named(m.native.LoadPromptCache(ctx, path))
}

func (m nativeModel) States(ctx context.Context, texts []string, options StatesOptions) ([][][]float32, error) {
	states, err := m.native.States(ctx, texts, options)
	return states, named(err)
}

func (m nativeModel) Fingerprint() (string, error) { return m.native.Fingerprint() }

type shadowedModel struct{ nativeModel }

func (m shadowedModel) Shadow() ShadowReport { return m.shadow.report() }

type pythonModel struct {
	*model
	python *bridge.Model
}

func (m pythonModel) Stat() WorkerPool { return m.python.Stat() }

func (m pythonModel) Reset(ctx context.Context) error { return named(m.python.Reset(ctx)) }

func (m pythonModel) Shutdown(ctx context.Context) error {
	return errors.Join(m.python.Shutdown(ctx), m.Close())
}

var (
	_ PromptCacheFiles = nativeModel{}
	_ HiddenStates     = nativeModel{}
	_ Supervised       = pythonModel{}
	_ Shadowed         = shadowedModel{}
)

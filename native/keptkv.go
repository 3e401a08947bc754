package native

import (
	"context"
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

var errNoPromptCache = &engine.OptionError{Option: "WithPromptCache", Reason: "the model was loaded without a prompt cache"}

// SavePromptCache writes the prompt cache to a file.
func (m *Model) SavePromptCache(ctx context.Context, path string) error {
	if m.options.PromptCache == 0 {
		return errNoPromptCache
	}
	return m.inScope(ctx, func(s *mlxc.Scope) error { return m.store.Save(s, path, m.fingerprint) })
}

// LoadPromptCache adds the states of a file to the prompt cache. A file of another model, or a broken one, is
// an error and changes nothing.
func (m *Model) LoadPromptCache(ctx context.Context, path string) error {
	if m.options.PromptCache == 0 {
		return errNoPromptCache
	}
	layout := &m.network.Shape.Layout
	file, err := kv.ReadFile(path, m.fingerprint, m.info.DType, layout, m.encoder.CheckIDs)
	if err != nil {
		return fmt.Errorf("prompt cache %s: %w", path, err)
	}
	return m.inScope(ctx, func(s *mlxc.Scope) error {
		if err := m.owner.Reserve("a prompt cache", func() int64 { return m.options.PromptCache }); err != nil {
			return err
		}
		return m.store.Load(s, file, layout)
	})
}

// inScope runs work on the owner thread in a scope of its own.
func (m *Model) inScope(ctx context.Context, work func(*mlxc.Scope) error) error {
	return m.owner.JobInTurn(ctx, func() (err error) {
		s := m.owner.Lease.NewScope()
		defer func() { err = errors.Join(err, s.Close()) }()
		return work(s)
	})
}

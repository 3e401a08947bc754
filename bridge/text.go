package bridge

import "forge.lthn.ai/core/go-mlx/engine"

// checkIDs refuses token ids that the model does not have.
func (m *Model) checkIDs(ids []int32) error {
	size := m.Info().VocabSize
	for _, id := range ids {
		if id < 0 || size > 0 && int(id) >= size {
			return &engine.TokenError{ID: id, VocabSize: size}
		}
	}
	return nil
}

package turn

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Settings have names in small letters; others are of other programs.
func TestSettingsOfModelsAreReadByTheirExactNames(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"config.json":            `{"model_type": "llama", "max_position_embeddings": 9, "Model_Type": "other", "MAX_POSITION_EMBEDDINGS": 1, "x": NaN}`,
		"generation_config.json": "\ufeff" + `{"temperature": 0.5, "Temperature": 9, "Top_K": 3, "y": [Infinity]}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	var book FactBook
	facts, err := book.Of(dir)
	require.NoError(t, err)
	require.Equal(t, "llama", facts.Architecture)
	require.Equal(t, 9, facts.ContextLength)
	require.InDelta(t, 0.5, *facts.defaults.Temperature, 1e-6)
	require.Nil(t, facts.defaults.TopK)
}

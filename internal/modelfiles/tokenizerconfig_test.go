package modelfiles

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSpecialTokensAreFoundWhereTransformersFindsThem(t *testing.T) {
	const older = "\ufeff" + `{"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "additional_special_tokens": ["<x>"]}`
	for name, c := range map[string]struct {
		config, older string // "" for no such file
		want          map[string]string
	}{
		"none":          {"", "", map[string]string{}},
		"config":        {`{"bos_token": {"content": "<b>"}, "eos_token": null}`, "", map[string]string{"bos_token": "<b>"}},
		"older only":    {"", older, map[string]string{"bos_token": "<s>", "eos_token": "</s>"}},
		"older first":   {`{"bos_token": "<b>", "pad_token": "<p>"}`, older, map[string]string{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<p>"}},
		"newer config":  {`{"bos_token": null, "added_tokens_decoder": {}}`, older, map[string]string{}},
		"nothing older": {`{"bos_token": "<b>"}`, `{"bos_token": null}`, map[string]string{"bos_token": "<b>"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"tokenizer_config.json": c.config, "special_tokens_map.json": c.older} {
				if text != "" {
					require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
				}
			}
			got, err := (&Source{Dir: dir}).SpecialTokens()
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

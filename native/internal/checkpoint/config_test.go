package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestEndTokensOfConfigs(t *testing.T) {
	for name, c := range map[string]struct {
		config, generation string // the value of eos_token_id; "" for none
		want               []int32
	}{
		"none":                           {"", "", nil},
		"one":                            {"7", "", []int32{7}},
		"several":                        {"[7, 8]", "", []int32{7, 8}},
		"of generation":                  {"7", "[8, 9]", []int32{8, 9}},
		"zero":                           {"", "0", []int32{0}},
		"null":                           {"null", "", nil},
		"null of generation":             {"7", "null", []int32{7}},
		"nothing in generation's list":   {"7", "[]", []int32{7}},
		"null in a list":                 {"[null, 7]", "", []int32{7}},
		"only null in generation's list": {"7", "[null]", []int32{7}},
		"null in generation's list":      {"7", "[8, null, 9]", []int32{8, 9}},
		"as Python counts":               {"7.0", "[8.0, 1e1]", []int32{8, 10}},
		"more than any vocabulary has":   {"99999999999999999999", "", []int32{-1}},
		"none by number":                 {"7", "-1", []int32{-1}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(file, more, eos string) {
				if eos != "" {
					more += `, "eos_token_id": ` + eos
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte("{"+more+"}"), 0o644))
			}
			write("config.json", `"model_type": "llama"`, c.config)
			if c.generation != "" {
				write("generation_config.json", `"a": 1`, c.generation)
			}
			source, err := modelfiles.Find(dir)
			require.NoError(t, err)
			cfg, err := ReadConfig(source)
			require.NoError(t, err)
			require.Equal(t, c.want, []int32(cfg.EOS))
		})
	}
}

func TestEndTokensAreReadByTheirExactName(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type": "llama", "eos_token_id": 7, "EOS_TOKEN_ID": 1, "eoſ_token_id": 2}`), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(`{"EOS_token_id": [9]}`), 0o644))
	source, err := modelfiles.Find(dir)
	require.NoError(t, err)
	cfg, err := ReadConfig(source)
	require.NoError(t, err)
	require.Equal(t, []int32{7}, []int32(cfg.EOS))
}

// Sizes may be written with a point; a text model that is none is told as such.
func TestOtherNumbersAndPartsOfConfigs(t *testing.T) {
	read := func(text string) (*Config, error) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644))
		source, err := modelfiles.Find(dir)
		require.NoError(t, err)
		return ReadConfig(source)
	}
	cfg, err := read(`{"model_type": "llama", "max_position_embeddings": 2048.0, "other": 1e999}`)
	require.NoError(t, err)
	require.Equal(t, 2048, cfg.Context)
	for _, text := range []string{"null", `"x"`, "[]"} {
		_, err := read(`{"model_type": "gemma3", "text_config": ` + text + `}`)
		require.ErrorContains(t, err, "text_config, which should be an object")
	}
}

func TestInvalidEndTokensAreRefused(t *testing.T) {
	for _, value := range []any{"1", 1.5, map[string]any{}, []any{"x"}, true} {
		dir := testenv.CopyModel(t)
		testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["eos_token_id"] = value })
		source, err := modelfiles.Find(dir)
		require.NoError(t, err)
		_, err = ReadConfig(source)
		require.ErrorContains(t, err, "config.json", "%v", value)
	}
}

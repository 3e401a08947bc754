package mlx

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// A template that the native engine cannot read sends auto to Python, whose Jinja may know it; without Python only chats are lost.
func TestAnUnreadableTemplateSendsAutoToPython(t *testing.T) {
	dir := testenv.CopyModel(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte("{% nonsense %}"), 0o644))
	for python, want := range map[string]string{testenv.Python(t): "python", "/none": "native"} {
		t.Setenv("GO_MLX_PYTHON", python)
		m, err := LoadModel(dir)
		require.NoError(t, err)
		require.Equal(t, want, string(m.Info().Engine))
		if want == "python" {
			require.Contains(t, m.Info().Reason, "chat template")
		}
		require.Contains(t, m.Info().Source, "safetensors in "+dir)
		require.NoError(t, m.Close())
	}
}

func TestGGUFFilesAreForTheNativeEngine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.gguf")
	require.NoError(t, os.WriteFile(file, []byte("GGUF"), 0o644))
	for _, option := range []LoadOption{WithEngine(EnginePython), WithPython(Workers(2))} {
		_, err := LoadModel(file, option)
		var bad *OptionError
		require.ErrorAs(t, err, &bad)
		require.ErrorContains(t, err, "go-mlx convert m.gguf")
	}
	t.Chdir(filepath.Dir(file))
	for _, name := range []string{file, "m.gguf"} { // an error names the file once
		_, err := LoadModel(name)
		require.ErrorContains(t, err, "load "+file+": malformed GGUF file")
		_, err = Inspect(name)
		require.ErrorContains(t, err, "inspect "+file+": malformed GGUF file")
	}
	_, err := LoadModel("org/none")
	require.ErrorContains(t, err, "go-mlx pull org/none")
	t.Chdir(testenv.Model(t))
	_, err = LoadModel("")
	require.ErrorContains(t, err, "no model is named", "a variable that is not set is not the working directory")
}

// A shell leaves ~ as it is in quotes and after a =.
func TestPathsMayBeginAtHome(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("HF_HOME", "~/none")
	require.NoError(t, os.CopyFS(filepath.Join(home, "my models", "one"), os.DirFS(testenv.Model(t))))
	found, err := Locate("~/my models/one")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(home, "my models", "one"), found)
	d, err := Inspect("~/my models/one")
	require.NoError(t, err)
	require.Equal(t, "safetensors in "+found, d.Source)
	m, err := LoadModel("~/my models/one", WithEngine(EngineNative))
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.Positive(t, WeightFileBytes("~/my models/one"))
	_, err = LoadModel("~/my models/one", WithEngine(EngineNative), WithAdapter("~/none"))
	require.ErrorContains(t, err, filepath.Join(home, "none"))
	// What has that very name comes first.
	t.Chdir(t.TempDir())
	require.NoError(t, os.Mkdir("~", 0o755))
	found, err = Locate("~")
	require.NoError(t, err)
	require.Equal(t, "~", filepath.Base(found))
}

package native

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
)

// rewrite changes the tensors of a model folder.
func rewrite(t *testing.T, dir string, change func(s *mlxc.Scope, tensors map[string]*mlxc.Array)) {
	t.Helper()
	rewriteFile(t, filepath.Join(dir, "model.safetensors"), change)
}

// rewriteFile changes the tensors of a file.
func rewriteFile(t *testing.T, path string, change func(s *mlxc.Scope, tensors map[string]*mlxc.Array)) {
	t.Helper()
	lease, err := mlxc.Acquire()
	require.NoError(t, err)
	defer lease.Release(func() {})
	var saveErr error
	require.NoError(t, lease.Do(context.Background(), func() {
		s := lease.NewScope()
		defer s.Close()
		tensors := s.LoadSafetensors(path)
		change(s, tensors)
		if saveErr = s.SaveSafetensors(path+".new", tensors, nil); saveErr == nil {
			saveErr = os.Rename(path+".new.safetensors", path)
		}
	}))
	require.NoError(t, saveErr)
}

func editConfig(t *testing.T, dir string, change func(map[string]any)) {
	t.Helper()
	testenv.EditJSON(t, dir, "config.json", change)
}

func loadError(t *testing.T, dir string) error {
	t.Helper()
	before := mlxtest.Measure(t)
	m, err := Load(t.Context(), dir, engine.NativeOptions{})
	require.Error(t, err)
	require.Nil(t, m)
	require.Equal(t, before, mlxtest.Measure(t), "a failed load gives everything back")
	return err
}

func TestEveryProblemOfACheckpointIsListedAtOnce(t *testing.T) {
	dir := testenv.CopyModel(t)
	rewrite(t, dir, func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
		delete(tensors, "model.layers.2.mlp.up_proj.weight")
		delete(tensors, "model.layers.5.self_attn.q_norm.weight")
		tensors["model.norm.weight"] = s.Zeros(mlxc.BFloat16, 7)
		tensors["model.layers.9.what"] = s.Zeros(mlxc.BFloat16, 2)
	})
	err := loadError(t, dir)
	var bad *engine.CheckpointError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, []string{
		"missing tensor model.layers.2.mlp.up_proj.weight [256 128]",
		"missing tensor model.layers.5.self_attn.q_norm.weight [32]",
		"tensor model.norm.weight has shape [7], want [128]",
		"unknown tensor model.layers.9.what [2]",
	}, bad.Problems)
}

func TestDamagedFoldersAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"truncated weights": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors"), 2_000_000))
		}, "truncated"},
		"weights cut in the header": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors"), 100))
		}, "header of"},
		"no weights": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
		}, "no model*.safetensors"},
		"no config": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "config.json")))
		}, "not a model folder"},
		"no tokenizer": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
		}, "tokenizer.json"},
		"tokenizer is no JSON": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte("{"), 0o644))
		}, "tokenizer"},
		"config is no JSON": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o644))
		}, "config.json"},
		"unknown architecture": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["model_type"] = "rwkv9" })
		}, `"rwkv9"`},
		"unknown rope scaling": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["rope_scaling"] = map[string]any{"rope_type": "yarn", "factor": 4} })
		}, "yarn"},
		"heads do not divide": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["num_key_value_heads"] = 3 })
		}, "no multiple"},
		"negative size": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["hidden_size"] = -1 })
		}, "hidden_size -1"},
		"other layer count": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["num_hidden_layers"] = 7 })
		}, "missing tensor model.layers.6"},
		"more layers than anything could list": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["num_hidden_layers"] = 1_000_000_000_000 })
		}, "num_hidden_layers 1000000000000 is more than any model has"},
		"more layers than tensors": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["num_hidden_layers"] = 1 << 23 })
		}, "num_hidden_layers is 8388608, and the weights are only"},
		"huge heads": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["head_dim"] = 1 << 40 })
		}, "head_dim 1099511627776"},
		"negative epsilon": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["rms_norm_eps"] = -1 })
		}, "rms_norm_eps -1"},
		"infinite wavelengths": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["rope_theta"] = 1e300 })
		}, "rope_theta 1e+300"},
		"no wavelengths": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["rope_local_base_freq"] = 0 })
		}, "rope_local_base_freq 0"},
		"a size in quotes": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["hidden_size"] = "128" })
		}, "config.json: hidden_size is a string and should be a whole number"},
		"half a size": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["vocab_size"] = 4160.5 })
		}, "vocab_size is the number 4160.5 and should be a whole number"},
		"end tokens of another kind": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["eos_token_id"] = map[string]any{} })
		}, "eos_token_id is an object and should be"},
		"scaling of another kind": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { c["rope_scaling"] = "linear" })
		}, "rope_scaling is a string and should be an object"},
		"config is a list": {func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("[]"), 0o644))
		}, "it is an array and should be an object"},
		"a shard of two": {func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "model-00001-of-00002.safetensors")))
		}, "model-00002-of-00002.safetensors is missing"},
		"no model_type": {func(t *testing.T, dir string) {
			editConfig(t, dir, func(c map[string]any) { delete(c, "model_type") })
		}, "no model_type"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.CopyModel(t)
			c.damage(t, dir)
			require.ErrorContains(t, loadError(t, dir), c.want)
		})
	}
}

// What is not needed to load a model is not needed to describe it either.
func TestSettingsThatNobodyReadsMayBeOfAnyKind(t *testing.T) {
	for _, setting := range []string{"quantization", "text_config", "torch_dtype"} {
		for _, value := range []any{7, "x", []int{1}, nil} {
			dir := testenv.CopyModel(t)
			editConfig(t, dir, func(c map[string]any) { c[setting] = value })
			m, err := Load(t.Context(), dir, engine.NativeOptions{})
			require.NoError(t, err, "%s %v", setting, value)
			require.NoError(t, m.Close())
			from, err := modelfiles.Find(dir)
			require.NoError(t, err)
			info, err := from.Describe()
			require.NoError(t, err, "%s %v", setting, value)
			require.Equal(t, 6, info.Layers)
		}
	}
}

func TestUnsupportedModelsAreTold(t *testing.T) {
	require.NoError(t, Supported(testenv.Model(t)))
	dir := testenv.CopyModel(t)
	editConfig(t, dir, func(c map[string]any) { c["model_type"] = "rwkv9" })
	require.ErrorIs(t, Supported(dir), engine.ErrUnsupported)
	require.ErrorIs(t, loadError(t, dir), engine.ErrUnsupported)
}

// The text part of a multimodal checkpoint: nested config, prefixed names, tensors of a vision tower.
func TestMultimodalCheckpointsLoadTheirTextPart(t *testing.T) {
	plain := open(t)
	want, _ := collect(t, plain, "Please check", func(o *engine.GenerateOptions) { o.MaxTokens = 20 })
	dir := testenv.CopyModel(t)
	editConfig(t, dir, func(c map[string]any) {
		text := map[string]any{}
		for k, v := range c {
			text[k] = v
			if k != "eos_token_id" {
				delete(c, k)
			}
		}
		c["model_type"], c["text_config"] = "gemma3", text
	})
	rewrite(t, dir, func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
		for name, a := range maps.Clone(tensors) {
			delete(tensors, name)
			tensors["language_model."+name] = a
		}
		tensors["vision_tower.x.weight"] = s.Zeros(mlxc.BFloat16, 2)
	})
	m, err := Load(t.Context(), dir, engine.NativeOptions{})
	require.NoError(t, err)
	defer m.Close()
	got, _ := collect(t, m, "Please check", func(o *engine.GenerateOptions) { o.MaxTokens = 20 })
	require.Equal(t, want, got)
}

// A folder's name is no pattern.
func TestFoldersWithAnyNameLoad(t *testing.T) {
	for _, name := range []string{"gemma[4bit]", "a[b", "*", `a\b`} {
		dir := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.CopyFS(dir, os.DirFS(testenv.Model(t))))
		m := openPath(t, dir, engine.NativeOptions{PromptCache: 1 << 20})
		require.Positive(t, m.Info().WeightBytes, name)
		ids, _ := collect(t, m, "Please", func(o *engine.GenerateOptions) { o.MaxTokens = 2 })
		require.Len(t, ids, 2)
	}
}

func TestShardedCheckpointsLoad(t *testing.T) {
	plain := open(t)
	want, _ := collect(t, plain, "Please check", func(o *engine.GenerateOptions) { o.MaxTokens = 10 })
	dir := testenv.CopyModel(t)
	path := filepath.Join(dir, "model.safetensors")
	header, err := safetensors.ReadFile(path)
	require.NoError(t, err)
	for i, shard := range []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"} {
		require.NoError(t, os.CopyFS(filepath.Join(dir, "part"), os.DirFS(testenv.Model(t))))
		rewrite(t, filepath.Join(dir, "part"), func(_ *mlxc.Scope, tensors map[string]*mlxc.Array) {
			n := 0
			for name := range header {
				if len(name)%2 != i {
					delete(tensors, name)
					n++
				}
			}
			require.Positive(t, n)
		})
		require.NoError(t, os.Rename(filepath.Join(dir, "part", "model.safetensors"), filepath.Join(dir, shard)))
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "part")))
	}
	require.NoError(t, os.Remove(path))
	m, err := Load(t.Context(), dir, engine.NativeOptions{})
	require.NoError(t, err)
	defer m.Close()
	got, _ := collect(t, m, "Please check", func(o *engine.GenerateOptions) { o.MaxTokens = 10 })
	require.Equal(t, want, got)
}

func TestInfoDescribesTheModel(t *testing.T) {
	m := open(t)
	info := m.Info()
	require.Equal(t, "gemma3_text", info.Architecture)
	require.Equal(t, "bfloat16", info.DType)
	require.Equal(t, 6, info.Layers)
	require.Equal(t, 2048, info.ContextLength)
	require.Equal(t, info.Parameters*2, info.WeightBytes)
	metrics, err := m.Metrics(t.Context())
	require.NoError(t, err)
	require.Equal(t, info.WeightBytes, metrics.WeightBytes)
	require.GreaterOrEqual(t, metrics.ActiveBytes, info.WeightBytes)
}

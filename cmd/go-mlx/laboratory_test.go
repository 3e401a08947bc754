package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/internal/parity"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestParitySaysWhatItCannotCompare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "m.gguf")
	require.NoError(t, os.WriteFile(file, []byte("GGUF"), 0o600))
	for path, want := range map[string]string{file: "go-mlx convert", file + "x": "not a model folder", os.DevNull: "not a model folder"} {
		_, _, err := run(t, "", "parity", path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
	}
}

func TestParityPrintsWritesAndChecks(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	dir := t.TempDir()
	prompts, page, result := filepath.Join(dir, "prompts.txt"), filepath.Join(dir, "page.html"), filepath.Join(dir, "result.json")
	require.NoError(t, os.WriteFile(prompts, []byte("The goalkeeper saved a penalty\nWo ist der Bahnhof?\n"), 0o644))
	model := testenv.CopyModel(t)
	args := []string{"parity", model, "--prompts", prompts, "-l", labels(), "-n", "4", "--rows", "2"}
	out, _, err := run(t, "", append(args, "--json", "--html", page)...)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(result, []byte(out), 0o644))
	var report parity.Report
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	require.True(t, report.Passed)
	require.NotEmpty(t, report.Key["model.safetensors"])
	require.FileExists(t, page)

	out, _, err = run(t, "", append(args, "--check", result)...)
	require.NoError(t, err)
	require.Contains(t, out, "still holds")
	testenv.EditJSON(t, model, "config.json", func(c map[string]any) { c["rope_theta"] = 5 })
	_, _, err = run(t, "", append(args, "--check", result)...)
	require.ErrorContains(t, err, "stale: config.json was")
	require.False(t, isUsage(err))
}

// The example's whole way, and what is wrong with a damaged copy of its checkpoint.
func TestProbeAndRunANewArchitecture(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	dir := filepath.Join(t.TempDir(), "parallel-blocks")
	made, err := exec.Command(testenv.Python(t), filepath.Join(testenv.Root(), "examples", "new-architecture", "make_checkpoint.py"), dir).CombinedOutput()
	require.NoError(t, err, string(made))

	_, _, err = run(t, "", "probe", dir)
	require.ErrorIs(t, err, errNoEngine, "code in the folder must not run unasked")
	out, _, err := run(t, "", "probe", dir, "--trust-remote-code")
	require.NoError(t, err)
	for _, want := range []string{"model.py", "smoke test     passed", "0 do not fit", "output_scale 64", "relu2", "nearest native architecture: qwen3", "- mlp.gate_proj Linear"} {
		require.Contains(t, out, want)
	}
	_, _, err = run(t, "", "generate", "-q", "-m", dir, "--trust-remote-code", "-n", "3", "Hello")
	require.NoError(t, err)

	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["num_hidden_layers"], c["intermediate_size"] = 4, 128 })
	out, _, err = run(t, "", "probe", dir, "--trust-remote-code", "--json")
	require.ErrorIs(t, err, errNoEngine)
	var probe bridge.Probe
	require.NoError(t, json.Unmarshal([]byte(out), &probe))
	require.True(t, probe.Supported)
	require.Contains(t, probe.Missing, "layers.3.norm.weight")
	require.Len(t, probe.Misshaped, 6)
	require.Equal(t, bridge.Mismatch{Name: "layers.0.mlp.down_proj.weight", Shape: []int{64, 256}, Wanted: []int{64, 128}}, probe.Misshaped[0])
}

func TestConvertQuantisesAndRefuses(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	out := filepath.Join(t.TempDir(), "small")
	_, _, err := run(t, "", "convert", testenv.Model(t), "--out", out, "--bits", "4", "-q")
	require.NoError(t, err)
	text, _, err := run(t, "The goalkeeper saved a penalty\n", "classify", "-q", "-m", out, "-l", labels())
	require.NoError(t, err)
	require.Regexp(t, "^sport", text)
	text, _, err = run(t, "", "info", "-m", out)
	require.NoError(t, err)
	require.Contains(t, text, "4-bit")

	_, _, err = run(t, "", "convert", testenv.Model(t), "--out", out, "--bits", "4")
	require.ErrorContains(t, err, "exists already")
	for _, args := range [][]string{{}, {"--bits", "4", "--dequantize"}, {"--adapter", "x", "--bits", "4"}} {
		_, _, err = run(t, "", append([]string{"convert", testenv.Model(t), "--out", out + "2"}, args...)...)
		require.True(t, isUsage(err), args)
	}
	_, _, err = run(t, "", "convert", "/nonexistent", "--out", out+"2", "--bits", "4")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = run(t, "", "convert", testenv.Model(t), "--out", out+"2", "--bits", "7", "-q")
	require.Error(t, err)
	require.NoDirExists(t, out+"2")
}

// What neither engine loads is reported on, too: that is what probe is for.
func TestProbeReportsOnAGGUFOfAnotherArchitecture(t *testing.T) {
	text := func(s string) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, uint64(len(s))), s...)
	}
	file := append([]byte("GGUF"), 3, 0, 0, 0)
	file = binary.LittleEndian.AppendUint64(file, 0)                                                   // tensors
	file = binary.LittleEndian.AppendUint64(file, 1)                                                   // metadata
	file = append(append(append(file, text("general.architecture")...), 8, 0, 0, 0), text("mamba")...) // 8 is a string
	path := filepath.Join(t.TempDir(), "mamba.gguf")
	require.NoError(t, os.WriteFile(path, file, 0o644))
	out, _, err := run(t, "", "probe", path)
	require.ErrorIs(t, err, errNoEngine)
	require.Regexp(t, "model type +mamba\n", out)
	require.Regexp(t, "native engine .*mamba", out)
}

func TestTrainLogsPlotsAndMerges(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	dir := t.TempDir()
	data, out, plot, merged := filepath.Join(dir, "data"), filepath.Join(dir, "adapter"), filepath.Join(dir, "loss.svg"), filepath.Join(dir, "merged")
	require.NoError(t, os.Mkdir(data, 0o755))
	lines := strings.Repeat(`{"prompt": "a goal", "completion": "sport"}`+"\n", 8)
	for _, name := range []string{"train.jsonl", "valid.jsonl"} {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(lines), 0o644))
	}
	text, _, err := run(t, "", "train", testenv.Model(t), "--data", data, "--out", out, "--iters", "6", "--eval-every", "3", "--learning-rate", "0.01",
		"--num-layers", "2", "--keys", "self_attn.q_proj,mlp.up_proj", "--plot", plot)
	require.NoError(t, err)
	require.Contains(t, text, "iteration 6: loss")
	require.Contains(t, text, "validation")
	log, err := os.ReadFile(filepath.Join(out, "training_log.jsonl"))
	require.NoError(t, err)
	require.Equal(t, 6, strings.Count(string(log), "\n"))
	svg, err := os.ReadFile(plot)
	require.NoError(t, err)
	require.Contains(t, string(svg), "validation loss")

	_, _, err = run(t, "", "convert", testenv.Model(t), "--adapter", out, "--out", merged, "-q")
	require.NoError(t, err)
	adapted, _, err := run(t, "a goal\n", "classify", "-q", "-m", testenv.Model(t), "--adapter", out, "-l", labels(), "--json")
	require.NoError(t, err)
	fused, _, err := run(t, "a goal\n", "classify", "-q", "-m", merged, "-l", labels(), "--json")
	require.NoError(t, err)
	var a, b struct {
		Label  string
		Margin float64
	}
	require.NoError(t, json.Unmarshal([]byte(adapted), &a))
	require.NoError(t, json.Unmarshal([]byte(fused), &b))
	require.Equal(t, a.Label, b.Label)
	require.InDelta(t, a.Margin, b.Margin, 0.1)

	_, _, err = run(t, "", "train", testenv.Model(t), "--data", data, "--out", out, "--iters", "0")
	require.True(t, isUsage(err))
	_, _, err = run(t, "", "train", testenv.Model(t), "--data", data, "--out", out, "-e", "python", "--packed")
	require.ErrorContains(t, err, "--packed")
}

// mlx-lm's tuner trains the model that the worker would load, of whichever transformers the config is.
func TestTheTunerReadsNewerConfigs(t *testing.T) {
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	data := t.TempDir()
	for _, name := range []string{"train.jsonl", "valid.jsonl"} {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(strings.Repeat(`{"text": "Where can I find the next one, please?"}`+"\n", 4)), 0o644))
	}
	trained := func(change func(config map[string]any)) []byte {
		dir, out := testenv.CopyModel(t), filepath.Join(t.TempDir(), "adapter")
		testenv.EditJSON(t, dir, "config.json", change)
		_, _, err := run(t, "", "train", dir, "-e", "python", "--data", data, "--out", out, "--iters", "2", "--batch-size", "2", "--num-layers", "1")
		require.NoError(t, err)
		weights, err := os.ReadFile(filepath.Join(out, "adapters.safetensors"))
		require.NoError(t, err)
		return weights
	}
	older := trained(func(c map[string]any) { c["rope_theta"], c["rope_local_base_freq"] = 50.0, 77.0 })
	require.Equal(t, older, trained(func(c map[string]any) {
		delete(c, "rope_theta")
		delete(c, "rope_local_base_freq")
		c["rope_parameters"] = map[string]any{"full_attention": map[string]any{"rope_type": "default", "rope_theta": 50.0},
			"sliding_attention": map[string]any{"rope_type": "default", "rope_theta": 77.0}}
	}))
	require.NotEqual(t, older, trained(func(map[string]any) {}), "the settings count")
}

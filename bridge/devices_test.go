//go:build unix

package bridge

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestWorkersAreSpreadOverDevices(t *testing.T) {
	d := newDevices([]string{"gpu:0", "gpu:1", "cpu"})
	var got []string
	var releases []func()
	for range 4 {
		name, release := d.take()
		got, releases = append(got, name), append(releases, release)
	}
	require.Equal(t, []string{"gpu:0", "gpu:1", "cpu", "gpu:0"}, got)
	releases[1]()
	releases[1]()
	name, _ := d.take()
	require.Equal(t, "gpu:1", name)
	require.Equal(t, []string{deviceVariable + "=gpu", "CUDA_VISIBLE_DEVICES=1"}, deviceEnvironment("gpu:1"))
	require.Equal(t, []string{deviceVariable + "=cpu"}, deviceEnvironment("cpu"))
	require.Empty(t, deviceEnvironment(""))
	name, release := newDevices(nil).take()
	require.Empty(t, name)
	release()
}

func TestBadWorkerOptionsAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for name, o := range map[string][]Options{
		"Devices":     {{Devices: []string{"tpu"}}, {Devices: []string{"gpu:"}}, {Devices: []string{"cpu:1"}}, {Devices: []string{"gpu:0,1"}}, {Devices: []string{""}}},
		"Environment": {{Environment: []string{"X"}}, {Environment: []string{"=x"}}, {Environment: []string{"X=\x00"}}},
		"Dir":         {{Dir: file}, {Dir: file + "/none"}},
	} {
		for _, o := range o {
			_, err := o.withDefaults()
			var option *engine.OptionError
			require.ErrorAs(t, err, &option)
			require.Equal(t, name, option.Option)
		}
	}
}

// What a worker sees of its options, told by a model whose own code looks.
func TestRealWorkersHaveTheirDirectoryEnvironmentAndDevice(t *testing.T) {
	dir := t.TempDir()
	m := loadReal(t, []func(*Options){func(o *Options) {
		o.Dir, o.Environment, o.Devices = dir, []string{"GO_MLX_TEST=a=b", "HF_HUB_OFFLINE=0"}, []string{"cpu"}
	}})
	require.Equal(t, "cpu", m.Stat().Workers[0].Device)
	require.Equal(t, "cpu:0", m.Info().Device)
	pid := m.Stat().Workers[0].PID
	if _, err := os.Stat("/proc/self/environ"); err != nil {
		return // only Linux shows the rest
	}
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	require.NoError(t, err)
	real, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	require.Equal(t, real, cwd)
	env, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	require.NoError(t, err)
	require.Contains(t, string(env), "GO_MLX_TEST=a=b\x00")
	require.Contains(t, string(env), "HF_HUB_OFFLINE=0\x00")
	require.NotContains(t, string(env), "HF_HUB_OFFLINE=1\x00")
}

func TestRealADeviceThatIsNotThereIsTold(t *testing.T) {
	o := Options{Python: testenv.Python(t), Devices: []string{"gpu"}}
	m, err := Load(t.Context(), testenv.Model(t), o)
	if err == nil { // this machine has one
		require.Contains(t, m.Info().Device, "gpu")
		require.NoError(t, m.Close())
		return
	}
	require.ErrorContains(t, err, "has no device 'gpu' here")
}

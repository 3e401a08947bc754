package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// configure writes the user's configuration file.
func configure(t *testing.T, text string) string {
	t.Helper()
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("XDG_CONFIG_DIRS", home)
	path := filepath.Join(home, "go-mlx", "config.toml")
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

// tokens is how many tokens `generate --json` prints.
func tokens(t *testing.T, args ...string) int {
	t.Helper()
	out, _, err := run(t, "", append([]string{"generate", "--quiet", "--json"}, args...)...)
	require.NoError(t, err)
	return strings.Count(out, "\n")
}

// The command line comes before the environment, that before the command's table, and that before the top of the file.
func TestSettingsHaveAnOrder(t *testing.T) {
	configure(t, "max-tokens = 2\nmodel = '"+testenv.Model(t)+"'\n[generate]\nmax-tokens = 3\n[chat]\nmax-tokens = 9\n")
	require.Equal(t, 3, tokens(t, "Where can I"))
	t.Setenv("GO_MLX_MAX_TOKENS", "4")
	require.Equal(t, 4, tokens(t, "Where can I"))
	require.Equal(t, 5, tokens(t, "Where can I", "--max-tokens", "5"))

	configure(t, "max-tokens = 2\n")
	t.Setenv("GO_MLX_MAX_TOKENS", "")
	require.Equal(t, 2, tokens(t, "-m", testenv.Model(t), "Where can I"), "the top of the file")
}

func TestAModelOfTheSettingsYieldsToAnArgument(t *testing.T) {
	t.Setenv("GO_MLX_MODEL", filepath.Join(t.TempDir(), "none"))
	_, _, err := run(t, "", "info")
	require.ErrorIs(t, err, os.ErrNotExist)
	out, _, err := run(t, "", "info", "--json", testenv.Model(t))
	require.NoError(t, err)
	var info struct{ Source string }
	require.NoError(t, json.Unmarshal([]byte(out), &info))
	require.Equal(t, 1, tokens(t, "-n", "1", testenv.Model(t), "Where can I"), "model and prompt")
	t.Setenv("GO_MLX_MODEL", testenv.Model(t))
	require.Equal(t, 1, tokens(t, "-n", "1", "Where can I"), "prompt")
}

func TestSettingsMakeRequiredFlags(t *testing.T) {
	configure(t, "[classify]\nlabels = '"+labels()+"'\n")
	out, _, err := run(t, "The goalkeeper saved a penalty\n", "classify", "-q", testenv.Model(t))
	require.NoError(t, err)
	require.Contains(t, out, "sport")
}

func TestSettingsOfListsAndGroups(t *testing.T) {
	configure(t, "[generate]\nchoice = [\"red\", \"green, or so\"]\n[serve]\nalias = [\"a*=x\", \"b=x\"]\n")
	out, _, err := run(t, "", "generate", "-q", testenv.Model(t), "The colour is")
	require.NoError(t, err)
	require.Contains(t, []string{"red", "green, or so"}, strings.TrimSpace(out))
	t.Setenv("GO_MLX_CHOICE", "blue\nbluer")
	out, _, err = run(t, "", "generate", "-q", testenv.Model(t), "The colour is")
	require.NoError(t, err)
	require.Contains(t, out, "blue")
	out, _, err = run(t, "", "generate", "-q", testenv.Model(t), "--regex", "[0-9]{3}", "The colour is")
	require.NoError(t, err, "a flag of the command line pushes aside what excludes it")
	require.Regexp(t, `^[0-9]{3}\s$`, out)
}

func TestSettingsReachCommandsOfCommands(t *testing.T) {
	configure(t, "[train]\ndata = 'of-train'\n[classifier.train]\ndata = 'of-classifier'\nout = 'c.safetensors'\nlayer = [1]\n")
	_, _, err := run(t, "", "classifier", "train", testenv.Model(t))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "of-classifier")
	require.False(t, isUsage(err))
	t.Setenv("GO_MLX_DATA", "of-the-environment")
	_, _, err = run(t, "", "classifier", "train", testenv.Model(t))
	require.ErrorContains(t, err, "of-the-environment")
}

func TestMistakesInSettingsAreNamed(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown flag":         {"max-token = 3", "no command has a flag --max-token"},
		"unknown command":      {"[generat]\nx = 1", "there is no command generat"},
		"not its flag":         {"[generate]\nport = 1", "generate has no flag --port"},
		"not the inner's flag": {"[classifier.train]\nport = 1", "classifier.train has no flag --port"},
		"not TOML":             {"a = 1\nb = = 2", "config.toml, line 2"},
		"wrong type":           {"max-tokens = \"many\"", "max-tokens in "},
		"another file":         {"config = \"x\"", "config is only for the command line"},
		"help":                 {"[generate]\nhelp = true", "help is only for the command line"},
		"a list for one":       {"max-tokens = [1]", "this is a list"},
		"a table in a table":   {"[generate]\nstop = {a = 1}", "a flag is a text"},
	} {
		t.Run(name, func(t *testing.T) {
			configure(t, c.text)
			_, _, err := run(t, "", "generate", "-q", testenv.Model(t), "x")
			require.ErrorContains(t, err, c.want)
			require.True(t, isUsage(err))
		})
	}
	t.Run("environment", func(t *testing.T) {
		t.Setenv("GO_MLX_MAX_TOKENS", "many")
		_, _, err := run(t, "", "generate", "-q", testenv.Model(t), "x")
		require.ErrorContains(t, err, "GO_MLX_MAX_TOKENS")
		require.True(t, isUsage(err))
	})
	t.Run("no such file", func(t *testing.T) {
		_, _, err := run(t, "", "generate", "--config", filepath.Join(t.TempDir(), "none.toml"), testenv.Model(t), "x")
		require.ErrorContains(t, err, "there is no configuration file")
	})
}

// A value may be of the right kind and still be wrong, which shows only when it is used.
func TestWrongValuesOfSettingsSayWhereTheyAre(t *testing.T) {
	for flag, c := range map[string]struct {
		value string
		args  []string
	}{
		"temperature": {"-4", []string{"generate", testenv.Model(t), "x"}}, "max-tokens": {"0", []string{"chat", testenv.Model(t)}}, "engine": {"bogus", []string{"embed", testenv.Model(t)}},
		"adapter": {"/no/adapter", []string{"generate", testenv.Model(t), "x"}}, "labels": {"/no/labels", []string{"classify", testenv.Model(t)}}, "top-p": {"7", []string{"generate", testenv.Model(t), "x"}},
		"json-schema": {"/no/schema", []string{"generate", testenv.Model(t), "x"}}, "model": {"/no/model", []string{"info"}}, "stop": {"\n", []string{"generate", "no/model", "--temperature", "-1"}},
	} {
		t.Run(flag, func(t *testing.T) {
			variable := "GO_MLX_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
			note := "--" + flag + " is set by "
			t.Run("environment", func(t *testing.T) {
				t.Setenv(variable, c.value)
				_, _, err := run(t, "x", c.args...)
				require.Error(t, err)
				if flag == "stop" { // which is fine
					require.NotContains(t, err.Error(), note)
					return
				}
				require.ErrorContains(t, err, note+variable)
			})
			if flag == "stop" {
				return
			}
			configure(t, "["+c.args[0]+"]\n"+flag+" = '"+c.value+"'\n")
			_, _, err := run(t, "x", c.args...)
			require.ErrorContains(t, err, note+flag+" in ["+c.args[0]+"] of ")
			require.ErrorContains(t, err, "config.toml")
			configure(t, "")
		})
	}
	_, _, err := run(t, "", "generate", testenv.Model(t), "x", "--temperature", "-4")
	require.ErrorContains(t, err, "--temperature")
	require.NotContains(t, err.Error(), "is set by")
}

// The interpreter of the workers is said by the environment without choosing their engine.
func TestSettingsOfPythonChooseNoEngine(t *testing.T) {
	configure(t, "python = '"+testenv.Python(t)+"'\n")
	t.Setenv("GO_MLX_PYTHON", "")
	_, stderr, err := run(t, "", "generate", "-n", "1", testenv.Model(t), "x")
	require.NoError(t, err)
	require.Contains(t, stderr, "native engine")
	require.Equal(t, testenv.Python(t), os.Getenv("GO_MLX_PYTHON"))
}

// Variables that mean something else are the names of no flags.
func TestVariablesAreNoOtherFlags(t *testing.T) {
	for _, cmd := range below(rootCommand()) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			require.NotContains(t, []string{
				"any-version", "api-keys", "bench-model", "cpu", "kernel-cache", "one-launch", "pool-ops", "pool-seed", "record", "report",
				"registry-ops", "registry-seed", "slow", "worker-device", "write",
			}, f.Name, cmd.Name())
		})
	}
}

func TestHelpTellsOfSettings(t *testing.T) {
	out, _, err := run(t, "", "help", "configuration")
	require.NoError(t, err)
	require.Contains(t, out, "XDG_CONFIG_HOME")
	var ran *cobra.Command
	for _, cmd := range rootCommand().Commands() {
		if cmd.Name() == "configuration" {
			ran = cmd
		}
	}
	require.NotNil(t, ran)
	require.True(t, ran.IsAdditionalHelpTopicCommand())
}

// Tests do not read the configuration of whoever runs them.
func TestMain(m *testing.M) {
	none, err := os.MkdirTemp("", "go-mlx-config")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		_ = os.Setenv(name, none)
	}
	code := m.Run()
	_ = os.RemoveAll(none)
	os.Exit(code)
}

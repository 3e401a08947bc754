package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestChatKeepsTheConversation(t *testing.T) {
	saved := filepath.Join(t.TempDir(), "chat.json")
	input := strings.Join([]string{
		"/set temperature 0", "/set max-tokens 4", "/set nonsense 1", "/set",
		`Bake the \`, "cake", `"""`, "two", `lines"""`, "/what", "/save " + saved, "/clear", "/system Be brief.", "/system", "/quit", "never read",
	}, "\n")
	out, errOut, err := run(t, input, "chat", "-q", testenv.Model(t))
	require.NoError(t, err)
	require.Contains(t, out, "temperature 0, top-p 0.95, top-k 0, max-tokens 4")
	require.Contains(t, out, `system message: "Be brief."`)
	require.Contains(t, errOut, "there are temperature, top-p")
	require.Contains(t, errOut, "there is no /what")
	data, err := os.ReadFile(saved)
	require.NoError(t, err)
	var messages []mlx.Message
	require.NoError(t, json.Unmarshal(data, &messages))
	require.Len(t, messages, 4)
	require.Equal(t, "Bake the \ncake", messages[0].Content)
	require.Equal(t, "assistant", messages[1].Role)
	require.Equal(t, "two\nlines", messages[2].Content)
	require.NotContains(t, out, "never read")
}

func TestTheModelIsTheFirstArgumentOrAFlag(t *testing.T) {
	model := testenv.Model(t)
	byFlag, _, err := run(t, "", "generate", "-q", "-n", "3", "-m", model, "Where can")
	require.NoError(t, err)
	byPlace, _, err := run(t, "", "generate", "-q", "-n", "3", model, "Where can")
	require.NoError(t, err)
	require.Equal(t, byFlag, byPlace)
	for _, args := range [][]string{{"info"}, {"generate"}, {"probe"}, {"embed"}, {"chat"}} {
		_, _, err := run(t, "", args...)
		require.ErrorContains(t, err, "name a model", "%v", args)
		require.True(t, isUsage(err))
	}
	_, _, err = run(t, "", "generate", model, "two", "words")
	require.ErrorContains(t, err, "in quotes")
}

// A GGUF file needs nothing beside it that it holds itself, and becomes a folder for programs that do not read it.
func TestInfoReadsHeadersOnly(t *testing.T) {
	dir := testenv.CopyModel(t)
	weights := filepath.Join(dir, "model.safetensors")
	out, _, err := run(t, "", "info", dir, "--json")
	require.NoError(t, err)
	var d mlx.ModelDescription
	require.NoError(t, json.Unmarshal([]byte(out), &d))
	require.EqualValues(t, "native", d.Engine)
	require.True(t, d.ChatTemplate)
	stat, err := os.Stat(weights)
	require.NoError(t, err)
	require.Less(t, d.WeightBytes, stat.Size())
	require.Positive(t, d.Parameters)
	// Zeros in place of the weights are not noticed: info reads headers only.
	data, err := os.ReadFile(weights)
	require.NoError(t, err)
	clear(data[len(data)/2:])
	require.NoError(t, os.WriteFile(weights, data, 0o644))
	again, _, err := run(t, "", "info", dir, "--json")
	require.NoError(t, err)
	require.Equal(t, out, again)
}

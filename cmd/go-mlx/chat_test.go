package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// A script's last message need not be finished as a user would finish it.
func TestAMessageEndsWhereTheInputEnds(t *testing.T) {
	for _, input := range []string{"Bake a cake", "Bake a cake\\", "\"\"\"\nBake a cake\n", "\"\"\"Bake a cake"} {
		out, errOut, err := run(t, "/set temperature 0\n"+input, "chat", "-q", "-n", "4", testenv.Model(t))
		require.NoError(t, err, errOut)
		require.NotEmpty(t, strings.TrimSpace(out), "%q", input)
	}
}

func TestChatRefusesBadSettingsBeforeItLoads(t *testing.T) {
	for flag, values := range map[string][]string{"--temperature": {"-4", "NaN", "101"}, "--top-p": {"0", "7", "NaN"}, "--top-k": {"-1"}, "--max-tokens": {"0", "-3"}} {
		for _, value := range values {
			_, _, err := run(t, "Hi\n", "chat", "no/model", flag+"="+value)
			require.ErrorAs(t, err, new(usageError), "%s %s", flag, value)
			require.ErrorContains(t, err, flag+": "+value+" is ")
		}
	}
}

func TestAConversationThatIsTooLongSaysWhatToDo(t *testing.T) {
	long := strings.Repeat("Bake the cake slowly. ", 700)
	out, errOut, err := run(t, "Hi\n"+long+"\n/clear\n"+long+"\nHi\n/quit\n", "chat", "-q", "-t", "0", "-n", "3", testenv.Model(t))
	require.EqualError(t, err, "2 messages without an answer", "also of a script that ends with /quit")
	require.Equal(t, 1, strings.Count(errOut, "or /clear the conversation"), errOut)
	require.Equal(t, 2, strings.Count(errOut, "shorten the prompt"), errOut)
	require.Equal(t, 2, strings.Count(out, "\n\n"), "the messages around them are answered")
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestAnAnswerThatCannotBeWrittenEndsTheConversation(t *testing.T) {
	for _, input := range []string{"Hi\nHi\n", "/set\nHi\n"} {
		cmd := rootCommand()
		var said strings.Builder
		cmd.SetIn(strings.NewReader(input))
		cmd.SetOut(full{})
		cmd.SetErr(&said)
		cmd.SetArgs([]string{"chat", "-q", "-n", "3", testenv.Model(t)})
		require.ErrorIs(t, cmd.ExecuteContext(t.Context()), syscall.ENOSPC)
	}
}

func TestSavingWritesOverNothingElse(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	other := filepath.Join(home, "other.txt")
	require.NoError(t, os.WriteFile(other, []byte("keep"), 0o600))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(home, "link")))
	_, errOut, err := run(t, "/system Hi\n/save "+other+"\n/save "+filepath.Join(home, "link")+"\n/save ~/chat.json\n/system Ho\n/save ~/chat.json\n/save "+home+"\n/save /proc/x\n", "chat", "-q", testenv.Model(t))
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(errOut, "is there already"), errOut)
	require.Contains(t, errOut, "/save: open /proc/x")
	data, err := os.ReadFile(other)
	require.NoError(t, err)
	require.Equal(t, "keep", string(data))
	data, err = os.ReadFile(filepath.Join(home, "chat.json"))
	require.NoError(t, err)
	require.Contains(t, string(data), "Ho", "its own file it may write again")
	require.NoFileExists(t, filepath.Join(home, "nowhere"))
}

// A model repeats what is in the texts that it is given.
func TestAnAnswerDoesNotSteerTheTerminal(t *testing.T) {
	var screen strings.Builder
	n, err := visible{&screen}.Write([]byte("a\x1b]52;c;eA==\x07b\u009bc\n\té"))
	require.NoError(t, err)
	require.Equal(t, 21, n)
	require.Equal(t, "a\\x1b]52;c;eA==\\ab\\u009bc\n\té", screen.String())
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

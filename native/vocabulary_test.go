package native

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/train"
)

// smallTable is the vocabulary of smallModel; its tokenizer has more tokens, as those of checkpoints whose image tokens
// the text model does not know.
const smallTable = 4000

func smallModel(t *testing.T) (dir string) {
	t.Helper()
	dir = testenv.CopyModel(t)
	rewrite(t, dir, func(s *mlxc.Scope, tensors map[string]*mlxc.Array) {
		tensors[checkpoint.EmbeddingName] = s.Slice(tensors[checkpoint.EmbeddingName], 0, 0, smallTable)
	})
	editConfig(t, dir, func(c map[string]any) { c["vocab_size"] = smallTable })
	return dir
}

// beyond is a text with a token that the small table does not have.
func beyond(t *testing.T, m *Model) string {
	t.Helper()
	for id := int32(smallTable); id < smallTable+100; id++ {
		text, err := m.Decode(t.Context(), []int32{id})
		require.NoError(t, err)
		ids, err := m.Encode(t.Context(), text, false)
		require.NoError(t, err)
		if slices.Contains(ids, id) {
			return text
		}
	}
	t.Fatal("no text of a token beyond the table")
	return ""
}

func TestTokensBeyondTheTableAreRefusedWhereverTheyComeFrom(t *testing.T) {
	dir := smallModel(t)
	m := openPath(t, dir, engine.NativeOptions{})
	text := beyond(t, m)
	labels := engine.ClassifyOptions{Labels: []string{"sport", "food"}, Prompt: engine.DefaultLabelPrompt}
	trains := func(line map[string]any) func() error {
		return func() error {
			o := mlxtest.TrainOptions(t)
			data, err := json.Marshal(line)
			require.NoError(t, err)
			file := filepath.Join(o.Data, "train.jsonl")
			good, err := os.ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(file, append(append(data, '\n'), good...), 0o644))
			_, _, err = train.ReadData(t.Context(), m.encoder, o)
			if err != nil {
				require.ErrorContains(t, err, "train.jsonl, line 1")
			}
			return err
		}
	}
	var token *engine.TokenError
	for name, work := range map[string]func() error{
		"prompt": func() error {
			var a answer
			a.run(t.Context(), m, engine.Prompt{Text: text}, engine.DefaultGenerateOptions())
			return a.err
		},
		"ids": func() error {
			var a answer
			a.run(t.Context(), m, engine.Prompt{IDs: []int32{5, smallTable}}, engine.DefaultGenerateOptions())
			return a.err
		},
		"embedding": func() error {
			_, err := m.Embed(t.Context(), []string{text}, engine.EmbedOptions{})
			return err
		},
		"text to classify": func() error {
			_, err := m.Classify(t.Context(), []string{text}, labels)
			return err
		},
		"line of text":           trains(map[string]any{"text": text}),
		"line with a completion": trains(map[string]any{"prompt": "a", "completion": text}),
		"line with messages":     trains(map[string]any{"messages": []engine.Message{{Role: "user", Content: text}, {Role: "assistant", Content: "b"}}}),
	} {
		require.ErrorAs(t, work(), &token, name)
		require.GreaterOrEqual(t, int(token.ID), smallTable, name)
		require.Equal(t, smallTable, token.VocabSize, name)
	}
	labels.Labels = append(labels.Labels, text)
	_, err := m.Classify(t.Context(), []string{"goal"}, labels)
	var option *engine.OptionError
	require.ErrorAs(t, err, &option)
	require.Equal(t, "labels", option.Option)
	require.ErrorContains(t, err, "outside the model's vocabulary")
}

// End tokens come from three files, and may be none of the model's tokens.
func TestEndTokensBeyondTheTableDoNotMatter(t *testing.T) {
	dir := smallModel(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(`{"eos_token_id": [1, 5, 4000, 1073741824, -1]}`), 0o644))
	m := openPath(t, dir, engine.NativeOptions{})
	require.Contains(t, m.encoder.EOS, int32(smallTable))
	ids, _ := collect(t, m, "Please", func(o *engine.GenerateOptions) {
		o.MaxTokens, o.Temperature, o.XTCProbability, o.XTCThreshold, o.Seed, o.HasSeed = 10, 1, 1, 0.1, 1, true
	})
	require.Len(t, ids, 10)
	text, reason := constrained(t, m, engine.Grammar{Kind: "regex", Text: "[ab]{3}"}, 1)
	require.Len(t, text, 3)
	require.Equal(t, engine.FinishStop, reason)
}

// Labels and prompts may hold any character; none makes two lists of labels one.
func TestLabelsDoNotRunTogether(t *testing.T) {
	m := open(t)
	lists := [][]string{{"a", "b"}, {"a\x00b"}, {"a\" \"b"}, {"a b"}, {"a] [b"}, {"a, b"}, {`a\x00b`}}
	for _, labels := range append(lists, lists...) {
		results, err := m.Classify(t.Context(), []string{"goal"}, engine.ClassifyOptions{Labels: labels, Prompt: engine.DefaultLabelPrompt})
		require.NoError(t, err)
		require.Len(t, results[0].Scores, len(labels))
	}
	require.Len(t, m.scorer.LabelSets.Keys(), len(lists))
}

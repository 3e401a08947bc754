package mlx_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// trainingLines are the corpus's lines that are whole sentences, which no held-out sentence is one of.
func trainingLines(t *testing.T) (texts []mlx.LabelledText) {
	t.Helper()
	for _, language := range []string{"en", "de", "fr", "es"} {
		data, err := os.ReadFile(filepath.Join(testenv.Root(), "tests", "corpus", language+".txt"))
		require.NoError(t, err)
		domain := ""
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if name, ok := strings.CutPrefix(line, "# "); ok {
				domain = name
			} else if text, ok := strings.CutPrefix(line, "+ "); ok {
				texts = append(texts, mlx.LabelledText{Text: text, Label: domain})
			}
		}
	}
	require.Len(t, texts, 224)
	return texts
}

func TestATrainedClassifierIsSavedAndUsed(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	c, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Layers: []int{1, m.Info().Layers}})
	require.NoError(t, err)
	again, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Layers: []int{1, m.Info().Layers}, DataDate: c.Info().DataDate})
	require.NoError(t, err)
	require.Equal(t, c, again, "the same data make the same classifier")
	require.Equal(t, []string{"commerce", "developer", "finance", "food", "legal", "medical", "sport", "travel"}, c.Info().Labels)
	require.Equal(t, len(texts), c.Info().Texts+c.Info().Validation.Texts)

	path := filepath.Join(t.TempDir(), "domains.safetensors")
	require.NoError(t, c.Save(path))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.False(t, bytes.Contains(data, []byte(texts[0].Text)), "a classifier's file holds no text")
	loaded, err := mlx.LoadClassifier(path)
	require.NoError(t, err)
	require.Equal(t, c.Info(), loaded.Info())

	classify := func(c *mlx.Classifier, options ...mlx.ClassifyOption) []mlx.Classification {
		results, err := m.Classify(t.Context(), testenv.Texts(t), nil, append(options, mlx.WithClassifier(c))...)
		require.NoError(t, err)
		return results
	}
	results := classify(loaded)
	require.Equal(t, classify(c), results)
	right := 0
	for i, s := range testenv.Heldout(t) {
		if results[i].Label == s.Domain {
			right++
		}
	}
	require.Greater(t, right, 40, "of 160, by a model of a few thousand words that was trained for prompts; a guess is right on 20")
	one, err := m.Classify(t.Context(), testenv.Texts(t)[:1], nil, mlx.WithClassifier(c))
	require.NoError(t, err)
	require.InDelta(t, results[0].Probability, one[0].Probability, 1e-4)
	for _, r := range classify(c, mlx.WithAbstain(1)) {
		require.True(t, r.Abstained || r.Probability == 1)
	}

	for option, options := range map[string][]mlx.ClassifyOption{
		"WithClassifier": {mlx.WithClassifier(c), mlx.WithLabels(mlx.LabelPrompt("{text}"))}, "WithAbstain": {mlx.WithClassifier(c), mlx.WithAbstain(2)},
	} {
		_, err := m.Classify(t.Context(), []string{"x"}, nil, options...)
		requireOption(t, err, option)
	}
	_, err = m.Classify(t.Context(), []string{"x"}, []string{"a", "b"}, mlx.WithClassifier(c))
	requireOption(t, err, "labels")
	_, err = m.Classify(t.Context(), []string{"ok", "\xff"}, nil, mlx.WithClassifier(c))
	require.ErrorIs(t, err, mlx.ErrInvalidUTF8)
	var last error
	count := 0
	for _, err := range mlx.ClassifyAll(t.Context(), m, func(yield func(string) bool) { _ = yield("a") && yield("b") }, nil, mlx.WithClassifier(c)) {
		last, count = err, count+1
	}
	require.NoError(t, last)
	require.Equal(t, 2, count)
}

func TestAClassifierIsForItsModelOnly(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	c, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{})
	require.NoError(t, err)
	dir := testenv.CopyModel(t)
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["_name_or_path"] = "another" })
	other := load(t, dir, mlx.WithEngine(mlx.EngineNative))
	_, err = other.Classify(t.Context(), []string{"x"}, nil, mlx.WithClassifier(c))
	require.ErrorIs(t, err, mlx.ErrOtherModel)
	python := load(t, testenv.Model(t), mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t))))
	_, err = python.Classify(t.Context(), []string{"x"}, nil, mlx.WithClassifier(c))
	requireOption(t, err, "WithClassifier")
	_, err = mlx.TrainClassifier(t.Context(), python, texts, mlx.ClassifierOptions{})
	requireOption(t, err, "TrainClassifier")

	for option, o := range map[string]mlx.ClassifierOptions{"Layers": {Layers: []int{99}}, "Validation": {Validation: 1}} {
		_, err := mlx.TrainClassifier(t.Context(), m, texts, o)
		requireOption(t, err, option)
	}
	_, err = mlx.TrainClassifier(t.Context(), m, texts[:1], mlx.ClassifierOptions{})
	requireOption(t, err, "labels")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = mlx.TrainClassifier(ctx, m, texts, mlx.ClassifierOptions{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = mlx.LoadClassifier(filepath.Join(testenv.Model(t), "model.safetensors"))
	require.ErrorIs(t, err, mlx.ErrClassifierFile)
}

// With groups, all texts are fitted to, and each is judged by a fit that its group has no part in.
func TestGroupsAreJudgedByFitsWithoutThem(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	ungrouped, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Mean: true})
	require.NoError(t, err)
	for i := range texts {
		texts[i].Group = []string{"a", "b", "c", "d"}[i/56] // languages
	}
	c, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Mean: true})
	require.NoError(t, err)
	require.Equal(t, len(texts), c.Info().Validation.Texts)
	require.Equal(t, len(texts), c.Info().Texts)
	require.Less(t, c.Info().Validation.Accuracy, ungrouped.Info().Validation.Accuracy, "words of one language say little of another's")
	// A label of which a group holds wrong texts only: judged by the other group, they are all wrong.
	var odd []mlx.LabelledText
	for _, text := range texts {
		if text.Label == "food" || text.Label == "sport" {
			odd = append(odd, mlx.LabelledText{Text: text.Text, Label: text.Label, Group: "right"})
			odd = append(odd, mlx.LabelledText{Text: text.Text + " ", Label: map[string]string{"food": "sport", "sport": "food"}[text.Label], Group: "wrong"})
		}
	}
	c, err = mlx.TrainClassifier(t.Context(), m, odd, mlx.ClassifierOptions{Mean: true})
	require.NoError(t, err)
	require.Less(t, c.Info().Validation.Accuracy, 0.2)
}

// What is read, the state after a prompt or the mean, is kept with the classifier, and so is by what it abstains.
func TestAClassifierReadsWhatItWasTrainedOn(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	train := func(o mlx.ClassifierOptions) *mlx.Classifier {
		c, err := mlx.TrainClassifier(t.Context(), m, texts, o)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "c.safetensors")
		require.NoError(t, c.Save(path))
		loaded, err := mlx.LoadClassifier(path)
		require.NoError(t, err)
		return loaded
	}
	standard, mean, own := train(mlx.ClassifierOptions{}), train(mlx.ClassifierOptions{Mean: true}), train(mlx.ClassifierOptions{Prompt: "{text} means"})
	require.Equal(t, []string{mlx.DefaultStatesPrompt, "", "{text} means"}, []string{standard.Info().Prompt, mean.Info().Prompt, own.Info().Prompt})
	require.Greater(t, standard.Info().Layer, mean.Info().Layer)
	for _, c := range []*mlx.Classifier{standard, mean, own} {
		right := 0
		plain := make([]string, len(texts))
		for i := range texts {
			plain[i] = texts[i].Text
		}
		results, err := m.Classify(t.Context(), plain, nil, mlx.WithClassifier(c))
		require.NoError(t, err)
		for i, r := range results {
			if r.Label == texts[i].Label {
				right++
			}
		}
		require.Greater(t, right, 180, "of the 224 texts, nearly all fitted to, read as they were in training")
	}
	_, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Mean: true, Prompt: "{text}"})
	requireOption(t, err, "Mean")
	_, err = mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Prompt: "no place"})
	requireOption(t, err, "Prompt")

	abstained := func(c *mlx.Classifier) (n int) {
		results, err := m.Classify(t.Context(), testenv.Texts(t), nil, mlx.WithClassifier(c))
		require.NoError(t, err)
		for _, r := range results {
			if r.Abstained {
				n++
			}
		}
		return n
	}
	require.Equal(t, mlx.AbstainByDistance, standard.Info().AbstainBy)
	byEnergy, err := standard.AbstainBy(mlx.AbstainByEnergy)
	require.NoError(t, err)
	require.NotEqual(t, abstained(standard), abstained(byEnergy))
	_, err = standard.AbstainBy("luck")
	requireOption(t, err, "AbstainBy")
}

// A label with one text is fitted to it, even where the text's hash would keep it back: else the classifier could never give the label.
func TestEveryLabelIsFittedTo(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	for i := range 40 { // of which about four would be kept back
		texts = append(texts, mlx.LabelledText{Text: fmt.Sprint("The only text, number ", i), Label: fmt.Sprint("rare ", i)})
	}
	c, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{})
	require.NoError(t, err)
	results, err := m.Classify(t.Context(), []string{"The only text, number 7"}, nil, mlx.WithClassifier(c))
	require.NoError(t, err)
	for _, s := range results[0].Scores {
		require.Greater(t, s.Score, -1e6, s.Label)
	}
}

// What cannot be judged is an error that says what to do.
func TestTooFewTextsAreAnError(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	few := []mlx.LabelledText{{Text: "one", Label: "a"}, {Text: "two", Label: "b"}}
	_, err := mlx.TrainClassifier(t.Context(), m, few, mlx.ClassifierOptions{})
	requireOption(t, err, "Validation")
	require.ErrorContains(t, err, "give more texts")
	grouped := []mlx.LabelledText{{Text: "one", Label: "a", Group: "x"}, {Text: "one", Label: "b", Group: "x"}}
	_, err = mlx.TrainClassifier(t.Context(), m, grouped, mlx.ClassifierOptions{})
	requireOption(t, err, "texts")
}

// A calibration with a classifier is the same whatever order its labels are named in, and one that is no temperature is refused.
func TestAClassifierIsCalibratedInItsOwnOrder(t *testing.T) {
	m := load(t, testenv.Model(t), mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	c, err := mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{})
	require.NoError(t, err)
	var held []mlx.LabelledText
	for _, s := range testenv.Heldout(t) {
		held = append(held, mlx.LabelledText{Text: s.Text, Label: s.Domain})
	}
	want, err := mlx.Calibrate(t.Context(), m, held, c.Info().Labels, mlx.WithClassifier(c))
	require.NoError(t, err)
	turned := c.Info().Labels
	slices.Reverse(turned)
	for _, labels := range [][]string{nil, turned} {
		got, err := mlx.Calibrate(t.Context(), m, held, labels, mlx.WithClassifier(c))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = mlx.Calibrate(t.Context(), m, held, turned[1:], mlx.WithClassifier(c))
	requireOption(t, err, "labels")
	require.True(t, slices.IsSorted(c.Info().Labels), "what is done to the list of labels changes no classifier")
	for _, temperature := range []float64{-1, math.NaN(), math.Inf(1)} {
		_, err = m.Classify(t.Context(), []string{"x"}, nil, mlx.WithClassifier(c), mlx.WithCalibration(mlx.Calibration{Temperature: temperature}))
		requireOption(t, err, "WithCalibration")
	}
}

// A classifier that is none is an error, too.
func TestNoClassifierIsAnError(t *testing.T) {
	for _, none := range []*mlx.Classifier{nil, {}} {
		require.Empty(t, none.Info().Labels)
		require.ErrorIs(t, none.Save(filepath.Join(t.TempDir(), "c")), mlx.ErrClassifierFile)
		_, err := none.AbstainBy(mlx.AbstainByEnergy)
		require.ErrorIs(t, err, mlx.ErrClassifierFile)
	}
}

// Classifiers are used by many callers at once, each with its own way to abstain, and the model's files are read for the first of them only.
func TestClassifiersAreUsedInTurn(t *testing.T) {
	dir := testenv.CopyModel(t)
	m := load(t, dir, mlx.WithEngine(mlx.EngineNative))
	texts := trainingLines(t)
	var classifiers [2]*mlx.Classifier
	var want [2][]mlx.Classification
	for i := range classifiers {
		var err error
		classifiers[i], err = mlx.TrainClassifier(t.Context(), m, texts, mlx.ClassifierOptions{Layers: []int{i + 1}})
		require.NoError(t, err)
		want[i], err = m.Classify(t.Context(), testenv.Texts(t), nil, mlx.WithClassifier(classifiers[i]))
		require.NoError(t, err)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "config.json")))
	var group errgroup.Group
	for g := range 6 {
		group.Go(func() error {
			for i := range 4 {
				n := (g + i) % 2
				c, err := classifiers[n].AbstainBy([]string{mlx.AbstainByDistance, mlx.AbstainByEnergy}[g/2%2])
				if err != nil {
					return err
				}
				results, err := m.Classify(t.Context(), testenv.Texts(t), nil, mlx.WithClassifier(c))
				if err != nil {
					return err
				}
				for j, r := range results {
					if r.Label != want[n][j].Label || r.Probability != want[n][j].Probability {
						return fmt.Errorf("text %d: %v and %v", j, r, want[n][j])
					}
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
}

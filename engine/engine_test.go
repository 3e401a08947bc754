package engine

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGenerateOptionsNameWhatIsWrong(t *testing.T) {
	require.NoError(t, DefaultGenerateOptions().Validate(100))
	nan := float32(math.NaN())
	for option, changes := range map[string][]func(*GenerateOptions){
		"MaxTokens":         {func(o *GenerateOptions) { o.MaxTokens = 0 }, func(o *GenerateOptions) { o.MaxTokens = -5 }},
		"Temperature":       {func(o *GenerateOptions) { o.Temperature = -1 }, func(o *GenerateOptions) { o.Temperature = nan }, func(o *GenerateOptions) { o.Temperature = float32(math.Inf(1)) }},
		"TopK":              {func(o *GenerateOptions) { o.TopK = -1 }},
		"TopP":              {func(o *GenerateOptions) { o.TopP = 0 }, func(o *GenerateOptions) { o.TopP = 1.5 }, func(o *GenerateOptions) { o.TopP = nan }},
		"MinP":              {func(o *GenerateOptions) { o.MinP = -0.1 }, func(o *GenerateOptions) { o.MinP = nan }},
		"RepetitionPenalty": {func(o *GenerateOptions) { o.RepetitionPenalty = 0 }, func(o *GenerateOptions) { o.RepetitionPenalty = nan }},
		"RepetitionContext": {func(o *GenerateOptions) { o.RepetitionContext = 0 }},
		"Stop":              {func(o *GenerateOptions) { o.Stop = []string{"a", ""} }},
		"StopTokens":        {func(o *GenerateOptions) { o.StopTokens = []int32{100} }, func(o *GenerateOptions) { o.StopTokens = []int32{-1} }},
		"TopLogProbs":       {func(o *GenerateOptions) { o.TopLogProbs = -1 }, func(o *GenerateOptions) { o.TopLogProbs = 101 }},
	} {
		for i, change := range changes {
			o := DefaultGenerateOptions()
			change(&o)
			var bad *OptionError
			require.ErrorAs(t, o.Validate(100), &bad, "%s %d", option, i)
			require.Equal(t, option, bad.Option)
		}
	}
	o := DefaultGenerateOptions()
	o.Stop = []string{"\xff"}
	require.ErrorIs(t, o.Validate(100), ErrInvalidUTF8)
}

func TestPromptsHaveExactlyOneForm(t *testing.T) {
	chat := []Message{{Role: "user", Content: "x"}}
	require.NoError(t, Prompt{Text: "x"}.Validate())
	require.NoError(t, Prompt{Messages: chat}.Validate())
	require.NoError(t, Prompt{IDs: []int32{1}}.Validate())
	require.ErrorIs(t, Prompt{}.Validate(), ErrEmptyPrompt)
	require.ErrorContains(t, Prompt{Text: "x", IDs: []int32{1}}.Validate(), "more than one")
	require.ErrorIs(t, Prompt{Text: "\xff"}.Validate(), ErrInvalidUTF8)
	require.ErrorIs(t, Prompt{Messages: []Message{{Role: "user", Content: "\xff"}}}.Validate(), ErrInvalidUTF8)
	require.ErrorContains(t, Prompt{Messages: []Message{{Content: "x"}}}.Validate(), "no role")
}

func TestClassifyOptionsAreChecked(t *testing.T) {
	good := ClassifyOptions{Labels: []string{"a", "b"}, Prompt: DefaultLabelPrompt}
	require.NoError(t, good.Validate([]string{"x", ""}))
	require.ErrorIs(t, good.Validate([]string{"\xff"}), ErrInvalidUTF8)
	for want, o := range map[string]ClassifyOptions{
		"no labels":    {Prompt: DefaultLabelPrompt},
		"is empty":     {Labels: []string{" "}, Prompt: DefaultLabelPrompt},
		"given twice":  {Labels: []string{"a", "b", "a"}, Prompt: DefaultLabelPrompt},
		"exactly once": {Labels: []string{"a"}, Prompt: "no place"},
	} {
		require.ErrorContains(t, o.Validate(nil), want)
	}
	require.Error(t, ClassifyOptions{Labels: []string{"a"}, Prompt: "{text} {text}"}.Validate(nil))
}

func TestUserTextFillsOnlyTheTemplate(t *testing.T) {
	o := ClassifyOptions{Labels: []string{"a", "b"}, Prompt: "{labels}: {text} of {labels}?"}
	require.Equal(t, "a, b: x {labels} {text} of a, b?", o.UserText("x {labels} {text}"))
}

func TestResultsAreSoftmaxOfScores(t *testing.T) {
	o := ClassifyOptions{Labels: []string{"a", "b", "c"}}
	c, err := o.Result([]float64{math.Log(0.2), math.Log(0.7), math.Log(0.1)})
	require.NoError(t, err)
	require.Equal(t, "b", c.Label)
	require.InDelta(t, 0.7, c.Probability, 1e-12)
	require.InDelta(t, 0.5, c.Margin, 1e-12)
	c, err = o.Result([]float64{-1000, -2000, -1500})
	require.NoError(t, err)
	require.InDelta(t, 1, c.Probability, 1e-12, "no underflow")
	one, err := ClassifyOptions{Labels: []string{"a"}}.Result([]float64{-3})
	require.NoError(t, err)
	require.Equal(t, 1.0, one.Margin)
	_, err = o.Result([]float64{0, math.NaN(), 0})
	require.ErrorContains(t, err, `"b"`)
	_, err = o.Result([]float64{0})
	require.Error(t, err, "a worker that sends too few scores")
}

func TestCheckpointErrorsShowTheFirstProblemsAndCountTheRest(t *testing.T) {
	e := &CheckpointError{Path: "/m"}
	for i := range 20 {
		e.Problems = append(e.Problems, fmt.Sprintf("problem %d", i))
	}
	require.Contains(t, e.Error(), "problem 7; and 12 more")
	require.NotContains(t, e.Error(), "problem 8")
}

func TestExamplesAndDescriptionsComeBeforeTheText(t *testing.T) {
	o := ClassifyOptions{Labels: []string{"food", "law"}, Prompt: CompletionLabelPrompt, Details: map[string]LabelDetails{
		"food": {Description: "meals", Examples: []string{"Bake it.", "Eat."}}, "law": {Examples: []string{"He {labels} sued."}},
	}}
	require.NoError(t, o.Validate([]string{"x"}))
	require.Equal(t, "food: meals\n\n\"Bake it.\" is a sentence about food\n\"He {labels} sued.\" is a sentence about law\n\"Eat.\" is a sentence about food\n"+
		"\"x {label}\" is a sentence about", o.PlainPrompt("x {label}"))
	o.Prompt = DefaultLabelPrompt
	require.Equal(t, "Text: Bake it.\nLabel: food\n\nText: He {labels} sued.\nLabel: law\n\nText: Eat.\nLabel: food\n\n"+
		"Classify the text. Answer with one of: food (meals), law.\n\nText: x", o.UserText("x"))
}

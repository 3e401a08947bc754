package mlx

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/head"
	"forge.lthn.ai/core/go-mlx/quality"
)

// Classifier is a linear classifier (a regularised linear discriminant) on the hidden states of one layer of a model. It is trained in
// seconds, its file is small, and it serves the model that it was trained with only. TrainClassifier and LoadClassifier make one. It is safe for
// concurrent use.
type Classifier struct {
	head *head.Head
}

// ClassifierInfo describes a Classifier.
type ClassifierInfo struct {
	Labels []string `json:"labels"`
	// Model is the hash of the model whose states the classifier reads; Architecture is for people.
	Model        string `json:"model"`
	Architecture string `json:"architecture"`
	Layer        int    `json:"layer"` // whose output is read, from 1 on
	// Prompt is what texts are put into, and the state of its last token is read; without one the mean over the text's tokens.
	Prompt string `json:"prompt,omitempty"`
	// Temperature divides scores before their softmax.
	Temperature float64 `json:"temperature"`
	// AbstainBy is AbstainByDistance or AbstainByEnergy: a text counts as of no known label if its distance is above MaxDistance, or if
	// its energy (Liu et al. 2020, arXiv:2010.03759) is below MinEnergy.
	AbstainBy   string    `json:"abstain_by"`
	MinEnergy   float64   `json:"min_energy"`
	MaxDistance float64   `json:"max_distance"`
	Shrinkage   float64   `json:"shrinkage"` // of the covariance, from 0 to 1, chosen on the validation part
	Texts       int       `json:"texts"`     // how many it was fitted to
	DataDate    time.Time `json:"data_date"`
	DataHash    string    `json:"data_hash"`  // SHA-256 of labels and texts
	Validation  *Report   `json:"validation"` // how good it was on texts that were kept back
}

type (
	// Report says how good classifications are; see [quality.Report].
	Report = quality.Report
	// Prediction is the label that a text got, and the right one; see [quality.Prediction].
	Prediction = quality.Prediction
)

// DefaultStatesPrompt is what TrainClassifier puts texts into.
const DefaultStatesPrompt = `Software that says "{text}" is used for`

// ErrClassifierFile: a file is not a classifier's, or is damaged.
var ErrClassifierFile = head.ErrFile

// ErrOtherModel: a classifier was trained with another model.
var ErrOtherModel = errors.New("the classifier was trained with another model")

// ClassifierOptions are those of TrainClassifier. The zero value means the defaults.
type ClassifierOptions struct {
	// Layers are tried, and the one whose head is best on the validation part is taken. Earlier layers are faster: those after
	// the chosen one are not computed. The default is the one at five sixths of the model's depth, with Mean at four ninths.
	Layers []int
	// Prompt, which has {text} once, is what texts are put into; the hidden state of its last token is read, which tells what the model
	// is about to say of the text. Empty for DefaultStatesPrompt.
	Prompt string
	// Mean reads the mean over the text's tokens instead, without a prompt: faster, and in new languages and packages less often right.
	Mean bool
	// Validation is the share of the texts, chosen by their hash, that is not fitted to; 0 for a tenth. Texts with groups need none. A label whose
	// texts would all be kept back is fitted to all of them.
	Validation float64
	// DataDate is the date of the data; the zero value for now.
	DataDate time.Time
}

// HiddenStates is implemented by models of the native engine. Classifiers are trained on hidden states.
type HiddenStates interface {
	// States returns, for each of the layers, a vector for each text: the state of a prompt's last token, or the mean over the text's tokens;
	// see StatesOptions.
	States(ctx context.Context, texts []string, options StatesOptions) ([][][]float32, error)
	// Fingerprint tells models apart: a hash of the config, the adapter and samples of the weights.
	Fingerprint() (string, error)
}

// StatesOptions say which hidden states are wanted; see [engine.StatesOptions].
type StatesOptions = engine.StatesOptions

const noStates = "only the native engine gives hidden states away; load the model with it"

// TrainClassifier fits a classifier to labelled texts. Texts are split by their hash, so that a text that occurs twice is not on both sides.
// Where texts have groups, such as packages, each quarter of every label's groups is judged by a fit to the other quarters instead, and at the end
// weights are fitted to all texts, every label with the same weight: probabilities and thresholds then hold for texts of groups that the
// classifier has never seen, and the validation table too. Groups that hold much of a label's texts are not judged. Where some texts have groups, those
// without one are a group together.
func TrainClassifier(ctx context.Context, m TextModel, texts []LabelledText, options ClassifierOptions) (*Classifier, error) {
	states, ok := m.(HiddenStates)
	if !ok {
		return nil, &OptionError{Option: "TrainClassifier", Reason: noStates}
	}
	info, truth, err := classifierInfo(texts, options)
	if err != nil {
		return nil, err
	}
	info.Architecture = m.Info().Architecture
	if info.Model, err = states.Fingerprint(); err != nil {
		return nil, err
	}
	layers := options.Layers
	if len(layers) == 0 {
		depth := 5.0 / 6
		if options.Mean {
			depth = 4.0 / 9
		}
		layers = []int{max(1, int(math.Round(float64(m.Info().Layers)*depth)))}
	}
	plain := make([]string, len(texts))
	for i, t := range texts {
		plain[i] = t.Text
	}
	vectors, err := states.States(ctx, plain, engine.StatesOptions{Layers: layers, Prompt: info.Prompt})
	if err != nil {
		return nil, fmt.Errorf("train a classifier: %w", err)
	}
	for _, of := range vectors {
		for i, x := range of {
			if slices.ContainsFunc(x, func(v float32) bool { return v-v != 0 }) {
				return nil, fmt.Errorf("train a classifier: the hidden state of text %d is not finite: the model's weights or their dtype are broken", i)
			}
		}
	}
	share := options.Validation
	if share == 0 {
		share = 0.1
	}
	var best *Classifier
	for l, layer := range layers {
		info.Layer = layer
		c, err := fitClassifier(ctx, info, texts, vectors[l], truth, share)
		if err != nil {
			return nil, fmt.Errorf("train a classifier on layer %d: %w", layer, err)
		}
		if best == nil || c.head.Validation.MacroF1 > best.head.Validation.MacroF1 {
			best = c
		}
	}
	return best, nil
}

// classifierInfo checks the texts and says what is known before the fit. truth is the index of each text's label.
func classifierInfo(texts []LabelledText, options ClassifierOptions) (info head.Info, truth []int, err error) {
	if v := options.Validation; v < 0 || v > 0.9 || v != v {
		return info, nil, &OptionError{Option: "Validation", Reason: fmt.Sprintf("%v is not a share from 0 to 0.9", v)}
	}
	switch info.Prompt = cmp.Or(options.Prompt, DefaultStatesPrompt); {
	case options.Mean && options.Prompt != "":
		return info, nil, &OptionError{Option: "Mean", Reason: "the mean over a text's tokens is read without a prompt"}
	case options.Mean:
		info.Prompt = ""
	}
	if err := engine.CheckStatesPrompt(info.Prompt); err != nil {
		return info, nil, named(err)
	}
	index := map[string]int{}
	hash := sha256.New()
	for i, t := range texts {
		if strings.TrimSpace(t.Label) == "" || !utf8.ValidString(t.Label) {
			return info, nil, &OptionError{Option: "labels", Reason: fmt.Sprintf("text %d has no label, or one that is not UTF-8", i)}
		}
		index[t.Label] = 0
		fmt.Fprintf(hash, "%q %q\n", t.Label, t.Text)
	}
	for label := range index {
		info.Labels = append(info.Labels, label)
	}
	slices.Sort(info.Labels)
	if len(info.Labels) < 2 {
		return info, nil, &OptionError{Option: "labels", Reason: fmt.Sprintf("two labels are the least, and the texts have %d", len(info.Labels))}
	}
	for i, label := range info.Labels {
		index[label] = i
	}
	for _, t := range texts {
		truth = append(truth, index[t.Label])
	}
	info.DataHash = hex.EncodeToString(hash.Sum(nil))
	if info.DataDate = options.DataDate.UTC(); options.DataDate.IsZero() {
		info.DataDate = time.Now().UTC()
	}
	info.DataDate = info.DataDate.Truncate(time.Second)
	return info, truth, nil
}

// LoadClassifier reads a classifier's file.
func LoadClassifier(path string) (*Classifier, error) {
	h, err := head.Load(path)
	if err != nil {
		return nil, err
	}
	return &Classifier{h}, nil
}

// Save writes a classifier's file: safetensors with JSON in its metadata. It holds none of the texts.
func (c *Classifier) Save(path string) error {
	if c == nil || c.head == nil {
		return errNoHead
	}
	return c.head.Save(path)
}

// errNoHead is the error of a Classifier that a program made itself.
var errNoHead = fmt.Errorf("%w: the classifier is empty; TrainClassifier and LoadClassifier make one", ErrClassifierFile)

// Info describes the classifier. What is done to the list of labels changes no classifier.
func (c *Classifier) Info() ClassifierInfo {
	if c == nil || c.head == nil {
		return ClassifierInfo{}
	}
	info := ClassifierInfo(c.head.Info)
	info.Labels = slices.Clone(info.Labels)
	if info.Validation != nil {
		validation := *info.Validation
		info.Validation = &validation
	}
	return info
}

// How a classifier recognises texts that are unlike all it was trained with; see [Classifier.AbstainBy].
const (
	AbstainByDistance = head.ByDistance // from the mean vectors of the labels, by cosine; the default
	AbstainByEnergy   = head.ByEnergy   // of the labels' scores
)

// AbstainBy returns the classifier with another way to recognise texts that are unlike all it was trained with: AbstainByDistance or
// AbstainByEnergy. The receiver is not changed.
func (c *Classifier) AbstainBy(how string) (*Classifier, error) {
	if c == nil || c.head == nil {
		return nil, errNoHead
	}
	h, err := c.head.By(how)
	if err != nil {
		return nil, &OptionError{Option: "AbstainBy", Reason: err.Error()}
	}
	return &Classifier{h}, nil
}

// checkLabels refuses labels that are neither nil nor, in any order, the classifier's.
func (c *Classifier) checkLabels(labels []string) error {
	if labels != nil && !slices.Equal(slices.Sorted(slices.Values(labels)), slices.Sorted(slices.Values(c.head.Labels))) {
		return &OptionError{Option: "labels", Reason: fmt.Sprintf("%q are not the classifier's %q", labels, c.head.Labels)}
	}
	return nil
}

// classifyByHead classifies with a trained classifier.
func (m *model) classifyByHead(ctx context.Context, texts []string, o classifyOptions) ([]Classification, error) {
	h := o.classifier.head
	states, ok := m.engine.(HiddenStates)
	if !ok {
		return nil, &OptionError{Option: "WithClassifier", Reason: noStates}
	}
	if err := o.classifier.checkLabels(o.Labels); err != nil {
		return nil, err
	}
	switch {
	case o.Prompt != "" || o.Details != nil || o.prior != "":
		return nil, &OptionError{Option: "WithClassifier", Reason: "a trained classifier has no use for a prompt, details of labels or a prior"}
	case !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0):
		return nil, &OptionError{Option: "WithCalibration", Reason: fmt.Sprintf("temperature %v is not a number from 0 up", o.Temperature)}
	case !(o.MinProbability >= 0 && o.MinProbability <= 1):
		return nil, &OptionError{Option: "WithAbstain", Reason: fmt.Sprintf("probability %v is not between 0 and 1", o.MinProbability)}
	}
	if err := m.matches(states, o.classifier); err != nil {
		return nil, err
	}
	vectors, err := states.States(ctx, texts, engine.StatesOptions{Layers: []int{h.Layer}, Prompt: h.Prompt})
	if err != nil {
		return nil, err
	}
	by := engine.ClassifyOptions{Labels: h.Labels, Temperature: h.Temperature, MinProbability: o.MinProbability}
	if o.Temperature != 0 {
		by.Temperature = o.Temperature
	}
	results := make([]Classification, len(texts))
	for i, v := range vectors[0] {
		logits := h.Logits(v)
		if results[i], err = by.Result(logits); err != nil {
			return nil, fmt.Errorf("text %d: %w", i, err)
		}
		results[i].Abstained = results[i].Abstained || h.Unknown(logits, h.Distance(v))
	}
	return results, nil
}

// matches checks that a classifier was trained with the model.
func (m *model) matches(states HiddenStates, c *Classifier) error {
	known := m.fingerprint.Load()
	if known == nil {
		hash, err := states.Fingerprint()
		if err != nil {
			return err
		}
		known = &hash
		m.fingerprint.Store(known)
	}
	hash, info := *known, m.engine.Info()
	if c.head.Model != hash {
		return fmt.Errorf("%w: its hash is %.12s (%s), this model's %.12s (%s); train a classifier with this model", ErrOtherModel, c.head.Model, c.head.Architecture, hash, info.Architecture)
	}
	if c.head.Size() != info.HiddenSize || c.head.Layer > info.Layers {
		return fmt.Errorf("%w: it reads %d values of layer %d", ErrClassifierFile, c.head.Size(), c.head.Layer)
	}
	return nil
}

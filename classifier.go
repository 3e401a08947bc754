package mlx

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/head"
	"forge.lthn.ai/core/go-mlx/quality"
)

// Classifier is a linear classifier (multinomial logistic regression) on the hidden states of one layer of a model. It is trained in
// seconds, its file is small, and it serves the model that it was trained with only. It is safe for concurrent use.
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
	// Temperature divides scores before their softmax.
	Temperature float64 `json:"temperature"`
	// MinEnergy is the energy (Liu et al. 2020, arXiv:2010.03759) below which a text counts as of no known label.
	MinEnergy  float64   `json:"min_energy"`
	Penalty    float64   `json:"penalty"` // weight of half the weights' squared norm, chosen on the validation part
	Texts      int       `json:"texts"`   // fitted to
	DataDate   time.Time `json:"data_date"`
	DataHash   string    `json:"data_hash"`  // SHA-256 of labels and texts
	Validation *Report   `json:"validation"` // how good it was on texts that were kept back
}

type (
	// Report says how good classifications are; see [quality.Report].
	Report = quality.Report
	// Prediction is the label that a text got, and the right one; see [quality.Prediction].
	Prediction = quality.Prediction
)

// ErrClassifierFile: a file is no classifier, or a broken one.
var ErrClassifierFile = head.ErrFile

// ErrOtherModel: a classifier was trained with another model.
var ErrOtherModel = errors.New("the classifier was trained with another model")

// ClassifierOptions are those of TrainClassifier. The zero value is good.
type ClassifierOptions struct {
	// Layers are tried, and the one whose head is best on the validation part is taken. Earlier layers are faster: those after
	// the chosen one are not computed. The default is the one at four ninths of the model's depth, where Gemma 3 and SmolLM2 tell
	// domains apart best.
	Layers []int
	// Validation is the share of the texts, chosen by their hash, that is not fitted to; 0 for a tenth.
	Validation float64
	// DataDate is the date of the data; the zero value for now.
	DataDate time.Time
}

// HiddenStates is what models of the native engine also are: they give hidden states away, on which classifiers are trained.
type HiddenStates interface {
	// States returns, for each of the layers, a vector for each text: the mean over its tokens of what the layer puts out.
	States(ctx context.Context, texts []string, options StatesOptions) ([][][]float32, error)
	// Fingerprint tells models apart: a hash of the config, the adapter and samples of the weights.
	Fingerprint() (string, error)
}

// StatesOptions say which hidden states are wanted; see [engine.StatesOptions].
type StatesOptions = engine.StatesOptions

const noStates = "only the native engine gives hidden states away; load the model with it"

// TrainClassifier fits a classifier to labelled texts. Texts are split by their hash, so that a text that occurs twice is not on both sides.
// Where texts have groups, whole groups, the smallest of each label, are kept back instead: probabilities and threshold are then
// honest for texts of groups that the classifier has never seen, and the validation table too. At the end weights are fitted to all texts.
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
		layers = []int{max(1, (m.Info().Layers*4+4)/9)}
	}
	plain := make([]string, len(texts))
	for i, t := range texts {
		plain[i] = t.Text
	}
	vectors, err := states.States(ctx, plain, engine.StatesOptions{Layers: layers})
	if err != nil {
		return nil, fmt.Errorf("train a classifier: %w", err)
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
		return info, nil, &OptionError{Option: "labels", Reason: fmt.Sprintf("%d texts have %d labels; two are the least", len(texts), len(info.Labels))}
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

func fitClassifier(ctx context.Context, info head.Info, texts []LabelledText, vectors [][]float32, truth []int, share float64) (*Classifier, error) {
	var train, validation, all head.Data
	var held []int
	kept := keptBack(texts, share)
	for i := range texts {
		part := &train
		if kept[i] {
			part, held = &validation, append(held, i)
		}
		part.X, part.Y = append(part.X, vectors[i]), append(part.Y, truth[i])
		all.X, all.Y = append(all.X, vectors[i]), append(all.Y, truth[i])
	}
	h, err := head.Fit(ctx, info, train, validation)
	if err != nil {
		return nil, err
	}
	var predictions []Prediction
	for _, i := range held {
		p := h.Predict(vectors[i])
		p.Truth, p.Text = texts[i].Label, texts[i].Text
		predictions = append(predictions, p)
	}
	if h.Validation, err = quality.NewReport(info.Labels, predictions); err != nil {
		return nil, err
	}
	h.Validation.Mistakes = nil // the file holds none of the texts
	if slices.ContainsFunc(texts, func(t LabelledText) bool { return t.Group != "" }) {
		if h, err = h.Refit(ctx, all); err != nil {
			return nil, err
		}
	}
	return &Classifier{h}, nil
}

// keptBack says which texts are not fitted to: of each label its smallest groups, until they are a share of its texts; where that would be more
// than half of them, or without groups, a share of the texts by their hash.
func keptBack(texts []LabelledText, share float64) []bool {
	type group struct {
		name  string
		texts float64
	}
	groups, total := map[string][]group{}, map[string]float64{} // of each label
	for _, t := range texts {
		of := groups[t.Label]
		i := slices.IndexFunc(of, func(g group) bool { return g.name == t.Group })
		if i < 0 {
			i, of = len(of), append(of, group{name: t.Group})
		}
		of[i].texts++
		groups[t.Label], total[t.Label] = of, total[t.Label]+1
	}
	whole := map[string][]string{} // groups that are kept back
	for label, of := range groups {
		slices.SortFunc(of, func(a, b group) int { return cmp.Or(cmp.Compare(a.texts, b.texts), strings.Compare(a.name, b.name)) })
		sum := 0.0
		for _, g := range of {
			if sum >= share*total[label] {
				break
			}
			sum += g.texts
			whole[label] = append(whole[label], g.name)
		}
		if sum > total[label]/2 {
			delete(whole, label)
		}
	}
	kept := make([]bool, len(texts))
	for i, t := range texts {
		if names, ok := whole[t.Label]; ok {
			kept[i] = slices.Contains(names, t.Group)
		} else {
			kept[i] = hashShare(t.Text) < share
		}
	}
	return kept
}

// hashShare is a number from 0 up to 1 that follows from a text.
func hashShare(text string) float64 {
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, text)
	// The last bits of FNV are its best ones.
	return float64(hash.Sum64()%100003) / 100003
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
func (c *Classifier) Save(path string) error { return c.head.Save(path) }

// Info describes the classifier.
func (c *Classifier) Info() ClassifierInfo { return ClassifierInfo(c.head.Info) }

// classifyByHead classifies with a trained classifier.
func (m *model) classifyByHead(ctx context.Context, texts []string, o classifyOptions) ([]Classification, error) {
	h := o.classifier.head
	states, ok := m.engine.(HiddenStates)
	if !ok {
		return nil, &OptionError{Option: "WithClassifier", Reason: noStates}
	}
	switch {
	case o.Labels != nil && !slices.Equal(slices.Sorted(slices.Values(o.Labels)), slices.Sorted(slices.Values(h.Labels))):
		return nil, &OptionError{Option: "labels", Reason: fmt.Sprintf("%q are not the classifier's %q", o.Labels, h.Labels)}
	case o.Prompt != "" || o.Details != nil || o.prior != "":
		return nil, &OptionError{Option: "WithClassifier", Reason: "a trained classifier has no use for a prompt, details of labels or a prior"}
	case !(o.MinProbability >= 0 && o.MinProbability <= 1):
		return nil, &OptionError{Option: "WithAbstain", Reason: fmt.Sprintf("probability %v is not between 0 and 1", o.MinProbability)}
	}
	if err := m.matches(states, o.classifier); err != nil {
		return nil, err
	}
	vectors, err := states.States(ctx, texts, engine.StatesOptions{Layers: []int{h.Layer}})
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
		results[i].Abstained = results[i].Abstained || h.Unknown(logits)
	}
	return results, nil
}

// matches checks that a classifier was trained with the model.
func (m *model) matches(states HiddenStates, c *Classifier) error {
	if m.matched.Load() == c {
		return nil
	}
	hash, err := states.Fingerprint()
	if err != nil {
		return err
	}
	info := m.engine.Info()
	if c.head.Model != hash {
		return fmt.Errorf("%w: its hash is %.12s (%s), this model's %.12s (%s); train a classifier with this model", ErrOtherModel, c.head.Model, c.head.Architecture, hash, info.Architecture)
	}
	if c.head.Size() != info.HiddenSize || c.head.Layer > info.Layers {
		return fmt.Errorf("%w: it reads %d values of layer %d", ErrClassifierFile, c.head.Size(), c.head.Layer)
	}
	m.matched.Store(c)
	return nil
}

package score

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/kv"
)

// embedder is what follows the model's hidden states in a folder of the Sentence Transformers' layout
// (modules.json): pooling, dense layers, normalisation. A folder without it gets the normed mean.
type embedder struct {
	LastToken bool // pool by taking the last token; otherwise the mean
	dense     []*nn.Linear
	normalize bool
	size      int // of the vectors
	prompts   map[string]string
}

// sentenceModule is an entry of modules.json.
type sentenceModule struct {
	Path string `json:"path"`
	Type string `json:"type"`
}

// readEmbedder reads modules.json and what it names; scope owns the weights. Nothing is evaluated yet.
func readEmbedder(dir string, scope *mlxc.Scope, hiddenSize int) (*embedder, error) {
	e := &embedder{size: hiddenSize, normalize: true}
	var modules []sentenceModule
	switch err := checkpoint.ReadJSON(filepath.Join(dir, "modules.json"), &modules); {
	case errors.Is(err, os.ErrNotExist):
		return e, nil
	case err != nil:
		return nil, err
	}
	e.normalize = false
	for _, module := range modules {
		kind := module.Type[strings.LastIndexByte(module.Type, '.')+1:]
		path := filepath.Join(dir, filepath.FromSlash(module.Path))
		var err error
		switch kind {
		case "Transformer":
		case "Pooling":
			err = e.readPooling(path)
		case "Dense":
			err = e.readDense(path, scope)
		case "Normalize":
			e.normalize = true
		default:
			err = fmt.Errorf("module %q: %w", module.Type, engine.ErrUnsupported)
		}
		if err != nil {
			return nil, fmt.Errorf("modules.json: %w", err)
		}
	}
	var config struct {
		Prompts map[string]string `json:"prompts"`
	}
	if err := checkpoint.ReadJSON(filepath.Join(dir, "config_sentence_transformers.json"), &config); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	e.prompts = config.Prompts
	return e, nil
}

func (e *embedder) readPooling(dir string) error {
	var modes map[string]any
	if err := checkpoint.ReadJSON(filepath.Join(dir, "config.json"), &modes); err != nil {
		return err
	}
	var on []string
	for name, value := range modes {
		if strings.HasPrefix(name, "pooling_mode_") && value == true {
			on = append(on, strings.TrimPrefix(name, "pooling_mode_"))
		}
	}
	switch {
	case slices.Equal(on, []string{"lasttoken"}):
		e.LastToken = true
	case slices.Equal(on, []string{"mean_tokens"}):
		e.LastToken = false
	default:
		slices.Sort(on)
		return fmt.Errorf("pooling by %v: %w", on, engine.ErrUnsupported)
	}
	return nil
}

func (e *embedder) readDense(dir string, scope *mlxc.Scope) error {
	var config struct {
		In         int    `json:"in_features"`
		Out        int    `json:"out_features"`
		Bias       bool   `json:"bias"`
		Activation string `json:"activation_function"`
	}
	if err := checkpoint.ReadJSON(filepath.Join(dir, "config.json"), &config); err != nil {
		return err
	}
	if !strings.HasSuffix(config.Activation, ".Identity") && config.Activation != "" {
		return fmt.Errorf("dense layer with %s: %w", config.Activation, engine.ErrUnsupported)
	}
	file := filepath.Join(dir, "model.safetensors")
	header, err := safetensors.ReadFile(file)
	if err != nil {
		return err
	}
	var problems checkpoint.Problems
	want := map[string][]int{"linear.weight": {config.Out, config.In}}
	if config.Bias {
		want["linear.bias"] = []int{config.Out}
	}
	for name, shape := range want {
		if t, ok := header[name]; !ok || !slices.Equal(t.Shape, shape) {
			problems.Add("tensor %s has shape %v, want %v", name, t.Shape, shape)
		}
	}
	if config.In != e.size {
		problems.Add("the dense layer takes %d values of the %d before it", config.In, e.size)
	}
	if len(problems) > 0 {
		return &engine.CheckpointError{Path: dir, Problems: problems}
	}
	arrays := scope.LoadSafetensors(file)
	layer := nn.NewLinear(scope, arrays["linear.weight"])
	if config.Bias {
		layer = layer.WithBias(arrays["linear.bias"])
	}
	if err := scope.Eval(layer.Arrays()...); err != nil {
		return err
	}
	e.dense, e.size = append(e.dense, layer), config.Out
	return nil
}

// Apply makes vectors float32 [B, size] of hidden states [B, width, hidden], of which the first lengths[b] count.
func (e *embedder) Apply(s *mlxc.Scope, h *mlxc.Array, lengths []int, width int) *mlxc.Array {
	rows := len(lengths)
	var x *mlxc.Array
	if e.LastToken {
		last := make([]int32, rows)
		for b, length := range lengths {
			last[b] = int32(b*width + length - 1)
		}
		x = s.AsType(s.Take(s.Reshape(h, rows*width, -1), s.FromInts(last, rows), 0), mlxc.Float32)
	} else {
		weights := make([]float32, rows*width)
		for b, length := range lengths {
			for t := range length {
				weights[b*width+t] = 1 / float32(length)
			}
		}
		x = s.Squeeze(s.Matmul(s.FromFloats(weights, rows, 1, width), s.AsType(h, mlxc.Float32)), 1)
	}
	return e.project(s, x)
}

// poolPart is the part that the states h [1, n, hidden] of a text of total tokens, of which the first is at from, have in its
// pooled state, float32 [1, hidden]: the sum of all parts is that.
func (e *embedder) poolPart(s *mlxc.Scope, h *mlxc.Array, from, total int) *mlxc.Array {
	n := h.Dim(1)
	weights := make([]float32, n)
	for t := range weights {
		switch {
		case !e.LastToken:
			weights[t] = 1 / float32(total)
		case from+t == total-1:
			weights[t] = 1
		}
	}
	return s.Squeeze(s.Matmul(s.FromFloats(weights, 1, 1, n), s.AsType(h, mlxc.Float32)), 1)
}

// project runs pooled states [B, hidden] through the layers after the pooling.
func (e *embedder) project(s *mlxc.Scope, x *mlxc.Array) *mlxc.Array {
	for _, layer := range e.dense {
		x = s.AsType(layer.Apply(s, x), mlxc.Float32)
	}
	return x
}

// applyPacked makes vectors float32 [B, size] of hidden states [N, hidden], in which every text has its span, by the CPU kernels.
func (e *embedder) applyPacked(s *mlxc.Scope, h *mlxc.Array, texts []kv.Span) *mlxc.Array {
	pooled := make([]*mlxc.Array, len(texts))
	for b, text := range texts {
		if e.LastToken {
			text.Begin = text.End - 1
		}
		part := s.AsType(s.Slice(h, 0, text.Begin, text.End), mlxc.Float32)
		pooled[b] = s.Divide(s.Sum(part, 0, true), s.Scalar(float64(text.End-text.Begin), mlxc.Float32))
	}
	x := s.Concatenate(0, pooled...)
	for _, layer := range e.dense {
		x = s.Apply(x, mlxc.NoGate, true, false, layer.Layer())
	}
	return x
}

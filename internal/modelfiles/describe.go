package modelfiles

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/gguf"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// described is what every config has.
type described struct {
	ModelType     string          `json:"model_type"`
	Layers        int             `json:"num_hidden_layers"`
	HiddenSize    int             `json:"hidden_size"`
	VocabSize     int             `json:"vocab_size"`
	ContextLength int             `json:"max_position_embeddings"`
	Text          json.RawMessage `json:"text_config"`
	Quantization  json.RawMessage `json:"quantization"`
}

// quantization is what a config says of packed weights. It is for display: loading goes by the shapes of the tensors.
type quantization struct {
	Bits      int `json:"bits"`
	GroupSize int `json:"group_size"`
}

// Describe says what a model is by its config and the headers of its weight files alone.
func (s *Source) Describe() (engine.Info, error) {
	data, err := s.Read("config.json")
	if err != nil {
		return engine.Info{}, err
	}
	if data, err = CleanConfig(data); err != nil {
		return engine.Info{}, fmt.Errorf("config.json: %w", err)
	}
	var config described
	if err := UnmarshalConfig(data, &config); err != nil {
		return engine.Info{}, fmt.Errorf("config.json: %w", err)
	}
	if bytes.HasPrefix(config.Text, []byte("{")) { // of a model with several parts
		kind := config.ModelType
		if err := UnmarshalConfig(config.Text, &config); err != nil {
			return engine.Info{}, fmt.Errorf("config.json: text_config: %w", err)
		}
		config.ModelType = kind
	}
	info := engine.Info{
		Path: s.Dir, Architecture: config.ModelType, Layers: config.Layers, HiddenSize: config.HiddenSize,
		VocabSize: config.VocabSize, ContextLength: config.ContextLength,
	}
	if s.GGUF != "" {
		return info, s.describeGGUF(&info)
	}
	var packed quantization
	if json.Unmarshal(config.Quantization, &packed) == nil && packed.Bits > 0 {
		info.Quantization = fmt.Sprintf("%d-bit, groups of %d", packed.Bits, packed.GroupSize)
	}
	return info, s.describeTensors(&info, packed.GroupSize)
}

func (s *Source) describeGGUF(info *engine.Info) error {
	info.Path = s.GGUF
	c, err := s.OpenGGUF(gguf.Plain)
	if err != nil {
		return err
	}
	for _, t := range c.Header.Tensors {
		info.Parameters += t.Elements()
		info.WeightBytes += t.Bytes()
	}
	info.DType, info.Quantization = dtypeNames[c.DType], c.Types()
	return c.Close()
}

var dtypeNames = map[string]string{"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

func (s *Source) describeTensors(info *engine.Info, group int) error {
	files, err := Tensors(s.Dir)
	if err != nil {
		return err
	}
	tensors := map[string]safetensors.Tensor{}
	for _, file := range files {
		header, err := safetensors.ReadFile(file)
		if err != nil {
			return err
		}
		maps.Copy(tensors, header)
	}
	types := map[string]bool{}
	for name, t := range tensors {
		info.WeightBytes += t.Bytes()
		stem, isWeight := strings.CutSuffix(name, ".weight")
		scales, packed := tensors[stem+".scales"]
		switch {
		case strings.HasSuffix(name, ".scales") || strings.HasSuffix(name, ".biases"):
		case isWeight && packed && t.DType == "U32":
			info.Parameters += scales.Elements() * int64(max(group, 1))
		default:
			info.Parameters += t.Elements()
			if dtype, ok := dtypeNames[t.DType]; ok {
				types[dtype] = true
			}
		}
	}
	info.DType = strings.Join(slices.Sorted(maps.Keys(types)), ", ")
	return nil
}

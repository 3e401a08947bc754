package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// Adapters are LoRAs in mlx-lm's form: a folder with these two files, arrays named after the layer with ".lora_a" [in, rank]
// and ".lora_b" [rank, out].
const (
	AdapterConfigFile  = "adapter_config.json"
	AdapterWeightsFile = "adapters.safetensors"
)

// AdapterConfig is adapter_config.json.
type AdapterConfig struct {
	Model        string         `json:"model,omitempty"`
	FineTuneType string         `json:"fine_tune_type"`
	NumLayers    int            `json:"num_layers"`
	Parameters   LoRAParameters `json:"lora_parameters"`
}

// LoRAParameters says how an adapter's layers were made.
type LoRAParameters struct {
	Rank    int      `json:"rank"`
	Scale   float32  `json:"scale"`
	Dropout float32  `json:"dropout"`
	Keys    []string `json:"keys,omitempty"` // of layers within a block; all if empty
}

func readAdapterConfig(dir string) (*AdapterConfig, error) {
	c := &AdapterConfig{FineTuneType: "lora"}
	if err := ReadJSON(filepath.Join(dir, AdapterConfigFile), c); err != nil {
		return nil, err
	}
	if c.FineTuneType != "lora" {
		return nil, fmt.Errorf("fine_tune_type %q: %w; the native engine has lora", c.FineTuneType, engine.ErrUnsupported)
	}
	if c.Parameters.Rank < 1 || c.Parameters.Scale == 0 || math.IsNaN(float64(c.Parameters.Scale)) {
		return nil, fmt.Errorf("rank %d and scale %v: %s is incomplete", c.Parameters.Rank, c.Parameters.Scale, AdapterConfigFile)
	}
	return c, nil
}

// LoadAdapter reads an adapter and adds it to the layers. The scope owns its arrays. forKernels lays them out as the CPU kernels read them: in
// float32, and each A column by column, which the kernels would otherwise do again for every token.
func LoadAdapter(scope *mlxc.Scope, layers Linears, dir string, forKernels bool) (err error) {
	config, err := readAdapterConfig(dir)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, AdapterWeightsFile)
	headers, err := safetensors.ReadFile(file)
	if err != nil {
		return err
	}
	var bad Problems
	loras := map[string]*nn.LoRA{}
	files := scope.Child() // of the arrays as they are in the file
	defer func() { err = errors.Join(err, files.Close()) }()
	arrays := files.LoadSafetensors(file)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		layer, part := splitLoRAName(name)
		l, ok := layers[layer]
		if !ok || part == "" {
			bad.Add("unknown tensor %s %v", name, headers[name].Shape)
			continue
		}
		in, out := l.Dims()
		want := []int{in, config.Parameters.Rank}
		if part == "lora_b" {
			want = []int{config.Parameters.Rank, out}
		}
		if !slices.Equal(headers[name].Shape, want) {
			bad.Add("tensor %s has shape %v, want %v", name, headers[name].Shape, want)
			continue
		}
		if loras[layer] == nil {
			loras[layer] = &nn.LoRA{Scale: config.Parameters.Scale}
		}
		if part == "lora_a" {
			loras[layer].A = arrays[name]
		} else {
			loras[layer].B = arrays[name]
		}
	}
	for _, layer := range slices.Sorted(maps.Keys(loras)) {
		if loras[layer].A == nil || loras[layer].B == nil {
			bad.Add("%s has lora_a or lora_b and not both", layer)
		}
	}
	if len(loras) == 0 {
		bad.Add("no layer has one")
	}
	if len(bad) > 0 {
		return &engine.CheckpointError{Path: dir, Problems: bad}
	}
	if err := errors.Join(files.Err(), files.Eval(slices.Collect(maps.Values(arrays))...)); err != nil {
		return err
	}
	var kept []*mlxc.Array
	for _, lora := range loras {
		if forKernels {
			byColumns := files.Contiguous(files.Transpose(files.AsType(lora.A, mlxc.Float32)))
			lora.A, lora.B = scope.Transpose(byColumns), scope.Contiguous(files.AsType(lora.B, mlxc.Float32))
		} else {
			lora.A, lora.B = scope.Adopt(lora.A), scope.Adopt(lora.B)
		}
		kept = append(kept, lora.A, lora.B)
	}
	if err := errors.Join(files.Err(), scope.Err(), scope.Eval(kept...)); err != nil {
		return err
	}
	for layer, lora := range loras {
		layers[layer].Adapt(lora)
	}
	return nil
}

// splitLoRAName is the layer, as the native engine names it, and "lora_a" or "lora_b".
func splitLoRAName(name string) (layer, part string) {
	layer, part, _ = cutLast(name, ".")
	if part != "lora_a" && part != "lora_b" {
		return layer, ""
	}
	return strings.TrimPrefix(layer, MultimodalPrefix), part
}

// MultimodalPrefix is the prefix of the text model's names in mlx-lm's models that have other parts, too.
const MultimodalPrefix = "language_model."

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

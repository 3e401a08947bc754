package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// Adapters are LoRAs in mlx-lm's form: a folder with these two files, arrays named after the layer with ".lora_a" [in, rank]
// and ".lora_b" [rank, out].
const (
	adapterConfigFile  = "adapter_config.json"
	adapterWeightsFile = "adapters.safetensors"
)

type adapterConfig struct {
	Model        string         `json:"model,omitempty"`
	FineTuneType string         `json:"fine_tune_type"`
	NumLayers    int            `json:"num_layers"`
	Parameters   loraParameters `json:"lora_parameters"`
}

type loraParameters struct {
	Rank    int      `json:"rank"`
	Scale   float32  `json:"scale"`
	Dropout float32  `json:"dropout"`
	Keys    []string `json:"keys,omitempty"` // of layers within a block; all if empty
}

func readAdapterConfig(dir string) (*adapterConfig, error) {
	c := &adapterConfig{FineTuneType: "lora"}
	if err := readJSON(filepath.Join(dir, adapterConfigFile), c); err != nil {
		return nil, fmt.Errorf("adapter: %w", err)
	}
	if c.FineTuneType != "lora" {
		return nil, fmt.Errorf("adapter %s: fine_tune_type %q: %w; the native engine has lora", dir, c.FineTuneType, engine.ErrUnsupported)
	}
	if c.Parameters.Rank < 1 || c.Parameters.Scale == 0 || math.IsNaN(float64(c.Parameters.Scale)) {
		return nil, fmt.Errorf("adapter %s: rank %d and scale %v: %s is incomplete", dir, c.Parameters.Rank, c.Parameters.Scale, adapterConfigFile)
	}
	return c, nil
}

// loadAdapter reads an adapter and adds it to the layers. The weights' scope owns its arrays.
func (n *network) loadAdapter(dir string) error {
	config, err := readAdapterConfig(dir)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, adapterWeightsFile)
	headers, err := safetensors.ReadFile(file)
	if err != nil {
		return fmt.Errorf("adapter: %w", err)
	}
	var bad problems
	loras := map[string]*nn.LoRA{}
	arrays := n.weights.LoadSafetensors(file)
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		layer, part := splitLoRAName(name)
		l, ok := n.linears[layer]
		if !ok || part == "" {
			bad.add("unknown tensor %s %v", name, headers[name].Shape)
			continue
		}
		in, out := l.Dims()
		want := []int{in, config.Parameters.Rank}
		if part == "lora_b" {
			want = []int{config.Parameters.Rank, out}
		}
		if !slices.Equal(headers[name].Shape, want) {
			bad.add("tensor %s has shape %v, want %v", name, headers[name].Shape, want)
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
			bad.add("%s has lora_a or lora_b and not both", layer)
		}
	}
	if len(loras) == 0 {
		bad.add("no layer has one")
	}
	if len(bad) > 0 {
		return &engine.CheckpointError{Path: dir, Problems: bad}
	}
	if err := errors.Join(n.weights.Err(), n.weights.Eval(slices.Collect(maps.Values(arrays))...)); err != nil {
		return err
	}
	for layer, lora := range loras {
		n.linears[layer].Adapt(lora)
	}
	return nil
}

// splitLoRAName is the layer, as the native engine names it, and "lora_a" or "lora_b".
func splitLoRAName(name string) (layer, part string) {
	layer, part, _ = cutLast(name, ".")
	if part != "lora_a" && part != "lora_b" {
		return layer, ""
	}
	return strings.TrimPrefix(layer, multimodalPrefix), part
}

// multimodalPrefix stands before the text model's names in mlx-lm's models that have other parts too.
const multimodalPrefix = "language_model."

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// newAdapter makes fresh LoRAs for the linear layers of the last blocks: A uniform within 1/sqrt(in), B zero. keys name
// layers within a block, none of them all. The arrays are kept; the caller frees them.
func (n *network) newAdapter(s *mlxc.Scope, c *adapterConfig, seed uint64) ([]namedLoRA, error) {
	key := s.RandomKey(seed)
	var out []namedLoRA
	blocks := len(n.shape.windows)
	first := 0
	if c.NumLayers > 0 {
		first = max(0, blocks-c.NumLayers)
	}
	found := map[string]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(n.linears), byBlock) {
		block, within, ok := blockOf(name)
		if !ok || len(c.Parameters.Keys) > 0 && !slices.Contains(c.Parameters.Keys, within) {
			continue
		}
		found[within] = true
		if block < first {
			continue
		}
		in, width := n.linears[name].Dims()
		var draw *mlxc.Array
		key, draw = s.RandomSplit(key)
		bound := s.Scalar(1/math.Sqrt(float64(in)), mlxc.Float32)
		uniform := s.Uniform(draw, in, c.Parameters.Rank)
		a := s.Multiply(s.Subtract(s.Multiply(uniform, s.Scalar(2, mlxc.Float32)), s.Scalar(1, mlxc.Float32)), bound)
		out = append(out, namedLoRA{name, &nn.LoRA{A: a, B: s.Zeros(mlxc.Float32, c.Parameters.Rank, width), Scale: c.Parameters.Scale}})
	}
	for _, k := range c.Parameters.Keys {
		if !found[k] {
			return nil, &engine.OptionError{Option: "Keys", Reason: fmt.Sprintf("blocks of this model have no linear layer %q", k)}
		}
	}
	var arrays []*mlxc.Array
	for _, l := range out {
		arrays = append(arrays, l.A, l.B)
	}
	if err := s.Eval(arrays...); err != nil {
		return nil, err
	}
	for _, a := range arrays {
		s.Keep(a)
	}
	return out, nil
}

// namedLoRA is the LoRA of a layer.
type namedLoRA struct {
	layer string
	*nn.LoRA
}

// blockOf splits "model.layers.3.self_attn.q_proj".
func blockOf(name string) (block int, within string, ok bool) {
	rest, ok := strings.CutPrefix(name, "model.layers.")
	if !ok {
		return 0, "", false
	}
	number, within, ok := strings.Cut(rest, ".")
	block, err := strconv.Atoi(number)
	return block, within, ok && err == nil
}

// byBlock orders layers by block, then by name.
func byBlock(a, b string) int {
	blockA, withinA, _ := blockOf(a)
	blockB, withinB, _ := blockOf(b)
	if blockA != blockB {
		return blockA - blockB
	}
	return strings.Compare(withinA, withinB)
}

// saveAdapter writes LoRAs in mlx-lm's form. Each file appears whole or not at all.
func saveAdapter(s *mlxc.Scope, dir string, c *adapterConfig, loras []namedLoRA, prefix string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	arrays := map[string]*mlxc.Array{}
	for _, l := range loras {
		arrays[prefix+l.layer+".lora_a"], arrays[prefix+l.layer+".lora_b"] = l.A, l.B
	}
	if err := saveWhole(s, filepath.Join(dir, adapterWeightsFile), arrays, nil); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	data, err := json.MarshalIndent(c, "", "    ")
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, adapterConfigFile), data)
}

// saveWhole saves arrays beside and renames: what is moved into place is always complete.
func saveWhole(s *mlxc.Scope, path string, arrays map[string]*mlxc.Array, metadata map[string]string) error {
	temp := path + ".part.safetensors" // MLX adds ".safetensors" to names without it
	defer os.Remove(temp)
	if err := s.SaveSafetensors(temp, arrays, metadata); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func writeWhole(path string, data []byte) error {
	temp := path + ".partial"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

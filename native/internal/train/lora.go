package train

import (
	"encoding/json"
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
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
)

// newAdapter makes fresh LoRAs for the linear layers of the last blocks: A uniform within 1/sqrt(in), B zero. keys name
// layers within a block, none of them all. The arrays are kept; the caller frees them.
func newAdapter(s *mlxc.Scope, layers checkpoint.Linears, blocks int, c *checkpoint.AdapterConfig, seed uint64) ([]namedLoRA, error) {
	key := s.RandomKey(seed)
	var out []namedLoRA
	first := 0
	if c.NumLayers > 0 {
		first = max(0, blocks-c.NumLayers)
	}
	found := map[string]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(layers), byBlock) {
		block, within, ok := blockOf(name)
		if !ok || len(c.Parameters.Keys) > 0 && !slices.Contains(c.Parameters.Keys, within) {
			continue
		}
		found[within] = true
		if block < first {
			continue
		}
		in, width := layers[name].Dims()
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
func saveAdapter(s *mlxc.Scope, dir string, c *checkpoint.AdapterConfig, loras []namedLoRA, prefix string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	arrays := map[string]*mlxc.Array{}
	for _, l := range loras {
		arrays[prefix+l.layer+".lora_a"], arrays[prefix+l.layer+".lora_b"] = l.A, l.B
	}
	if err := s.ReplaceSafetensors(filepath.Join(dir, checkpoint.AdapterWeightsFile), arrays, nil); err != nil {
		return fmt.Errorf("save adapter: %w", err)
	}
	data, err := json.MarshalIndent(c, "", "    ")
	if err != nil {
		return err
	}
	return writeWhole(filepath.Join(dir, checkpoint.AdapterConfigFile), data)
}

// writeWhole writes a file beside and renames it.
func writeWhole(path string, data []byte) error {
	temp := path + ".partial"
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

package kv

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// A store on disk: a safetensors file of keys and values, with their tokens and
// the model's fingerprint in its metadata.

const promptFileFormat = "go-mlx prompt cache 1"

// savedState describes one state of the file; for its tensors see tensorName.
type savedState struct {
	Tokens []int32    `json:"tokens"`
	Layers []Snapshot `json:"layers"`
}

// tensorName is the name of the "keys" or "values" of a layer of the file's state-th state.
func tensorName(state, layer int, part string) string {
	return fmt.Sprintf("%d.%d.%s", state, layer, part)
}

// Save writes what is kept to a file. model tells models apart.
func (c *Store) Save(s *mlxc.Scope, path, model string) error {
	arrays := map[string]*mlxc.Array{}
	var states []savedState
	for i, kept := range c.sequences() {
		saved := savedState{Tokens: kept.node.tokens()}
		for layer, c := range kept.sequence.Caches {
			snapshot, keys, values := Save(s, c)
			saved.Layers = append(saved.Layers, snapshot)
			arrays[tensorName(i, layer, "keys")], arrays[tensorName(i, layer, "values")] = keys, values
		}
		states = append(states, saved)
	}
	if err := s.Eval(slices.Collect(maps.Values(arrays))...); err != nil {
		return err
	}
	described, err := json.Marshal(states)
	if err != nil {
		return err
	}
	return s.ReplaceSafetensors(path, arrays, map[string]string{"format": promptFileFormat, "model": model, "states": string(described)})
}

// File is a file of kept KV that was checked.
type File struct {
	path   string
	states []savedState
}

// Load adds the states of a file.
func (c *Store) Load(s *mlxc.Scope, f *File, l *Layout) (err error) {
	arrays := s.LoadSafetensors(f.path)
	if s.Err() != nil {
		return s.Err()
	}
	if err := s.Eval(slices.Collect(maps.Values(arrays))...); err != nil {
		return err
	}
	for i, saved := range f.states {
		st := NewSequence(l)
		for layer, snapshot := range saved.Layers {
			st.Caches[layer] = Restore(s, snapshot, arrays[tensorName(i, layer, "keys")], arrays[tensorName(i, layer, "values")], st.Rings)
		}
		err = errors.Join(err, c.Keep(s, saved.Tokens, st, ForPrompts), st.Free())
	}
	return errors.Join(err, s.Err())
}

// ReadFile checks a file against the model before MLX sees it. dtype is MLX's name of the type of keys and values, and
// checkIDs what tells whether the model can have seen tokens.
func ReadFile(path, model, dtype string, l *Layout, checkIDs func([]int32) error) (*File, error) {
	tensors, metadata, err := safetensors.ReadFileMetadata(path)
	if err != nil {
		return nil, err
	}
	if metadata["format"] != promptFileFormat {
		return nil, fmt.Errorf("format %q, want %q: save it again", metadata["format"], promptFileFormat)
	}
	if metadata["model"] != model {
		return nil, errors.New("it was saved by a model with other weights: save it again with this one")
	}
	var states []savedState
	if err := json.Unmarshal([]byte(metadata["states"]), &states); err != nil {
		return nil, fmt.Errorf("states: %w", err)
	}
	for i, st := range states {
		if len(st.Tokens) == 0 || len(st.Layers) != len(l.Windows) {
			return nil, fmt.Errorf("state %d has %d tokens and %d layers, the model has %d layers", i, len(st.Tokens), len(st.Layers), len(l.Windows))
		}
		if err := checkIDs(st.Tokens); err != nil {
			return nil, fmt.Errorf("state %d: %w", i, err)
		}
		for layer, snapshot := range st.Layers {
			held, err := snapshot.Check(len(st.Tokens), l.Windows[layer])
			if err != nil {
				return nil, fmt.Errorf("state %d, layer %d: %w", i, layer, err)
			}
			want := []int{1, l.KVHeads, held, l.HeadDim}
			for _, part := range []string{"keys", "values"} {
				t, ok := tensors[tensorName(i, layer, part)]
				if !ok || !slices.Equal(t.Shape, want) || safetensors.TypeName(t.DType) != dtype {
					return nil, fmt.Errorf("state %d, layer %d: %s are %v %s, want %v %s", i, layer, part, t.Shape, safetensors.TypeName(t.DType), want, dtype)
				}
			}
		}
	}
	return &File{path, states}, nil
}

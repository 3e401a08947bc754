package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/nn"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
)

// The prompt cache on disk: a safetensors file of keys and values, with the tokens that they stand for and
// the model's fingerprint in its metadata.

const promptFileFormat = "go-mlx prompt cache 1"

// savedState describes one state of the file; for its tensors see tensorName.
type savedState struct {
	Tokens []int32       `json:"tokens"`
	Layers []nn.Snapshot `json:"layers"`
}

// tensorName is the name of the "keys" or "values" of a layer of the file's state-th state.
func tensorName(state, layer int, part string) string {
	return fmt.Sprintf("%d.%d.%s", state, layer, part)
}

// SavePromptCache writes the prompt cache to a file.
func (m *Model) SavePromptCache(ctx context.Context, path string) error {
	if m.options.PromptCache == 0 {
		return errNoPromptCache
	}
	return m.jobInTurn(ctx, func() (err error) {
		s := m.lease.NewScope()
		defer func() { err = errors.Join(err, s.Close()) }()
		arrays := map[string]*mlxc.Array{}
		var states []savedState
		for i, node := range m.prompts.nodes() {
			saved := savedState{Tokens: node.tokens()}
			for layer, c := range node.state.caches {
				snapshot, keys, values := nn.Save(s, c)
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
		return saveWhole(s, path, arrays, map[string]string{
			"format": promptFileFormat, "model": m.fingerprint, "states": string(described),
		})
	})
}

var errNoPromptCache = &engine.OptionError{Option: "WithPromptCache", Reason: "the model was loaded without a prompt cache"}

// LoadPromptCache adds the states of a file to the prompt cache. A file of another model, or a broken one, is
// an error and changes nothing.
func (m *Model) LoadPromptCache(ctx context.Context, path string) error {
	if m.options.PromptCache == 0 {
		return errNoPromptCache
	}
	states, err := m.readPromptFile(path)
	if err != nil {
		return fmt.Errorf("prompt cache %s: %w", path, err)
	}
	return m.do(ctx, func() (err error) {
		s := m.lease.NewScope()
		defer func() { err = errors.Join(err, s.Close()) }()
		arrays := s.LoadSafetensors(path)
		if s.Err() != nil {
			return s.Err()
		}
		if err := m.reserve("a prompt cache", func() int64 { return m.options.PromptCache }); err != nil {
			return err
		}
		if err := s.Eval(slices.Collect(maps.Values(arrays))...); err != nil {
			return err
		}
		for i, saved := range states {
			st := newDecodeState(m.shape)
			for layer, snapshot := range saved.Layers {
				st.caches[layer] = nn.Restore(s, snapshot, arrays[tensorName(i, layer, "keys")], arrays[tensorName(i, layer, "values")], st.kernels)
			}
			err = errors.Join(err, m.prompts.keep(s, saved.Tokens, st), st.free())
		}
		return errors.Join(err, s.Err())
	})
}

// readPromptFile checks a file against the model before MLX sees it.
func (m *Model) readPromptFile(path string) ([]savedState, error) {
	tensors, metadata, err := safetensors.ReadFileMetadata(path)
	if err != nil {
		return nil, err
	}
	if metadata["format"] != promptFileFormat {
		return nil, fmt.Errorf("format %q, want %q: save it again", metadata["format"], promptFileFormat)
	}
	if metadata["model"] != m.fingerprint {
		return nil, errors.New("it was saved by a model with other weights: save it again with this one")
	}
	var states []savedState
	if err := json.Unmarshal([]byte(metadata["states"]), &states); err != nil {
		return nil, fmt.Errorf("states: %w", err)
	}
	for i, st := range states {
		if len(st.Tokens) == 0 || len(st.Layers) != len(m.shape.windows) {
			return nil, fmt.Errorf("state %d has %d tokens and %d layers, the model has %d layers", i, len(st.Tokens), len(st.Layers), len(m.shape.windows))
		}
		if err := m.checkIDs(st.Tokens); err != nil {
			return nil, fmt.Errorf("state %d: %w", i, err)
		}
		for layer, snapshot := range st.Layers {
			held, err := snapshot.Check(len(st.Tokens), m.shape.windows[layer])
			if err != nil {
				return nil, fmt.Errorf("state %d, layer %d: %w", i, layer, err)
			}
			want := []int{1, m.shape.kvHeads, held, m.shape.headDim}
			for _, part := range []string{"keys", "values"} {
				t, ok := tensors[tensorName(i, layer, part)]
				if !ok || !slices.Equal(t.Shape, want) || dtypeName(t.DType) != m.info.DType {
					return nil, fmt.Errorf("state %d, layer %d: %s are %v %s, want %v %s", i, layer, part, t.Shape, dtypeName(t.DType), want, m.info.DType)
				}
			}
		}
	}
	return states, nil
}

// fingerprintSamples is how many places of a weights file its fingerprint looks at.
const fingerprintSamples = 64

// fingerprint tells models apart: a hash of the config and of samples of the weights. Reading all weights
// would take as long as loading them.
func fingerprint(from *modelfiles.Source, adapter string) (string, error) {
	hash := sha256.New()
	config, err := from.Read("config.json")
	if err != nil {
		return "", err
	}
	hash.Write(config)
	files, err := weightFiles(from)
	if err != nil {
		return "", err
	}
	if adapter != "" {
		files = append(files, filepath.Join(adapter, adapterWeightsFile))
	}
	for _, path := range files {
		if err := sampleFile(hash, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func sampleFile(w io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s %d\n", filepath.Base(path), stat.Size())
	sample := make([]byte, 4096)
	for i := range int64(fingerprintSamples) {
		n, err := file.ReadAt(sample, stat.Size()/fingerprintSamples*i)
		if err != nil && err != io.EOF {
			return err
		}
		if _, err := w.Write(sample[:n]); err != nil {
			return err
		}
	}
	return nil
}

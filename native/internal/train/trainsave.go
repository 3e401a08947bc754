package train

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/safetensors"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
)

// resumeFile is what a later run needs besides the adapter: the optimizer's moments, sums of gradients if the iteration was not
// one of an update, and the numbers of iterations and updates.
const resumeFile = "training_state.safetensors"

// parts are the arrays of a saved state, by the prefix of their names.
func (t *trainer) parts() map[string][]*mlxc.Array {
	return map[string][]*mlxc.Array{"p": t.trained(), "m": t.m, "v": t.v, "g": t.sums}
}

// save writes the adapter and the state after so many iterations.
func (t *trainer) save(iterations int) (err error) {
	s := t.Lease.NewScope()
	defer func() { err = errors.Join(err, s.Close()) }()
	prefix := ""
	if strings.Contains(t.Prefix, checkpoint.MultimodalPrefix) {
		prefix = checkpoint.MultimodalPrefix
	}
	if err := saveAdapter(s, t.options.Out, t.adapter, t.loras, prefix); err != nil {
		return err
	}
	arrays := map[string]*mlxc.Array{}
	for part, list := range t.parts() {
		for i, a := range list {
			arrays[fmt.Sprintf("%s.%d", part, i)] = a
		}
	}
	metadata := map[string]string{"iterations": strconv.Itoa(iterations), "updates": strconv.Itoa(t.updates), "seed": strconv.FormatUint(t.options.Seed, 10)}
	if err := s.ReplaceSafetensors(filepath.Join(t.options.Out, resumeFile), arrays, metadata); err != nil {
		return fmt.Errorf("save training state: %w", err)
	}
	return nil
}

// resume reads a state in place of the fresh one and returns how many iterations were done.
func (t *trainer) resume(s *mlxc.Scope) (int, error) {
	path := filepath.Join(t.options.Out, resumeFile)
	fail := func(err error) (int, error) { return 0, fmt.Errorf("resume: %s: %w", path, err) }
	headers, metadata, err := safetensors.ReadFileMetadata(path)
	if err != nil {
		return 0, fmt.Errorf("resume: %w", err)
	}
	if seed := strconv.FormatUint(t.options.Seed, 10); metadata["seed"] != seed {
		return fail(fmt.Errorf("it was trained with seed %s, not %s", metadata["seed"], seed))
	}
	iterations, err := strconv.Atoi(metadata["iterations"])
	if err != nil {
		return fail(err)
	}
	if t.updates, err = strconv.Atoi(metadata["updates"]); err != nil {
		return fail(err)
	}
	arrays := s.LoadSafetensors(path)
	if err := s.Err(); err != nil {
		return fail(err)
	}
	trained := t.trained()
	take := func(part string, i int) (*mlxc.Array, error) {
		name := fmt.Sprintf("%s.%d", part, i)
		a, ok := arrays[name]
		if !ok || a.DType() != mlxc.Float32 || fmt.Sprint(headers[name].Shape) != fmt.Sprint(trained[i].Shape()) {
			return nil, fmt.Errorf("tensor %s does not fit the options: it was trained with others", name)
		}
		return s.Keep(a), s.Eval(a)
	}
	for i := range trained {
		if _, ok := arrays[fmt.Sprintf("g.%d", i)]; ok {
			g, err := take("g", i)
			t.sums = append(t.sums, g)
			if err != nil {
				return fail(err)
			}
		}
		p, errP := take("p", i)
		m, errM := take("m", i)
		v, errV := take("v", i)
		if err := errors.Join(errP, errM, errV); err != nil {
			return fail(errors.Join(err, freeAll([]*mlxc.Array{p, m, v})))
		}
		if err := freeAll([]*mlxc.Array{trained[i], t.m[i], t.v[i]}); err != nil {
			return fail(err)
		}
		t.m[i], t.v[i] = m, v
		if l := t.all[i/2]; i%2 == 0 {
			l.A = p
		} else {
			l.B = p
		}
	}
	return iterations, nil
}

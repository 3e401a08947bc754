package modelfiles

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"forge.lthn.ai/core/go-mlx/engine"
)

var shardName = regexp.MustCompile(`(?s)^(model.*)-(\d{5})-of-(\d{5})\.safetensors$`)

// modelPattern are the weight files that both engines load; others may lie beside them, as a copy of the weights in their makers' own form.
const modelPattern = "model*.safetensors"

// mostShards is more than any model has; a file's name may claim anything.
const mostShards = 10000

// Tensors are the weight files of a folder in Hugging Face's layout. It is an error if one is not there that the names of the others or the
// index count: what is missing is otherwise told tensor by tensor, or not at all.
func Tensors(dir string) ([]string, error) {
	files, err := Files(dir, modelPattern)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, file := range files {
		wanted[filepath.Base(file)] = true // it may be a link to what is no more
		name := shardName.FindStringSubmatch(filepath.Base(file))
		if name == nil {
			continue
		}
		count, _ := strconv.Atoi(name[3])
		for i := 1; i <= count && count <= mostShards; i++ {
			wanted[fmt.Sprintf("%s-%05d-of-%s.safetensors", name[1], i, name[3])] = true
		}
	}
	index := indexed(dir)
	// An index that names none of the files was left over when these were joined, split anew, or renamed.
	if len(files) == 0 || slices.ContainsFunc(files, func(file string) bool { return index[filepath.Base(file)] }) {
		maps.Copy(wanted, index)
	}
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			problems = append(problems, fmt.Sprintf("the file %s is missing: download or copy it too", name))
		}
	}
	if len(problems) > 0 {
		return nil, &engine.CheckpointError{Path: dir, Problems: problems}
	}
	return files, nil
}

// indexed are the shards that a folder's index names; an index that cannot be read names none.
func indexed(dir string) map[string]bool {
	names := map[string]bool{}
	var index struct {
		Files map[string]string `json:"weight_map"`
	}
	if data, err := os.ReadFile(filepath.Join(dir, "model.safetensors.index.json")); err == nil && Unmarshal(data, &index) == nil {
		for _, name := range index.Files {
			if shardName.MatchString(name) {
				names[filepath.Base(name)] = true
			}
		}
	}
	return names
}

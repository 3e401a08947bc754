package gguf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var splitName = regexp.MustCompile(`(?s)^(.*)-(\d{5})-of-(\d{5})(\.(?i:gguf))$`)

// partsOf are the files of a split model, of which path is the first.
func partsOf(path string, h *Header) ([]string, error) {
	count, _ := h.Metadata["split.count"].(int64)
	if count <= 1 {
		return []string{path}, nil
	}
	name := splitName.FindStringSubmatch(path)
	if name == nil || name[3] != fmt.Sprintf("%05d", count) {
		return nil, fmt.Errorf("%s says that it is one of %d parts, but is not named like NAME-00001-of-%05d.gguf: give it its name back", path, count, count)
	}
	if number, _ := h.Metadata["split.no"].(int64); number != 0 || name[2] != "00001" {
		return nil, fmt.Errorf("%s is part %s of a model: give the first part, %s-00001-of-%s%s", path, name[2], name[1], name[3], name[4])
	}
	paths := make([]string, count)
	for i := range paths {
		paths[i] = fmt.Sprintf("%s-%05d-of-%s%s", name[1], i+1, name[3], name[4])
	}
	var missing []string
	for _, part := range paths {
		if _, err := os.Stat(part); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, part)
		}
	}
	if len(missing) > 0 {
		const most = 5
		shown := strings.Join(missing[:min(most, len(missing))], ", ")
		if more := len(missing) - most; more > 0 {
			shown = fmt.Sprintf("%s and %d more", shown, more)
		}
		return nil, fmt.Errorf("%d of the model's %d parts are missing: %s: put all parts into one folder: %w", len(missing), count, shown, fs.ErrNotExist)
	}
	return paths, nil
}

// laterPart is the header of the part with an index, of the model that the first part's header is of. A later part does not say of which
// model it is: it can only be of another number of parts, or of another place.
func laterPart(path string, first *Header, index int) (*Header, error) {
	h, err := ReadOutline(path)
	if err != nil {
		return nil, err
	}
	for key, want := range map[string]any{"split.no": int64(index), "split.count": first.Metadata["split.count"]} {
		if got := h.Metadata[key]; got != want {
			return nil, fmt.Errorf("%w: %s of %s is %v and should be %v: it is not a part of this model, or has another part's name", ErrMalformed, key, path, got, want)
		}
	}
	if all, said := h.Metadata["split.tensors.count"]; said && first.Metadata["split.tensors.count"] != nil && all != first.Metadata["split.tensors.count"] {
		return nil, fmt.Errorf("%w: %s is part of a model of %v tensors, the first part of one of %v", ErrMalformed, path, all, first.Metadata["split.tensors.count"])
	}
	if arch := h.Architecture(); arch != "" && arch != first.Architecture() {
		return nil, fmt.Errorf("%w: %s is of the architecture %q, the first part of %q", ErrMalformed, path, arch, first.Architecture())
	}
	return h, nil
}

// LaterPart reports whether a file's name is that of the second or a later part of a split model.
func LaterPart(path string) bool {
	name := splitName.FindStringSubmatch(path)
	return name != nil && name[2] != "00001"
}

// ModelName is what a model in a file is called: the file's name without its ending, and without the number of the part.
func ModelName(path string) string {
	base := filepath.Base(path)
	if name := splitName.FindStringSubmatch(base); name != nil {
		return name[1]
	}
	return strings.TrimSuffix(base, filepath.Ext(base))
}

// Package imports checks which packages of the module import which. docs/architecture.md has the rules.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "forge.lthn.ai/core/go-mlx"

// pkg is what go list says of a package. Names are without the module's path; the root is ".".
type pkg struct {
	imports []string // of the module, named in its files
	deps    []string // of the module, at any distance
	cgo     bool
}

// embedded reports whether dep is the model or the sentences that `go-mlx selftest` carries with it: they are data.
func embedded(name, dep string) bool {
	return name == "internal/selftest" && (dep == "tests/corpus" || dep == "tests/models")
}

// packages asks the go command, with tests left out, for the packages as tags build them.
func packages(t *testing.T, tags string) map[string]pkg {
	t.Helper()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	require.NoError(t, err)
	list := exec.Command("go", "list", "-deps", "-tags", tags, "-json=ImportPath,Imports,Deps,CgoFiles", "./...")
	list.Dir = strings.TrimSpace(string(root))
	out, err := list.Output()
	require.NoError(t, err)
	found := map[string]pkg{}
	decoder := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath              string
			Imports, Deps, CgoFiles []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		if name, ok := own(p.ImportPath); ok {
			found[name] = pkg{imports: ownOf(p.Imports), deps: ownOf(p.Deps), cgo: len(p.CgoFiles) > 0}
		}
	}
	require.Greater(t, len(found), 30, "go list found the module")
	return found
}

// own is the name of a package of the module.
func own(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func ownOf(paths []string) (names []string) {
	for _, path := range paths {
		if name, ok := own(path); ok {
			names = append(names, name)
		}
	}
	return names
}

// within reports whether a package is one of some folders or below one of them.
func within(name string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") })
}

func TestPackagesDependOnlyOnWhatTheyMay(t *testing.T) {
	for _, tags := range []string{"", "cuda"} {
		all := packages(t, tags)
		for name, r := range all {
			for _, dep := range r.deps {
				switch {
				case name == "engine":
					t.Errorf("%s depends on %s: the engines' common types depend on nothing", name, dep)
				case within(name, "native") && within(dep, "bridge", "python"), within(name, "bridge") && within(dep, "native"):
					t.Errorf("%s depends on %s: the engines are independent of each other", name, dep)
				case within(name, "internal/mlxc", "internal/nn", "internal/fused") && !within(dep, "internal/mlxc", "internal/nn"):
					t.Errorf("%s depends on %s: kernels compute on arrays and know neither tokens nor text", name, dep)
				case within(name, "native/internal/kv", "native/internal/decoder", "native/internal/checkpoint") && within(dep, "internal/tokenizer", "internal/segment"):
					t.Errorf("%s depends on %s: what computes gets token ids and no text", name, dep)
				case within(name, "native", "bridge", "internal", "engine") && within(dep, "cmd", "examples", "tests") && !embedded(name, dep),
					within(name, "native", "bridge", "engine") && within(dep, "internal/server", "."):
					t.Errorf("%s depends on %s, which is above it", name, dep)
				}
			}
			for _, other := range r.imports {
				switch {
				case within(name, "internal/server") && within(other, "native", "bridge"):
					t.Errorf("%s imports %s: the server uses the public API only", name, other)
				case name == "." && within(other, "internal/mlxc", "internal/tokenizer", "internal/nn", "internal/fused"):
					t.Errorf("%s imports %s: nothing is computed in the public API", name, other)
				case within(other, "internal/mlxc", "internal/nn", "internal/fused") && !within(name, "native", "internal/mlxc", "internal/nn", "internal/fused"):
					t.Errorf("%s imports %s, which is the native engine's", name, other)
				}
			}
			if r.cgo && name != "internal/mlxc" && name != "internal/tokenizer" {
				t.Errorf("%s has files with import \"C\": it is mlxc's over MLX and tokenizer's over Rust", name)
			}
		}
		require.True(t, all["internal/mlxc"].cgo && all["internal/tokenizer"].cgo, "go list tells of cgo")
	}
}

// The packages of the native engine, top first, and which of the others each may import.
func TestPackagesOfTheNativeEngineImportOnlyLowerOnes(t *testing.T) {
	const inside = "native/internal/"
	may := map[string][]string{
		"train":      {"decoder", "kv", "prompt", "checkpoint", "owner"},
		"decode":     {"decoder", "kv", "prompt", "owner"},
		"score":      {"decoder", "kv", "prompt", "checkpoint", "owner"},
		"prompt":     {"owner"},
		"decoder":    {"kv", "checkpoint", "owner"},
		"kv":         nil,
		"checkpoint": nil,
		"owner":      nil,
		"mlxtest":    nil,
	}
	for _, tags := range []string{"", "cuda"} {
		for name, r := range packages(t, tags) {
			inner, ok := strings.CutPrefix(name, inside)
			if !ok {
				continue
			}
			allowed, known := may[inner]
			require.True(t, known, "%s is not in the table: add it here and in docs/architecture.md", name)
			for _, other := range r.imports {
				if below, ok := strings.CutPrefix(other, inside); ok {
					require.Contains(t, allowed, below, "%s imports %s", name, other)
				}
				if other == "internal/fused" {
					require.Equal(t, "decoder", inner, "%s imports %s: kernels are the decoder's", name, other)
				}
			}
		}
	}
}

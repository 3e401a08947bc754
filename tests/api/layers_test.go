package api

import (
	"go/build"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// never are imports that docs/architecture.md rules out: what is in a folder, and what is below it, does not import these packages.
var never = map[string][]string{
	"engine":            {module}, // nor anything below it
	"quality":           {module},
	"native":            {module + "/bridge"},
	"bridge":            {module + "/native"},
	"internal/server":   {module + "/native", module + "/bridge"},
	"internal/mlxc":     {module + "/engine", module + "/native"},
	"internal/segment":  {module + "/native", module + "/bridge"},
	"internal/selftest": {module + "/internal/server"},
}

func TestPackagesKeepToTheirLayer(t *testing.T) {
	context := build.Default
	context.GOOS, context.CgoEnabled = "linux", true
	for folder, banned := range never {
		found := 0
		err := filepath.WalkDir(filepath.Join(testenv.Root(), folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			p, err := context.ImportDir(path, 0)
			if _, none := err.(*build.NoGoError); none {
				return nil
			}
			require.NoError(t, err)
			found++
			for _, imported := range p.Imports {
				for _, b := range banned {
					below := b == module && strings.HasPrefix(imported, module+"/")
					if imported == b || below {
						t.Errorf("%s imports %s", path, imported)
					}
				}
			}
			return nil
		})
		require.NoError(t, err)
		require.Positive(t, found, folder)
	}
}

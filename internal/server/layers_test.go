package server

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The packages of the APIs translate, and a turn computes: none of them knows HTTP, the registry, an engine or each other.
func TestServerPackagesImportOnlyTheTurnPackage(t *testing.T) {
	const own = `"forge.lthn.ai/core/go-mlx/`
	allowed := map[string][]string{
		"turn":   {"internal/segment", "internal/modelfiles"},
		"openai": {"internal/server/turn"}, "anthropic": {"internal/server/turn"}, "ollama": {"internal/server/turn"},
	}
	for name, may := range allowed {
		files, err := filepath.Glob(filepath.Join(name, "*.go"))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			require.NoError(t, err)
			for _, i := range parsed.Imports {
				require.NotEqual(t, `"net/http"`, i.Path.Value, file)
				if rest, ours := strings.CutPrefix(i.Path.Value, own); ours {
					require.Contains(t, may, strings.Trim(rest, `"`), file)
				}
			}
		}
	}
}

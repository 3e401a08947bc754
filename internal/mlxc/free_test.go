package mlxc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// `defer C.free_of(handle)` copies the handle when the statement runs. If a call gets the handle's address afterwards, it may
// put another one there: then the old one is freed twice and the new one never.
func TestDeferredFreesSeeTheCurrentHandle(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	more, err := filepath.Glob("../tokenizer/*.go")
	require.NoError(t, err)
	for _, file := range append(files, more...) {
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			require.Empty(t, staleFrees(f.Body), "%s: %s", file, f.Name)
		}
	}
}

func TestDeferredFreesOfOldHandlesAreFound(t *testing.T) {
	parsed, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
func f() {
	a, b := C.new(), C.new()
	defer C.thing_free(a)
	defer C.thing_free(b)
	C.fill(&a)
	C.look(b)
}`, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, staleFrees(parsed.Decls[0].(*ast.FuncDecl).Body))
}

// staleFrees are the names of handles that a deferred C function takes by value, and whose address is given to a call after that.
func staleFrees(body *ast.BlockStmt) []string {
	freed := map[string]token.Pos{}
	var stale []string
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.DeferStmt:
			of, ok := n.Call.Fun.(*ast.SelectorExpr)
			if ok && strings.HasSuffix(of.Sel.Name, "_free") {
				for _, arg := range n.Call.Args {
					if name, ok := arg.(*ast.Ident); ok {
						freed[name.Name] = n.Pos()
					}
				}
			}
		case *ast.UnaryExpr:
			if name, ok := n.X.(*ast.Ident); ok && n.Op == token.AND {
				if at, ok := freed[name.Name]; ok && n.Pos() > at {
					stale = append(stale, name.Name)
				}
			}
		}
		return true
	})
	return stale
}

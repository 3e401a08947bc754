// Package api keeps the list of what the public packages export: docs/api.txt. A change of the API is a change of that file, which a
// reviewer reads: lines that go, or change, break programs. GO_MLX_WRITE=1 (make api) writes it anew.
package api

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

const module = "forge.lthn.ai/core/go-mlx"

// public are the packages that other modules may import.
var public = []string{"", "engine", "quality", "bridge", "native"}

// parsed is one package: the files that are built on Linux with cgo, which is the system whose API is the whole.
func parsed(t *testing.T, dir string) (*token.FileSet, []*ast.File) {
	t.Helper()
	context := build.Default
	context.GOOS, context.GOARCH, context.CgoEnabled, context.BuildTags = "linux", "amd64", true, nil
	p, err := context.ImportDir(filepath.Join(testenv.Root(), dir), 0)
	require.NoError(t, err)
	names := append(slices.Clone(p.GoFiles), p.CgoFiles...)
	slices.Sort(names)
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	return set, files
}

func listing(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("What the public packages export. Written by `make api`; see docs/architecture.md, \"The public API\".\n")
	for _, dir := range public {
		set, files := parsed(t, dir)
		p, err := doc.NewFromFiles(set, files, strings.TrimSuffix(module+"/"+dir, "/"), doc.PreserveAST)
		require.NoError(t, err)
		var lines []string
		add := func(decl ast.Decl) { lines = append(lines, declaration(t, set, decl)) }
		values := func(vs []*doc.Value) {
			for _, v := range vs {
				for _, spec := range v.Decl.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						if name.IsExported() {
							lines = append(lines, value(t, set, v.Decl.Tok, spec.(*ast.ValueSpec), name))
						}
					}
				}
			}
		}
		funcs := func(fs []*doc.Func) {
			for _, f := range fs {
				add(f.Decl)
			}
		}
		values(p.Consts)
		values(p.Vars)
		funcs(p.Funcs)
		for _, typ := range p.Types {
			values(typ.Consts)
			values(typ.Vars)
			add(typ.Decl)
			funcs(typ.Funcs)
			funcs(typ.Methods)
		}
		slices.Sort(lines)
		fmt.Fprintf(&out, "\n%s\n%s\n", p.ImportPath, strings.Join(lines, "\n"))
	}
	return out.String()
}

// value is one constant or variable.
func value(t *testing.T, set *token.FileSet, kind token.Token, spec *ast.ValueSpec, name *ast.Ident) string {
	line := kind.String() + " " + name.Name
	if spec.Type != nil {
		line += " " + source(t, set, spec.Type)
	}
	i := slices.Index(spec.Names, name)
	if i < len(spec.Values) {
		line += " = " + source(t, set, spec.Values[i])
	}
	return line
}

var comment = regexp.MustCompile(`(?m)\s*//.*$`)

// declaration is a declaration without bodies, comments and what is not exported.
func declaration(t *testing.T, set *token.FileSet, decl ast.Decl) string {
	t.Helper()
	switch d := decl.(type) {
	case *ast.FuncDecl:
		d.Body, d.Doc = nil, nil
	case *ast.GenDecl:
		d.Doc = nil
		for _, spec := range d.Specs {
			s := spec.(*ast.TypeSpec)
			s.Doc, s.Comment = nil, nil
		}
	}
	ast.Inspect(decl, func(n ast.Node) bool {
		if f, ok := n.(*ast.Field); ok {
			f.Doc, f.Comment = nil, nil
		}
		return true
	})
	text := source(t, set, decl)
	text = comment.ReplaceAllString(text, "")
	formatted, err := format.Source([]byte(text))
	require.NoError(t, err, text)
	return strings.TrimSpace(string(formatted))
}

func source(t *testing.T, set *token.FileSet, node any) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, printer.Fprint(&b, set, node))
	return b.String()
}

func TestTheListIsThatOfTheCode(t *testing.T) {
	path := filepath.Join(testenv.Root(), "docs", "api.txt")
	now := listing(t)
	if os.Getenv("GO_MLX_WRITE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(now), 0o644))
		return
	}
	kept, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(kept), now, "the API has changed: run `make api`, read the difference of docs/api.txt, and say in docs/migration.md what callers have to do")
}

// A type that nobody outside this module can name must not stand in a signature that everybody can call.
func TestExportedSignaturesNamePublicTypes(t *testing.T) {
	for _, dir := range public {
		set, files := parsed(t, dir)
		for _, f := range files {
			internal := map[string]string{}
			for _, spec := range f.Imports {
				path := strings.Trim(spec.Path.Value, `"`)
				if strings.HasPrefix(path, module+"/") && strings.Contains(path, "/internal/") {
					name := path[strings.LastIndex(path, "/")+1:]
					if spec.Name != nil {
						name = spec.Name.Name
					}
					internal[name] = path
				}
			}
			for _, decl := range f.Decls {
				for _, node := range signature(decl) {
					ast.Inspect(node, func(n ast.Node) bool {
						if s, ok := n.(*ast.SelectorExpr); ok {
							if x, ok := s.X.(*ast.Ident); ok && internal[x.Name] != "" {
								t.Errorf("%s names %s.%s", set.Position(s.Pos()), internal[x.Name], s.Sel.Name)
							}
						}
						return true
					})
				}
			}
		}
	}
}

// signature are the parts of a declaration that its users see.
func signature(decl ast.Decl) (nodes []ast.Node) {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && (d.Recv == nil || exportedReceiver(d.Recv)) {
			nodes = append(nodes, d.Type)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					nodes = append(nodes, exportedParts(s.Type)...)
				}
			case *ast.ValueSpec:
				if s.Type != nil && slices.ContainsFunc(s.Names, (*ast.Ident).IsExported) {
					nodes = append(nodes, s.Type)
				}
			}
		}
	}
	return nodes
}

func exportedReceiver(recv *ast.FieldList) bool {
	typ := recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

// exportedParts are a type without its unexported fields and methods.
func exportedParts(typ ast.Expr) (nodes []ast.Node) {
	var fields *ast.FieldList
	switch t := typ.(type) {
	case *ast.StructType:
		fields = t.Fields
	case *ast.InterfaceType:
		fields = t.Methods
	default:
		return []ast.Node{typ}
	}
	for _, f := range fields.List {
		if len(f.Names) == 0 || slices.ContainsFunc(f.Names, (*ast.Ident).IsExported) {
			nodes = append(nodes, f.Type)
		}
	}
	return nodes
}

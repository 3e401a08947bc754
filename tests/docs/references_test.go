package docs

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// tree is what the project's folder holds, without what is built or downloaded. Names have slashes, and no slash at their ends.
type tree struct {
	root  string
	files map[string]bool
	dirs  map[string]bool
	bases map[string]bool // names of files without their folders
}

func readTree(t *testing.T) tree {
	t.Helper()
	all := tree{testenv.Root(), map[string]bool{}, map[string]bool{}, map[string]bool{}}
	built := []string{"bin", "build", "dist", "node_modules"}
	require.NoError(t, filepath.WalkDir(all.root, func(file string, d fs.DirEntry, err error) error {
		name, relErr := filepath.Rel(all.root, file)
		name = filepath.ToSlash(name)
		switch {
		case err != nil || relErr != nil:
			return err
		case name == ".":
		case d.IsDir() && (slices.Contains(built, name) || strings.HasPrefix(d.Name(), ".") && name != ".github" && name != ".ci"):
			return filepath.SkipDir
		case d.IsDir():
			all.dirs[name] = true
		default:
			all.files[name], all.bases[d.Name()] = true, true
		}
		return nil
	}))
	require.True(t, all.files["docs/README.md"] && all.dirs["tests/docs"])
	return all
}

func (all tree) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(all.root, filepath.FromSlash(name)))
	require.NoError(t, err)
	return string(data)
}

// has reports whether there is a file or a folder of this name, which may be a pattern.
func (all tree) has(name string) bool {
	if all.files[name] || all.dirs[name] {
		return true
	}
	if strings.ContainsAny(name, "*?") {
		found, _ := filepath.Glob(filepath.Join(all.root, filepath.FromSlash(name)))
		return len(found) > 0
	}
	return false
}

// pages are those that tell of the project as it is now, by name. The changelog tells of the past.
func (all tree) pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for name := range all.files {
		dir := path.Dir(name)
		if path.Ext(name) == ".md" && (dir == "docs" || name == "README.md" || path.Dir(dir) == "examples") {
			found[name] = all.read(t, name)
		}
	}
	require.Greater(t, len(found), 15)
	return found
}

// declared are the names that a pattern's group finds in the files with an ending.
func (all tree) declared(t *testing.T, ending string, pattern *regexp.Regexp) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for file := range all.files {
		if strings.HasSuffix(file, ending) {
			for _, m := range pattern.FindAllStringSubmatch(all.read(t, file), -1) {
				names[m[1]] = true
			}
		}
	}
	require.NotEmpty(t, names)
	return names
}

// eachLine calls check for every line of every page; problems are reported with their place.
func eachLine(t *testing.T, pages map[string]string, check func(page, line string) (problems []string)) {
	t.Helper()
	for page, text := range pages {
		n := 0
		for line := range strings.Lines(text) {
			n++
			for _, problem := range check(page, line) {
				t.Errorf("%s:%d: %s", page, n, problem)
			}
		}
	}
}

var (
	word   = regexp.MustCompile(`[\w.*?/-]+`)
	source = regexp.MustCompile(`^[\w-]+\.(go|py|rs|cu|cuh|cpp|h|sh|mk|mjs)$`)
	link   = regexp.MustCompile(`\]\(([^)#:]+)[^):]*\)`)
)

// missingPaths are the paths in a line that do not exist. What begins with a folder of the project is a path; so is, written as code,
// the name of a source file, in whatever folder it is.
func (all tree) missingPaths(page, line string) (problems []string) {
	for _, m := range link.FindAllStringSubmatch(line, -1) {
		if name := path.Join(path.Dir(page), m[1]); !all.has(name) {
			problems = append(problems, "there is no "+name)
		}
	}
	line = link.ReplaceAllString(line, "]")
	for _, w := range word.FindAllString(line, -1) {
		w = strings.TrimRight(w, "./")
		w = strings.TrimPrefix(w, "./")
		first, _, inFolder := strings.Cut(w, "/")
		if inFolder && all.dirs[first] && !all.has(w) && !all.has(path.Join(path.Dir(page), w)) {
			problems = append(problems, "there is no "+w)
		}
	}
	for _, span := range code.FindAllString(line, -1) {
		for _, w := range word.FindAllString(span, -1) {
			if source.MatchString(w) && !all.bases[w] {
				problems = append(problems, "there is no file "+w)
			}
		}
	}
	return problems
}

func TestPathsInTheDocsExist(t *testing.T) {
	all := readTree(t)
	eachLine(t, all.pages(t), all.missingPaths)

	// The check itself finds what it is for.
	require.Len(t, all.missingPaths("docs/native.md", "`native/nowhere.go` and `gone.rs` in [x](../docs/gone.md#there), `./tests/none -v`, `tests/?one.txt`"), 5)
	require.Empty(t, all.missingPaths("docs/native.md", "`native/doc.go`, `doc.go`, [x](native.md#there), https://example.com/a.md, `./tests/docs`, `tests/corpus/??.txt`, build/none"))
}

var (
	code     = regexp.MustCompile("`[^`]+`")
	goTest   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*(?:/[^` + "`" + `\n]+)?`)
	pyTest   = regexp.MustCompile(`\btest_\w+`)
	goFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w*)\(`)
	pyFunc   = regexp.MustCompile(`(?m)^\s*def (test_\w+)\(`)
	subtests = regexp.MustCompile(`\{?"([^"\n]+)"`)
)

func TestTestsInTheDocsExist(t *testing.T) {
	all := readTree(t)
	inGo, inPython := all.declared(t, "_test.go", goFunc), all.declared(t, ".py", pyFunc)
	strs := all.declared(t, "_test.go", subtests)
	missing := func(_, line string) (problems []string) {
		for _, span := range code.FindAllString(line, -1) {
			for _, name := range goTest.FindAllString(span, -1) {
				name, sub, _ := strings.Cut(name, "/")
				known := inGo[name]
				if !known && strings.Contains(span, "-run") { // a part of names
					for full := range inGo {
						known = known || strings.Contains(full, name)
					}
				}
				if !known || sub != "" && !strs[sub] {
					problems = append(problems, "there is no test "+name+" "+sub)
				}
			}
			for _, name := range pyTest.FindAllString(span, -1) {
				if !inPython[name] && !all.bases[name+".py"] {
					problems = append(problems, "there is no test "+name)
				}
			}
		}
		return problems
	}
	eachLine(t, all.pages(t), missing)
	require.Len(t, missing("", "`TestOfNothing`, `FuzzOpen`, py: `test_of_nothing`, `TestRealOneWorker/it never ends`, `go test -run TestOfNothing`"), 4)
}

var (
	anchor  = regexp.MustCompile(`\]\(([^)#:]*)#([^)]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors are what links can name of a page: its headings, as GitHub and others write them.
func anchors(text string) map[string]bool {
	names := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		names[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return names
}

func TestHeadingsThatTheDocsLinkToExist(t *testing.T) {
	all := readTree(t)
	missing := func(page, line string) (problems []string) {
		for _, m := range anchor.FindAllStringSubmatch(line, -1) {
			to := page
			if m[1] != "" {
				to = path.Join(path.Dir(page), m[1])
			}
			if !all.files[to] || !anchors(all.read(t, to))[m[2]] {
				problems = append(problems, to+" has no heading "+m[2])
			}
		}
		return problems
	}
	eachLine(t, all.pages(t), missing)
	require.Len(t, missing("docs/native.md", "[a](models.md#nothing), [b](models.md#gguf), [c](#nothing), [d](gone.md#gguf)"), 3)
}

var (
	option   = regexp.MustCompile(`\bWith[A-Z]\w*`)
	exported = regexp.MustCompile(`\bmlx\.([A-Z]\w*)`)
	inAPI    = regexp.MustCompile(`(?m)^(?:const|var|func|type) (\w+)`)
	target   = regexp.MustCompile("(?:`|^\\s*)make ([a-z0-9-]+)")
	rule     = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
)

// What docs/migration.md calls by old names it says so of; all other pages have the names of today.
func TestNamesInTheDocsExist(t *testing.T) {
	all := readTree(t)
	public := all.declared(t, "docs/api.txt", inAPI)
	targets := all.declared(t, "Makefile", rule)
	for name := range all.declared(t, ".mk", rule) {
		targets[name] = true
	}
	unknown := func(page, line string) (problems []string) {
		if page != "docs/migration.md" {
			for _, name := range option.FindAllString(line, -1) {
				if !public[name] {
					problems = append(problems, "there is no option "+name)
				}
			}
			for _, m := range exported.FindAllStringSubmatch(line, -1) {
				if !public[m[1]] && m[1] != "With" { // what options begin with
					problems = append(problems, "package mlx has no "+m[1])
				}
			}
		}
		for _, m := range target.FindAllStringSubmatch(line, -1) {
			if !targets[m[1]] {
				problems = append(problems, "there is no make target "+m[1])
			}
		}
		return problems
	}
	eachLine(t, all.pages(t), unknown)
	require.Len(t, unknown("docs/native.md", "`mlx.WithNothing(1)`, `WithBatch(8)`, `mlx.Nothing`, `make nothing`"), 4, "the first is unknown twice over")
}

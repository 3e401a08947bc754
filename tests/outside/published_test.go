package outside

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const modulePath = "forge.lthn.ai/core/go-mlx"

// moduleVersion is another in each run. Go keeps what it compiled of a version with the flags that pkg-config gave then, and does not see
// that they have changed (https://go.dev/issue/24544): a second run would link the first one's folder, which is gone.
var moduleVersion = fmt.Sprintf("v0.99.%d", time.Now().UnixNano())

// user is a program of somebody who has never seen the go-mlx folder.
const user = `package main

import (
	"context"
	"fmt"
	"os"

	mlx "forge.lthn.ai/core/go-mlx"
)

func main() {
	m, err := mlx.LoadModel(os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer m.Close()
	results, err := m.Classify(context.Background(), []string{"The goalkeeper saved two penalties."}, []string{"food", "sport"})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(m.Info().Engine, results[0].Label)
}
`

// As a published module the package comes from a module proxy, without the folder's libraries: with those of
// `make install` it is built by -tags pkgconfig; without cgo it needs none.
func TestPublishedModule(t *testing.T) {
	root, err := filepath.Abs("../..")
	check(t, err)
	prefix := filepath.Join(t.TempDir(), "prefix")
	// Made in another place each time, as by a second clone on the same machine. Not in a temporary folder: make takes no name with a blank.
	stage, err := os.MkdirTemp(filepath.Join(root, "build"), "stage-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(stage)) })
	run(t, root, nil, "make", "install", "PREFIX="+prefix, "STAGE="+filepath.Join(stage, "stage"))
	licences, err := os.ReadFile(filepath.Join(prefix, "share", "doc", "go-mlx", "LICENSES.txt"))
	check(t, err)
	for _, part := range []string{"\nmlx-sys ", "\ntokenizers ", "\ngithub.com/spf13/cobra ", "Copyright © 2023 Apple Inc.", "=== dompurify "} {
		if !strings.Contains(string(licences), part) {
			t.Errorf("LICENSES.txt has no %q", part)
		}
	}
	if strings.Contains(string(licences), "No file with a licence was found.") {
		t.Error("LICENSES.txt lacks texts")
	}

	proxy := publish(t, root)
	known := strings.TrimSpace(run(t, root, nil, "go", "env", "GOMODCACHE"))
	env := []string{
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(known, "cache", "download") + "," + strings.TrimSpace(run(t, root, nil, "go", "env", "GOPROXY")), "GOFLAGS=-mod=mod -modcacherw",
		"GOMODCACHE=" + t.TempDir(), "GOWORK=off", "GOSUMDB=off",
		"PKG_CONFIG_PATH=" + filepath.Join(prefix, "lib", "pkgconfig"), "GO_MLX_PYTHON=" + filepath.Join(root, ".venv", "bin", "python"),
	}
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(user), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module example.org/user\n\ngo 1.26.0\n\nrequire "+modulePath+" "+moduleVersion+"\n"), 0o600))
	fetch(t, root, dir, env, "go", "mod", "tidy")
	model := filepath.Join(root, "tests", "models", "domains")

	// With -trimpath, as the program was built that is installed: the modules that both use are not compiled again.
	run(t, dir, env, "go", "build", "-trimpath", "-tags", "pkgconfig", "-o", "native", ".")
	same(t, "native sport\n", run(t, dir, env, "./native", model))

	run(t, dir, append(env, "CGO_ENABLED=0"), "go", "build", "-o", "python", ".")
	same(t, "python sport\n", run(t, dir, env, "./python", model))

	// The command by its module path.
	fetch(t, root, dir, append(env, "GOBIN="+dir), "go", "install", "-trimpath", "-tags", "pkgconfig", modulePath+"/cmd/go-mlx@"+moduleVersion)
	if got := run(t, dir, env, "./go-mlx", "--version"); !strings.Contains(got, moduleVersion) {
		t.Fatal(got)
	}
	// What was installed works from wherever it is moved.
	moved := filepath.Join(t.TempDir(), "moved")
	check(t, os.Rename(prefix, moved))
	run(t, dir, env, filepath.Join(moved, "bin", "go-mlx"), "info", "--model", model)
}

// publish makes a module proxy that has one version of the package: what git would publish.
func publish(t *testing.T, root string) string {
	proxy := t.TempDir()
	tree := t.TempDir()
	for _, name := range strings.Split(strings.TrimSpace(run(t, root, nil, "git", "ls-files", "--cached", "--others", "--exclude-standard")), "\n") {
		data, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and not committed yet
		}
		check(t, err)
		check(t, os.MkdirAll(filepath.Join(tree, filepath.Dir(name)), 0o700))
		check(t, os.WriteFile(filepath.Join(tree, name), data, 0o600))
	}
	dir := filepath.Join(proxy, filepath.FromSlash(modulePath), "@v")
	check(t, os.MkdirAll(dir, 0o700))
	file, err := os.Create(filepath.Join(dir, moduleVersion+".zip"))
	check(t, err)
	check(t, zip.CreateFromDir(file, module.Version{Path: modulePath, Version: moduleVersion}, tree))
	check(t, file.Close())
	info, err := json.Marshal(map[string]string{"Version": moduleVersion, "Time": "2026-01-01T00:00:00Z"})
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, moduleVersion+".info"), info, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "list"), []byte(moduleVersion+"\n"), 0o600))
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, moduleVersion+".mod"), mod, 0o600))
	return proxy
}

// fetch runs a command that downloads, again where it fails.
func fetch(t *testing.T, root, dir string, env []string, command ...string) {
	t.Helper()
	run(t, dir, env, "sh", append([]string{filepath.Join(root, "tools", "retry.sh")}, command...)...)
}

func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func same(t *testing.T, want, got string) {
	t.Helper()
	if want != got {
		t.Fatalf("want %q, got %q", want, got)
	}
}

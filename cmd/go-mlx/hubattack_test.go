package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/hub"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// cached is everything under a folder but links to the cache's own files.
func cached(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, filepath.ToSlash(name))
		}
		return err
	}))
	return names
}

// A hub is believed about contents and not about where they go.
func TestAHostileHubWritesNothingElsewhere(t *testing.T) {
	for name, fault := range map[string]func(h *fakeHub, outside string){
		"a file above":     func(h *fakeHub, _ string) { h.listed = "../../../evil.json" },
		"an absolute file": func(h *fakeHub, outside string) { h.listed = outside + "/evil.json" },
		"backslashes":      func(h *fakeHub, _ string) { h.listed = `..\..\evil.json` },
		"an ETag":          func(h *fakeHub, _ string) { h.tag = "../../../evil" },
		"an absolute ETag": func(h *fakeHub, outside string) { h.tag = outside + "/evil" },
		"a commit":         func(h *fakeHub, _ string) { h.sha = "../../../evil" },
	} {
		t.Run(name, func(t *testing.T) {
			h := startHub(t)
			outside := t.TempDir()
			home := filepath.Join(outside, "a", "b")
			t.Setenv("HF_HOME", home)
			fault(h, outside)
			_, errOut, err := run(t, "", "pull", "org/small")
			var refused *PullError
			require.ErrorAs(t, err, &refused, errOut)
			require.Equal(t, "unsafe", refused.Code, err)
			for _, file := range cached(t, outside) {
				require.NotContains(t, file, "evil")
			}
			_, err = hub.Find(hub.Name{Repo: "org/small", Revision: "main"})
			require.ErrorIs(t, err, hub.ErrNotCached, "what was not pulled as a whole is not there")
		})
	}
}

// All files are of one commit, and the branch leads to it when all of them are there.
func TestABranchThatMovesDuringAPull(t *testing.T) {
	h := startHub(t)
	first, _, err := run(t, "", "pull", "-q", "org/small")
	require.NoError(t, err)
	size := int64(len(h.files["model.safetensors"]))
	h.mu.Lock()
	h.sha = strings.Repeat("a", 40)
	h.files["model.safetensors"] = append(slices.Clone(h.files["model.safetensors"]), "more"...)
	for range 1000 {
		h.cutAt = append(h.cutAt, size/2)
	}
	h.mu.Unlock()
	_, _, err = run(t, "", "pull", "-q", "org/small")
	var failed *PullError
	require.ErrorAs(t, err, &failed)
	path, err := hub.Find(hub.Name{Repo: "org/small", Revision: "main"})
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(first), path, "until the new one is complete, the name is that of the old one")
	h.mu.Lock()
	h.cutAt = nil
	h.mu.Unlock()
	second, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	require.Contains(t, second, h.sha)
	for _, r := range h.asked() {
		require.NotContains(t, r, "/resolve/main/", "a file by the name of a branch may be of another commit than the last one")
	}
	require.ElementsMatch(t, slices.DeleteFunc(slices.Sorted(maps.Keys(h.files)), func(n string) bool { return n == "pytorch_model.bin" }), cached(t, strings.TrimSpace(second)))
}

func TestPullWaitsForABusyHub(t *testing.T) {
	h := startHub(t)
	h.busy = 2
	_, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	require.Contains(t, errOut, "asking again")
	h.mu.Lock()
	h.busy = 1000
	h.mu.Unlock()
	_, _, err = run(t, "", "pull", "org/small")
	var refused *PullError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "busy", refused.Code, err)
}

// A hub, or a proxy before it, that sends whole files where a part was asked for.
func TestAHubWithoutRanges(t *testing.T) {
	h := startHub(t)
	h.whole = true
	h.cutAt = []int64{int64(len(h.files["model.safetensors"])) / 2}
	path, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	got, err := os.ReadFile(filepath.Join(strings.TrimSpace(path), "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, h.files["model.safetensors"], got)
}

func TestACacheThatCannotBeWritten(t *testing.T) {
	startHub(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	for name, home := range map[string]string{"below a file": filepath.Join(file, "cache"), "a file": file} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HF_HUB_CACHE", home)
			_, errOut, err := run(t, "", "pull", "org/small")
			var refused *PullError
			require.ErrorAs(t, err, &refused, errOut)
			require.Equal(t, "cache", refused.Code, err)
			require.ErrorContains(t, err, "set HF_HOME")
		})
	}
}

// A process that is killed leaves a part, a lock and no branch; the next one goes on.
func TestAPullThatIsKilled(t *testing.T) {
	h := startHub(t)
	size := int64(len(h.files["model.safetensors"]))
	h.mu.Lock()
	for range 1000 {
		h.cutAt = append(h.cutAt, size/2)
	}
	h.mu.Unlock()
	cmd := exec.CommandContext(t.Context(), os.Getenv("GO_MLX_PYTHON"), "-m", "go_mlx_worker.pull", "org/small")
	python, err := filepath.Abs("../../python")
	require.NoError(t, err)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+python)
	require.NoError(t, cmd.Start())
	blobs := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--small", "blobs")
	partial := filepath.Join(blobs, etag(h.files["model.safetensors"], true)+".go-mlx.incomplete")
	require.Eventually(t, func() bool {
		stat, err := os.Stat(partial)
		return err == nil && stat.Size() > 0
	}, 5*time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	_, err = hub.Find(hub.Name{Repo: "org/small", Revision: "main"})
	require.ErrorIs(t, err, hub.ErrNotCached)
	h.mu.Lock()
	h.cutAt = nil
	h.mu.Unlock()
	path, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	got, err := os.ReadFile(filepath.Join(strings.TrimSpace(path), "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, h.files["model.safetensors"], got)
}

// Where links cannot be made, the library moves files to where their names are.
func TestACacheWithoutLinks(t *testing.T) {
	h := startHub(t)
	t.Setenv("HF_HUB_DISABLE_SYMLINKS", "1")
	path, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	path = strings.TrimSpace(path)
	got, err := os.ReadFile(filepath.Join(path, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, h.files["model.safetensors"], got)
	models, err := hub.List()
	require.NoError(t, err)
	require.Len(t, models, 1)
	require.Equal(t, []string{"main"}, models[0].Revisions)
	_, errOut, err = run(t, "", "info", "org/small")
	require.NoError(t, err, errOut)
}

// Which GGUF files are one model, and which are several.
func TestPullOfGGUFFiles(t *testing.T) {
	parts := func(stem string) []string {
		return []string{stem + "-00001-of-00002.gguf", stem + "-00002-of-00002.gguf"}
	}
	for name, c := range map[string]struct {
		files []string
		model string
		want  []string // what comes
		path  string   // the model below the snapshot
		code  string
	}{
		"one":                  {[]string{"m.gguf"}, "org/small", []string{"m.gguf"}, "", ""},
		"with a vision part":   {[]string{"m.gguf", "mmproj-m.gguf"}, "org/small", []string{"m.gguf", "mmproj-m.gguf"}, "", ""},
		"in parts":             {parts("m"), "org/small", parts("m"), "", ""},
		"two models in parts":  {append(parts("m-q4"), parts("m-q8")...), "org/small", nil, "", "which"},
		"one of these":         {append(parts("m-q4"), parts("m-q8")...), "org/small:m-q4-00001-of-00002.gguf", parts("m-q4"), "m-q4-00001-of-00002.gguf", ""},
		"in a folder":          {[]string{"Q4/m.gguf"}, "org/small", []string{"Q4/m.gguf"}, "Q4/m.gguf", ""},
		"one of several":       {[]string{"a.gguf", "b.GGUF"}, "org/small:b.GGUF", []string{"b.GGUF"}, "b.GGUF", ""},
		"parts in two folders": {append(parts("Q4/m"), parts("Q8/m")...), "org/small:Q8/m-00001-of-00002.gguf", parts("Q8/m"), "Q8/m-00001-of-00002.gguf", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHub(t)
			h.files, h.large = map[string][]byte{}, map[string]bool{}
			for i, file := range c.files {
				h.files[file] = []byte{byte(i)}
			}
			path, errOut, err := run(t, "", "pull", c.model)
			if c.code != "" {
				var refused *PullError
				require.ErrorAs(t, err, &refused, errOut)
				require.Equal(t, c.code, refused.Code, err)
				return
			}
			require.NoError(t, err, errOut)
			snapshot := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--small", "snapshots", commit)
			require.Equal(t, filepath.Join(snapshot, c.path), strings.TrimSpace(path))
			require.ElementsMatch(t, c.want, cached(t, snapshot))
		})
	}
}

// A snapshot that another program, or an older one, has left in part.
func TestAPartialSnapshotSaysWhatToDo(t *testing.T) {
	startHub(t)
	snapshot := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--small", "snapshots", commit)
	refs := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--small", "refs")
	require.NoError(t, os.MkdirAll(snapshot, 0o755))
	require.NoError(t, os.MkdirAll(refs, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(refs, "main"), []byte(commit), 0o644))
	for _, file := range []string{"", "config.json", "tokenizer.json", "tokenizer_config.json", "link"} {
		switch file {
		case "":
		case "link":
			require.NoError(t, os.Symlink("../../blobs/gone", filepath.Join(snapshot, "model.safetensors")))
		default:
			data, err := os.ReadFile(filepath.Join(testenv.Model(t), file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(snapshot, file), data, 0o644))
		}
		for _, args := range [][]string{{"generate", "org/small", "x"}, {"generate", "-e", "native", "org/small", "x"}} {
			_, _, err := run(t, "", args...)
			require.ErrorContains(t, err, "go-mlx pull org/small", "with %s", file)
		}
	}
	_, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	_, errOut, err = run(t, "", "generate", "-n", "2", "org/small", "x")
	require.NoError(t, err, errOut)
	_, _, err = run(t, "", "info", "no/folder")
	require.ErrorContains(t, err, "no file or folder of this name")
}

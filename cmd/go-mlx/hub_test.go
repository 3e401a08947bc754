package main

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/hub"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// fakeHub speaks what huggingface_hub needs of the hub's API, for one model, and has faults.
type fakeHub struct {
	files map[string][]byte
	large map[string]bool // kept as in Git LFS, with a SHA-256

	mu       sync.Mutex // guards what follows, and the two above once it serves: set and asked take it
	requests []string
	cutAt    []int64 // bytes after which the next answers with a large file end
	refuse   int     // answers 429 to so many downloads
	status   int     // for everything, if not 0
	code     string  // X-Error-Code beside it
	wrong    bool    // large files come with other contents
	short    int     // bytes that answers with a large file are too short
	announce int64   // more bytes than there are, in the list of files
	token    string  // what the Authorization header must be
	busy     int     // answers 429 to so many questions about the model
	listed   string  // a file that is listed and is not there
	tag      string  // the ETag of large files, if not their hash
	sha      string  // the commit, if not the usual one
	whole    bool    // answers with whole files, whatever part was asked for
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
	if h.status != 0 || h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		w.Header().Set("X-Error-Code", h.code)
		w.WriteHeader(max(h.status, 401*boolInt(h.status == 0)))
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/models/org/small") {
		if h.busy > 0 {
			h.busy--
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		h.list(w)
		return
	}
	_, file, ok := strings.Cut(r.URL.Path, "/resolve/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, file, _ = strings.Cut(file, "/")
	if file, ok = strings.CutPrefix(file, "moved/"); !ok && h.large[file] && r.Method == http.MethodGet {
		http.Redirect(w, r, strings.Replace(r.URL.Path, file, "moved/"+file, 1), http.StatusFound)
		return
	}
	h.file(w, r, file)
}

// set changes the hub while it serves.
func (h *fakeHub) set(change func(h *fakeHub)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

// asked are the requests so far.
func (h *fakeHub) asked() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.requests)
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (h *fakeHub) list(w http.ResponseWriter) {
	var siblings []map[string]any
	for name, data := range h.files {
		s := map[string]any{"rfilename": name, "size": int64(len(data)) + h.announce, "blobId": etag(data, false)}
		if h.large[name] {
			s["lfs"] = map[string]any{"sha256": etag(data, true), "size": len(data), "pointerSize": 134}
		}
		siblings = append(siblings, s)
	}
	if h.listed != "" {
		siblings = append(siblings, map[string]any{"rfilename": h.listed, "size": 1, "blobId": etag(nil, false)})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": "org/small", "modelId": "org/small", "sha": cmp.Or(h.sha, commit), "private": false, "gated": false, "siblings": siblings, "tags": []string{}})
}

// etag names contents as Git does, or as Git LFS does.
func etag(data []byte, large bool) string {
	if large {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	sum := sha1.Sum(append([]byte(fmt.Sprintf("blob %d\x00", len(data))), data...))
	return hex.EncodeToString(sum[:])
}

func (h *fakeHub) file(w http.ResponseWriter, r *http.Request, name string) {
	data, ok := h.files[name]
	if !ok {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		w.Header().Set("X-Repo-Commit", commit)
		w.WriteHeader(http.StatusNotFound)
		return
	}
	tag := etag(data, h.large[name])
	if h.large[name] && h.tag != "" {
		tag = h.tag
	}
	if h.large[name] {
		w.Header().Set("X-Linked-ETag", `"`+tag+`"`)
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(data)))
	}
	w.Header().Set("ETag", `"`+tag+`"`)
	w.Header().Set("X-Repo-Commit", cmp.Or(h.sha, commit))
	w.Header().Set("Accept-Ranges", "bytes")
	if r.Method == http.MethodGet && h.refuse > 0 {
		h.refuse--
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	if h.wrong && h.large[name] {
		data = append([]byte("x"), data[1:]...)
	}
	from := 0
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok && !h.whole {
		text, _, _ = strings.Cut(text, "-")
		from, _ = strconv.Atoi(text)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
	}
	if h.large[name] && r.Method == http.MethodGet {
		data = data[:max(from, len(data)-h.short)]
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
	if from > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodHead {
		return
	}
	if h.large[name] && len(h.cutAt) > 0 {
		end := int(h.cutAt[0])
		h.cutAt = h.cutAt[1:]
		if end > from {
			_, _ = w.Write(data[from:end])
			w.(http.Flusher).Flush()
		}
		panic(http.ErrAbortHandler) // closes the connection
	}
	_, _ = w.Write(data[from:])
}

// startHub serves the project's model under the name org/small.
func startHub(t *testing.T) *fakeHub {
	t.Helper()
	t.Setenv("GO_MLX_PYTHON", testenv.Python(t))
	h := &fakeHub{files: map[string][]byte{"README.md": []byte("# small"), "pytorch_model.bin": []byte("no")}, large: map[string]bool{"model.safetensors": true}}
	for _, name := range []string{"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		data, err := os.ReadFile(filepath.Join(testenv.Model(t), name))
		require.NoError(t, err)
		h.files[name] = data
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HOME", t.TempDir())
	t.Setenv("HF_TOKEN", "")
	return h
}

func TestPullThenLoadByName(t *testing.T) {
	h := startHub(t)
	_, _, err := run(t, "", "generate", "org/small", "x")
	require.ErrorIs(t, err, hub.ErrNotCached)
	require.ErrorContains(t, err, "go-mlx pull org/small")
	require.Empty(t, h.asked(), "nothing is fetched unless asked")

	path, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	path = strings.TrimSpace(path)
	for name, data := range h.files {
		got, err := os.ReadFile(filepath.Join(path, name))
		if name == "pytorch_model.bin" {
			require.ErrorIs(t, err, os.ErrNotExist, "what no engine reads is left out")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, data, got, name)
	}
	out, _, err := run(t, "", "info", "org/small", "--json")
	require.NoError(t, err)
	require.Contains(t, out, "org/small in the hub's cache: safetensors in "+path)
	out, _, err = run(t, "", "generate", "-q", "org/small@main", "-n", "3", "Where can")
	require.NoError(t, err)
	require.NotEmpty(t, strings.TrimSpace(out))

	before := len(h.asked())
	_, _, err = run(t, "", "pull", "-q", "org/small")
	require.NoError(t, err)
	for _, r := range h.asked()[before:] {
		require.NotContains(t, r, "GET /org/small/resolve", "what is there is not fetched again")
	}
	out, _, err = run(t, "", "list")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^org/small +\d+\.\d MB +main$`, out)
	_, _, err = run(t, "", "rm", "org/small")
	require.NoError(t, err)
	out, said, err := run(t, "", "list")
	require.NoError(t, err)
	require.Empty(t, out)
	require.Contains(t, said, "go-mlx help pull")
	_, _, err = run(t, "", "rm", "org/small")
	require.ErrorIs(t, err, hub.ErrNotCached)
}

// A connection that is cut at every tenth of a file, each time at once: what came is kept.
func TestPullResumesInterruptedDownloads(t *testing.T) {
	h := startHub(t)
	size := int64(len(h.files["model.safetensors"]))
	h.set(func(h *fakeHub) {
		for i := int64(1); i < 10; i++ {
			h.cutAt = append(h.cutAt, size*i/10)
		}
		h.refuse = 1
	})
	path, errOut, err := run(t, "", "pull", "org/small")
	for range 2 { // as a user would
		if err != nil {
			path, errOut, err = run(t, "", "pull", "org/small")
		}
	}
	require.NoError(t, err, errOut)
	got, err := os.ReadFile(filepath.Join(strings.TrimSpace(path), "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, h.files["model.safetensors"], got)
	resumed := 0
	for _, r := range h.asked() {
		if strings.Contains(r, "bytes=") && !strings.HasSuffix(r, "bytes=0-") {
			resumed++
		}
	}
	require.Positive(t, resumed, "%s\n%s", strings.Join(h.asked(), "\n"), errOut)
}

func TestPullSaysWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(*fakeHub)
		model string
		code  string
		want  string
	}{
		"gated":      {func(h *fakeHub) { h.status, h.code = 403, "GatedRepo" }, "org/small", "gated", "accept its terms"},
		"no token":   {func(h *fakeHub) { h.token = "hf_secret" }, "org/small", "gated", "HF_TOKEN"},
		"missing":    {func(h *fakeHub) { h.status, h.code = 404, "RepoNotFound" }, "org/none", "missing", "there is no model"},
		"hash":       {func(h *fakeHub) { h.wrong = true }, "org/small", "hash", "pull again"},
		"length":     {func(h *fakeHub) { h.short = 100 }, "org/small", "length", "another length"},
		"space":      {func(h *fakeHub) { h.announce = 1 << 60 }, "org/small", "space", "make room"},
		"no file":    {func(*fakeHub) {}, "org/small:none.gguf", "missing", "no file none.gguf"},
		"no weights": {func(h *fakeHub) { delete(h.files, "model.safetensors") }, "org/small", "missing", "it has pytorch_model.bin"},
		"two GGUFs":  {func(h *fakeHub) { h.files = map[string][]byte{"a.gguf": nil, "b.gguf": nil} }, "org/small", "which", "a.gguf"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHub(t)
			h.set(c.fault)
			_, errOut, err := run(t, "", "pull", c.model)
			var refused *PullError
			require.ErrorAs(t, err, &refused, errOut)
			require.Equal(t, c.code, refused.Code, err)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, _, err := run(t, "", "pull", "no-name")
	require.ErrorContains(t, err, "ORG/NAME")
	require.True(t, isUsage(err))
}

func TestTheTokenIsUsedAndNeverShown(t *testing.T) {
	h := startHub(t)
	h.set(func(h *fakeHub) { h.token = "hf_secret" })
	t.Setenv("HF_TOKEN", "hf_secret")
	out, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	h.set(func(h *fakeHub) { h.status = 500 })
	_, more, err := run(t, "", "pull", "org/small@other")
	require.Error(t, err)
	require.NotContains(t, out+errOut+more+err.Error(), "hf_secret")
}

func TestTwoPullsAtOnceAreSafe(t *testing.T) {
	h := startHub(t)
	var wait sync.WaitGroup
	paths, errs := make([]string, 2), make([]error, 2)
	for i := range paths {
		wait.Go(func() { paths[i], errs[i] = pull(t.Context(), "org/small", "", nil) })
	}
	wait.Wait()
	for i := range paths {
		require.NoError(t, errs[i])
		got, err := os.ReadFile(filepath.Join(paths[i], "model.safetensors"))
		require.NoError(t, err)
		require.Equal(t, h.files["model.safetensors"], got)
	}
}

// What a run has got before the network went away for good is not fetched again by the next run.
func TestTheNextRunGoesOn(t *testing.T) {
	h := startHub(t)
	size := int64(len(h.files["model.safetensors"]))
	h.set(func(h *fakeHub) { h.cutAt = slices.Repeat([]int64{size / 2}, 1000) })
	_, errOut, err := run(t, "", "pull", "org/small")
	var failed *PullError
	require.ErrorAs(t, err, &failed, errOut)
	h.set(func(h *fakeHub) { h.cutAt = nil })
	before := len(h.asked())
	path, errOut, err := run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
	got, err := os.ReadFile(filepath.Join(strings.TrimSpace(path), "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, h.files["model.safetensors"], got)
	var from int64
	for _, r := range h.asked()[before:] {
		if _, text, ok := strings.Cut(r, "bytes="); ok && strings.Contains(r, "model.safetensors") {
			text, _, _ = strings.Cut(text, "-")
			from, err = strconv.ParseInt(text, 10, 64)
			require.NoError(t, err)
		}
	}
	require.Greater(t, from, size/2-(256<<10)-1, "%s", strings.Join(h.asked()[before:], "\n"))
	left, err := filepath.Glob(filepath.Join(os.Getenv("HF_HOME"), "hub", "*", "blobs", "*.incomplete"))
	require.NoError(t, err)
	require.Empty(t, left)
}

// A disk that fills up while a file comes, although there was room when the download began.
func TestADiskThatFillsUp(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("/dev/full is Linux's")
	}
	h := startHub(t)
	blobs := filepath.Join(os.Getenv("HF_HOME"), "hub", "models--org--small", "blobs")
	require.NoError(t, os.MkdirAll(blobs, 0o755))
	partial := filepath.Join(blobs, etag(h.files["model.safetensors"], true)+".go-mlx.incomplete")
	require.NoError(t, os.Symlink("/dev/full", partial))
	_, errOut, err := run(t, "", "pull", "org/small")
	var failed *PullError
	require.ErrorAs(t, err, &failed, errOut)
	require.Equal(t, "space", failed.Code, err)
	require.NoError(t, os.Remove(partial))
	_, errOut, err = run(t, "", "pull", "org/small")
	require.NoError(t, err, errOut)
}

// Package hub finds models that were downloaded from the Hugging Face hub, in the cache that huggingface_hub keeps and that all
// programs share. It downloads nothing: the Python package does, for `go-mlx pull`.
//
// Layout: https://huggingface.co/docs/huggingface_hub/guides/manage-cache
package hub

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// ErrNotCached is wrapped by errors about models that are not in the cache.
var ErrNotCached = errors.New("not in the cache of downloaded models")

// Name is a model on the hub: ORG/NAME, with a revision (main without one) and a file that was asked for.
type Name struct {
	Repo     string
	Revision string
	File     string
}

var form = regexp.MustCompile(`^([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(\w[\w.-]*(?:/\w[\w.-]*)*))?(?::([^:\\/][^:\\]*))?$`)

// commitForm is what may be in the file of a branch, and the name of a snapshot.
var commitForm = regexp.MustCompile(`^\w[\w.-]{0,99}$`)

// Parse reads ORG/NAME[@REVISION][:FILE.gguf]; ok is false for what cannot be such a name.
func Parse(text string) (n Name, ok bool) {
	m := form.FindStringSubmatch(text)
	if m == nil || strings.Contains(text, "..") {
		return n, false
	}
	return Name{Repo: m[1], Revision: cmp.Or(m[2], "main"), File: m[3]}, true
}

func (n Name) String() string {
	s := n.Repo
	if n.Revision != "" && n.Revision != "main" {
		s += "@" + n.Revision
	}
	if n.File != "" {
		s += ":" + n.File
	}
	return s
}

// CacheDir is where huggingface_hub keeps models, by the environment variables that it looks at.
func CacheDir() (string, error) {
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if dir := folderOf(name); dir != "" {
			return dir, nil
		}
	}
	if home := folderOf("HF_HOME"); home != "" {
		return filepath.Join(home, "hub"), nil
	}
	if cache := folderOf("XDG_CACHE_HOME"); cache != "" {
		return filepath.Join(cache, "huggingface", "hub"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("where are downloaded models? Set HF_HOME: %w", err)
	}
	return filepath.Join(home, ".cache", "huggingface", "hub"), nil
}

// AtHome puts the user's home folder in the place of a ~ at a path's beginning, which a shell leaves where it stands in quotes or after a =.
func AtHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || rest != "" && !os.IsPathSeparator(rest[0]) {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return home + rest
}

// folderOf is the value of an environment variable that names a folder. Where no shell has read it, as in a service's file, ~ and other
// variables are still in it; huggingface_hub replaces them, too.
func folderOf(variable string) string {
	dir := AtHome(os.Getenv(variable))
	if !strings.Contains(dir, "$") {
		return dir
	}
	return os.Expand(dir, func(name string) string {
		if value, ok := os.LookupEnv(name); ok {
			return value
		}
		return "$" + name
	})
}

const prefix = "models--"

// folder is where the cache keeps a model.
func folder(repo string) (string, error) {
	dir, err := CacheDir()
	return filepath.Join(dir, prefix+strings.ReplaceAll(repo, "/", "--")), err
}

// Find is the folder or the file of a model in the cache.
func Find(n Name) (string, error) {
	dir, err := folder(n.Repo)
	if err != nil {
		return "", err
	}
	absent := func() error {
		return fmt.Errorf("%s is %w (%s); fetch it with: go-mlx pull %s", n, ErrNotCached, filepath.Dir(dir), n)
	}
	commit := n.Revision
	if data, err := os.ReadFile(filepath.Join(dir, "refs", filepath.FromSlash(n.Revision))); err == nil {
		commit = strings.TrimSpace(string(data))
	} else if !noFile(err) {
		return "", err
	}
	if !commitForm.MatchString(commit) {
		return "", absent()
	}
	path := filepath.Join(dir, "snapshots", commit)
	if n.File != "" {
		path = filepath.Join(path, filepath.FromSlash(n.File))
	}
	if _, err := os.Stat(path); err != nil {
		if noFile(err) {
			return "", absent()
		}
		return "", err
	}
	return path, nil
}

// noFile is true of the errors of a path that is not there, also because what should be a folder is a file, or the other way round: the name of a
// branch may be the beginning of another's, up to a slash.
func noFile(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR)
}

// Model is a model in the cache.
type Model struct {
	Name      string   `json:"name"`
	Revisions []string `json:"revisions"` // branches and tags, or commits that have none
	Bytes     int64    `json:"bytes"`
	Path      string   `json:"path"`
}

// List is what the cache holds, by name. Models that cannot be read do not hide the others: the error names them, and is returned beside the list.
func List() ([]Model, error) {
	dir, err := CacheDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var models []Model
	var errs []error
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		org, model, both := strings.Cut(name, "--")
		if !ok || !both {
			continue
		}
		if _, ok := Parse(org + "/" + model); !ok {
			continue // no model of the hub has such a name, and nothing can be done with it
		}
		m := Model{Name: org + "/" + model, Path: filepath.Join(dir, e.Name())}
		// A model may be a link to a folder on another disk.
		if stat, err := os.Stat(m.Path); err != nil || !stat.IsDir() {
			continue
		}
		var err1, err2 error
		m.Revisions, err1 = revisions(m.Path)
		m.Bytes, err2 = size(m.Path)
		if err := cmp.Or(err1, err2); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
			continue
		}
		models = append(models, m)
	}
	return models, errors.Join(errs...)
}

func revisions(dir string) ([]string, error) {
	var names []string
	named := map[string]bool{}
	refs := filepath.Join(dir, "refs")
	err := filepath.WalkDir(refs, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return ignoreAbsent(err)
		}
		commit, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(refs, path)
		names, named[strings.TrimSpace(string(commit))] = append(names, filepath.ToSlash(name)), true
		return err
	})
	if err != nil {
		return nil, err
	}
	snapshots, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err := ignoreAbsent(err); err != nil {
		return nil, err
	}
	for _, s := range snapshots {
		if !named[s.Name()] {
			names = append(names, s.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func ignoreAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// size is the bytes of a folder's own files; links lead to them. The folder itself may be a link.
func size(dir string) (total int64, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return 0, err
	}
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreAbsent(err)
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return ignoreAbsent(err)
	})
	return total, err
}

// Remove deletes a model from the cache, with all its revisions.
func Remove(repo string) (bytes int64, err error) {
	n, ok := Parse(repo)
	if !ok || repo != n.Repo { // a revision's files may be those of others, too
		return 0, fmt.Errorf("%q is not the name of a model, which is deleted as a whole: ORG/NAME", repo)
	}
	dir, err := folder(n.Repo)
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(dir); err != nil {
		return 0, fmt.Errorf("%s is %w: %w", n, ErrNotCached, err)
	}
	if bytes, err = size(dir); err != nil {
		return 0, err
	}
	return bytes, os.RemoveAll(dir)
}

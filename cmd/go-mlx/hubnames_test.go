package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/hub"
)

// The most common trouble is none of the hub's.
func TestAHubThatCannotBeReachedIsNamed(t *testing.T) {
	startHub(t)
	for _, endpoint := range []string{"http://127.0.0.1:1", "127.0.0.1:1", "ftp://x"} {
		t.Setenv("HF_ENDPOINT", endpoint)
		_, errOut, err := run(t, "", "pull", "org/small")
		var refused *PullError
		require.ErrorAs(t, err, &refused, errOut)
		require.Equal(t, "network", refused.Code, err)
		require.ErrorContains(t, err, endpoint+" cannot be reached")
		require.ErrorContains(t, err, "HTTPS_PROXY")
	}
}

// Branches may have slashes in their names, and files dashes in front.
func TestPullOfOddRevisionsAndFiles(t *testing.T) {
	h := startHub(t)
	for _, name := range []string{"org/small@feature/one.two", "org/small@refs/pr/1"} {
		_, errOut, err := run(t, "", "pull", name)
		require.NoError(t, err, errOut)
		_, _, err = run(t, "", "info", name)
		require.NoError(t, err)
	}
	out, _, err := run(t, "", "list")
	require.NoError(t, err)
	require.Regexp(t, `MB +feature/one.two, refs/pr/1\n$`, out)
	_, _, err = run(t, "", "info", "org/small@feature")
	require.ErrorIs(t, err, hub.ErrNotCached, "the folder of a branch's file is no branch")
	h.set(func(h *fakeHub) { h.files["-odd -x.gguf"] = []byte("GGUF") })
	path, errOut, err := run(t, "", "pull", "org/small:-odd -x.gguf")
	require.NoError(t, err, errOut)
	require.Equal(t, "-odd -x.gguf", filepath.Base(strings.TrimSpace(path)))
	_, errOut, err = run(t, "", "pull", "org/small@feature") // now a branch, whose file cannot be where the others' folder is
	var refused *PullError
	require.ErrorAs(t, err, &refused, errOut)
	require.Equal(t, "cache", refused.Code, err)
	for _, name := range []string{"org/small@/tmp/x", "org/small@-x", "a/b/c", "../x", "org/small@"} {
		asked := len(h.asked())
		_, _, err = run(t, "", "pull", name)
		require.ErrorAs(t, err, new(usageError), name)
		require.Len(t, h.asked(), asked)
	}
}

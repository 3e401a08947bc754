package kept

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var makefiles = []string{"Makefile", "tests/laboratory.mk", "tests/quality/quality.mk", "tools/kept.sh"}

// made is what make says of a target in a folder, with these settings in its environment.
func made(t *testing.T, dir, target string, env ...string) (string, error) {
	t.Helper()
	write(t, filepath.Join(dir, "print.mk"), "include Makefile\nprint:\n\t@echo \"[$$GOFLAGS] [$$GOWORK] [$$no_proxy] [$$NO_PROXY] [$$CDPATH] [$$PYTHONHOME] [$$PIP_USER] [$$PIP_REQUIRE_VIRTUALENV]\"\n")
	cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-f", "print.mk", target)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), append([]string{"MAKEFLAGS=", "MAKELEVEL=0", "GOENV=off", "GOFLAGS=", "no_proxy=", "NO_PROXY="}, env...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Settings for other programs change nothing of what is built and where it goes.
func TestWhatTheEnvironmentSetsForOthersIsLeftOut(t *testing.T) {
	dir := folder(t, makefiles...) // no git repository
	plain, err := made(t, dir, "print")
	require.NoError(t, err, plain)
	require.Equal(t, "[-buildvcs=false] [off] [127.0.0.1,localhost,::1] [127.0.0.1,localhost,::1] [] [] [0] [1]\n", plain)
	set, err := made(t, dir, "print", "GOFLAGS=-trimpath -mod=mod", "GOWORK=/somewhere/go.work", "NO_PROXY=example.org", "CDPATH=/tmp", "PYTHONHOME=/nowhere", "PIP_USER=1", "PIP_REQUIRE_VIRTUALENV=0")
	require.NoError(t, err, set)
	require.Equal(t, "[-mod=mod -buildvcs=false] [off] [example.org,127.0.0.1,localhost,::1] [example.org,127.0.0.1,localhost,::1] [] [] [0] [1]\n", set)
}

func TestAPathWithABlankIsRefusedInOneLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a clone")
	require.NoError(t, os.Rename(folder(t, makefiles...), dir))
	said, err := made(t, dir, "print")
	require.Error(t, err)
	require.Contains(t, said, `path has a blank: "`)
	require.Contains(t, said, "move it")
}

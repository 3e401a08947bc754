//go:build unix

// Package docs runs what the documentation tells a reader to run.
package docs

import (
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// expected is what the output of a block must hold, by a command that only that block has.
var expected = map[string][]string{
	"bin/go-mlx classify ": {"commerce   0.9"},
	"classifier train":     {`"key":"Pay the invoice"`, `"domain":`},
	"go test":              {"--- PASS: TestBackend"},
	"serve tests/":         {"<title>"},
	"make_checkpoint.py":   {"native engine", "python engine"},
	"parity tests/models":  {"passed", "every layer's states are bit-equal"},
	"/api/chat":            {`"name":"assistant"`, "I am a very small model", `"done":true`},
}

var block = regexp.MustCompile("(?s)```sh\n(.*?)```")

// Every block of commands of docs/README.md runs, in the project's folder after `make build`, with an empty home.
func TestQuickStartsRunAsWritten(t *testing.T) {
	root := testenv.Root()
	page, err := os.ReadFile(filepath.Join(root, "docs", "README.md"))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "bin", "go-mlx"), "make build makes it")
	blocks := block.FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, len(expected))
	cache, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE", "GOPATH").Output()
	require.NoError(t, err)
	paths := strings.Fields(string(cache))
	for _, b := range blocks {
		name, _, _ := strings.Cut(b[1], "\n")
		t.Run(name, func(t *testing.T) {
			var want []string
			for command, texts := range expected {
				if strings.Contains(b[1], command) {
					require.Nil(t, want, "two expectations of one block")
					want = texts
				}
			}
			require.NotNil(t, want)
			// Somebody else may have the port that the page names.
			commands := strings.ReplaceAll(b[1], "8090", freePort(t))
			commands = strings.ReplaceAll(commands, "go-mlx serve", "go-mlx serve --port "+freePortOf(commands))
			// A server that a block leaves behind where it fails would keep its output open, and the failure untold.
			commands = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" + commands
			cmd := exec.CommandContext(t.Context(), "bash", "-e", "-o", "pipefail", "-c", commands)
			cmd.Dir = root
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=", "GO_MLX_PYTHON="+testenv.Python(t),
				"GOCACHE="+paths[0], "GOMODCACHE="+paths[1], "GOPATH="+paths[2])
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			for _, text := range want {
				require.Contains(t, string(out), text)
			}
		})
	}
}

// freePort is a port that a server takes a moment later: none of those that systems give to connections, and to tests that run meanwhile.
func freePort(t *testing.T) string {
	for range 1000 {
		port := strconv.Itoa(20000 + rand.IntN(12000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

var localhost = regexp.MustCompile(`localhost:(\d+)`)

// freePortOf is the port that commands ask; "0" if they ask none.
func freePortOf(commands string) string {
	if m := localhost.FindStringSubmatch(commands); m != nil {
		return m[1]
	}
	return "0"
}

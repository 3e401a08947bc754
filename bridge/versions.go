package bridge

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The versions of mlx and mlx-lm that the worker is made for, as requirements.txt pins them.
const (
	WantMLX   = "0.32.2"
	WantMLXLM = "0.32.2"
)

// AnyVersionVariable is the environment variable that, set to 1, lets workers run with any versions of mlx and mlx-lm: to find out
// whether newer ones work.
const AnyVersionVariable = "GO_MLX_ANY_VERSION"

// ErrVersion is wrapped when a worker's Python packages are not those that this program works with.
var ErrVersion = errors.New("python packages do not fit")

// checkVersions compares a worker's hello with what this program was made for.
func checkVersions(interpreter string, v Versions) error {
	if v.Protocol != protocolVersion {
		return fmt.Errorf("%w: the worker speaks protocol %d, this program %d: rebuild the program",
			ErrVersion, v.Protocol, protocolVersion)
	}
	if os.Getenv(AnyVersionVariable) == "1" {
		return nil
	}
	var wrong, install []string
	for _, p := range []struct{ name, found, want string }{{"mlx", v.MLX, WantMLX}, {"mlx-lm", v.MLXLM, WantMLXLM}} {
		if !sameMinor(p.found, p.want) {
			wrong = append(wrong, fmt.Sprintf("%s is %s, want %s", p.name, orMissing(p.found), p.want))
			install = append(install, fmt.Sprintf("'%s==%s'", p.name, p.want))
		}
	}
	if wrong == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: run `%s -m pip install %s`, or `make build` in the go-mlx folder",
		ErrVersion, strings.Join(wrong, "; "), interpreter, strings.Join(install, " "))
}

// sameMinor reports whether two versions differ at most in the patch level. The worker uses parts of
// mlx-lm that have no promise beyond that.
func sameMinor(found, want string) bool {
	minor := func(v string) string {
		parts := strings.SplitN(v, ".", 3)
		return strings.Join(parts[:min(2, len(parts))], ".")
	}
	return minor(found) == minor(want)
}

func orMissing(version string) string {
	if version == "" {
		return "not installed"
	}
	return version
}

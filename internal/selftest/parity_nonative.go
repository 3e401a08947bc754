//go:build !cgo || nonative

package selftest

import "context"

// parityChecks names what a program with the native engine compares.
func parityChecks() []check {
	return []check{{Parity, "native engine against mlx-lm, layer by layer", native, false, func(*bench, context.Context) (string, error) {
		return "", errNotRun{"this program was built without the native engine"}
	}}}
}

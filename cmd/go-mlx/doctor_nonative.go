//go:build !cgo || nonative

package main

import "context"

func examineNative(context.Context) (finding, string) {
	return finding{Part: "native engine", State: "missing", Detail: "this program is built without it", Advice: "go build with cgo and without -tags nonative", engine: true}, ""
}

// modelMemory is how many bytes of memory models may take; 0 if it is not known.
func modelMemory(context.Context) int64 { return systemMemory() }

// Package mlxc is the Go side of mlx-c: arrays, ops, fast kernels, compiled functions, safetensors
// files and memory figures, on whatever device MLX has (Metal, CUDA or CPU).
//
// # Threads
//
// MLX's streams and mlx-c's error slot belong to an OS thread, so everything here that touches an
// array runs on a [Thread]: one goroutine locked to one OS thread. Memory figures may be read from
// anywhere.
//
// # Ownership
//
// Every [Array] belongs to the [Scope] whose method made it and is freed by that scope's Close.
// [Scope.Keep] takes an array out of its scope; from then on the caller frees it with [Array.Free].
// Nothing waits for the garbage collector.
//
// # Errors
//
// The first error in a scope is latched: later ops in it do nothing, and [Scope.Err] returns it with
// the name of the op that failed. A forward pass is therefore written without a check per line.
package mlxc

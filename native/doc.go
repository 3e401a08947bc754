// Package native is the native engine, which runs models inside the Go process, on MLX by way of mlx-c. It
// serves few architectures and serves them without Python: fast to start, with every byte given back
// at Close.
//
// One owner thread a model makes all MLX calls. Streams hold their KV caches in a registry of the
// model, so Close can free them while their readers are still between two tokens.
package native

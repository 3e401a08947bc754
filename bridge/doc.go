// Package bridge is the engine that runs models in Python: it starts and pools workers that serve
// mlx-lm, and speaks to them in msgpack frames over pipes (docs/protocol.md).
//
// Layers, each testable without the ones above it: frames (frame.go), calls and streams over a reader
// and a writer (conn.go), one worker process (process.go, worker.go), the pool (pool.go), the engine
// (model.go).
package bridge

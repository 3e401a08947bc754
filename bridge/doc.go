// Package bridge runs mlx-lm in Python worker processes.
//
// Its layers, from the bottom: frames on a pipe (frame.go), requests and replies over a reader and a
// writer (conn.go), one process with its way down (process.go, output.go), one worker with its watchdog
// (worker.go, watchdog.go), the pool of a model's workers, a state machine that knows nothing of processes (pool.go, member.go,
// reconcile.go, life.go, backoff.go), requests that survive the death of their worker (journey.go, quarantine.go), the model
// (model.go, classify.go, stream.go). docs/protocol.md describes what travels between them.
package bridge

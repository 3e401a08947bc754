// Package bridge is the python engine: it runs mlx-lm in Python worker processes. Most programs load models with package mlx, whose options
// set the [Options] of this one; [Model] has what that needs, and Stat, Reset and Shutdown. [Tool] runs Python once, for work that is no
// request to a model.
//
// Its layers, from the bottom: frames on a pipe (frame.go), requests and replies over a reader and a
// writer (conn.go), one process and how it is ended (process.go, output.go), one worker with its watchdog
// (worker.go, watchdog.go), the pool of a model's workers, a state machine that knows nothing of processes (pool.go, member.go,
// reconcile.go, life.go, backoff.go), requests that survive the death of their worker (job.go, quarantine.go), the model
// (model.go, classify.go, stream.go). docs/protocol.md describes what travels between them.
package bridge

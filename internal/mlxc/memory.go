package mlxc

/*
#include "glue.h"
#include "gomlx_kernels.h"
*/
import "C"

import "sync/atomic"

var live atomic.Int64

// LiveArrays is the number of array handles that are not freed yet, in the whole process.
func LiveArrays() int64 { return live.Load() }

// Memory is MLX's own account of its allocator and, beside it, what arrays of weight files hold: bytes in the whole process.
type Memory struct {
	Active uint64 // held by arrays
	Cache  uint64 // freed by arrays, kept by MLX for reuse
	Peak   uint64 // largest Active since the last ResetPeak
}

// ReadMemory returns MLX's present memory figures.
func ReadMemory() (Memory, error) {
	var m Memory
	for _, f := range []struct {
		op   string
		read func(*C.size_t) C.int
		dst  *uint64
	}{
		{"active memory", func(n *C.size_t) C.int { return C.mlx_get_active_memory(n) }, &m.Active},
		{"cache memory", func(n *C.size_t) C.int { return C.mlx_get_cache_memory(n) }, &m.Cache},
		{"peak memory", func(n *C.size_t) C.int { return C.mlx_get_peak_memory(n) }, &m.Peak},
	} {
		var n C.size_t
		if err := checkAnywhere(f.op, func() C.int { return f.read(&n) }); err != nil {
			return Memory{}, err
		}
		*f.dst = uint64(n)
	}
	files := uint64(C.gomlx_file_bytes())
	m.Active += files
	m.Peak += files
	return m, nil
}

// ClearCache gives MLX's cached buffers back to the system.
func ClearCache() error {
	return checkAnywhere("clear cache", func() C.int { return C.mlx_clear_cache() })
}

// TrimCache is ClearCache if MLX has more than limit bytes cached. Below that, the next request reuses
// the buffers: on a GPU, allocating them anew costs more than a small pass.
func TrimCache(limit uint64) error {
	var n C.size_t
	if err := checkAnywhere("cache memory", func() C.int { return C.mlx_get_cache_memory(&n) }); err != nil {
		return err
	}
	if uint64(n) <= limit {
		return nil
	}
	return ClearCache()
}

// ResetPeak makes the present active bytes the new peak.
func ResetPeak() error {
	return checkAnywhere("reset peak memory", func() C.int { return C.mlx_reset_peak_memory() })
}

// Wire lets the system keep as much of MLX's memory resident as it recommends, and returns that limit in bytes. It
// does nothing, and returns 0, on devices without such a setting: all but Metal's.
func (l *Lease) Wire() (limit uint64, err error) {
	limit, has, err := l.deviceInfo("max_recommended_working_set_size")
	if err != nil || !has {
		return 0, err
	}
	var before C.size_t
	return limit, checkAnywhere("wired limit", func() C.int { return C.mlx_set_wired_limit(&before, C.size_t(limit)) })
}

package bridge

import (
	"strings"
	"sync"
)

// deviceVariable tells a worker which of MLX's devices is its default one: "cpu" or "gpu". The worker must know before it imports
// mlx-lm, which makes a stream on the default device then.
const deviceVariable = "GO_MLX_WORKER_DEVICE"

// devices spreads the workers of a model over devices.
type devices struct {
	names []string

	mu      sync.Mutex // guards what follows
	workers []int      // how many workers each device has
}

func newDevices(names []string) *devices {
	return &devices{names: names, workers: make([]int, len(names))}
}

// take returns the device with the fewest workers, the first of those, and counts a worker there until the returned func is called.
// Without devices it is "".
func (d *devices) take() (name string, release func()) {
	if len(d.names) == 0 {
		return "", func() {}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	best := 0
	for i, n := range d.workers {
		if n < d.workers[best] {
			best = i
		}
	}
	d.workers[best]++
	return d.names[best], sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.workers[best]--
	})
}

// deviceEnvironment is what makes a worker compute on a device: "cpu", "gpu", or "gpu:N" for one of several CUDA GPUs, which the worker
// then sees alone.
func deviceEnvironment(device string) []string {
	kind, number, numbered := strings.Cut(device, ":")
	switch {
	case device == "":
		return nil
	case numbered:
		return []string{deviceVariable + "=" + kind, "CUDA_VISIBLE_DEVICES=" + number}
	}
	return []string{deviceVariable + "=" + kind}
}

// isDevice reports whether a string names a device.
func isDevice(device string) bool {
	if device == "cpu" || device == "gpu" {
		return true
	}
	number, ok := strings.CutPrefix(device, "gpu:")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

package mlx

import (
	"log/slog"
	"slices"
	"time"
)

// PythonOption is an option of the python engine alone; see WithPython.
type PythonOption struct{ engineOption }

// WithPython sets what only the python engine has: its interpreter, its worker processes and how they are supervised. It makes
// EngineAuto take that engine.
func WithPython(options ...PythonOption) LoadOption {
	return engineGroup("WithPython", func(o *loadOptions) *[]string { return &o.pythonOnly }, options)
}

func pythonOption(name string, apply func(*loadOptions)) PythonOption {
	return PythonOption{engineOption{name, apply}}
}

// Interpreter names the Python interpreter of the workers. Without it the environment variable GO_MLX_PYTHON, a .venv beside the
// program or one folder above it, and python3 are tried in turn; never one that just happens to be in or above the working directory.
func Interpreter(path string) PythonOption {
	return pythonOption("Interpreter", func(o *loadOptions) { o.bridge.Python = path })
}

// Workers sets how many worker processes may serve the model; the default is 1. Each holds the weights once.
func Workers(n int) PythonOption {
	return pythonOption("Workers", func(o *loadOptions) {
		positive(o, "Workers", n)
		o.bridge.Workers = n
	})
}

// MinWorkers sets how many of the workers are started with the model and kept. The default is all, or none if IdleTTL is given. With 0
// one is started to read the model, and further ones when requests need them.
func MinWorkers(n int) PythonOption {
	return pythonOption("MinWorkers", func(o *loadOptions) {
		if n < 0 {
			o.fail("MinWorkers", "%d is negative", n)
		}
		o.bridge.MinWorkers = orNone(n)
	})
}

// IdleTTL ends workers beyond MinWorkers that had nothing to do for so long; 0 ends them at once. The next request starts one again.
func IdleTTL(d time.Duration) PythonOption {
	return pythonOption("IdleTTL", func(o *loadOptions) {
		if o.bridge.IdleTTL = d; d == 0 {
			o.bridge.IdleTTL = 1 // the field's zero keeps workers
		}
	})
}

// Queue sets how many requests may wait when all workers are full; the default is 1024. One more fails with ErrBusy. A request that waits
// for a further worker to start counts as one that waits; one that the first worker will take when it is up, or whose worker died, does not.
func Queue(n int) PythonOption {
	return pythonOption("Queue", func(o *loadOptions) {
		if n < 0 {
			o.fail("Queue", "%d is negative", n)
		}
		o.bridge.Queue = orNone(n)
	})
}

// orNone turns a zero that the caller wrote into the -1 that means "none" to package bridge, where zero means the default.
func orNone(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// StallTimeout sets how long a busy worker may make no progress before it counts as hung and is replaced; the default is two minutes.
// Long requests and slow loads make progress and are left alone.
func StallTimeout(d time.Duration) PythonOption {
	return pythonOption("StallTimeout", func(o *loadOptions) {
		if d <= 0 {
			o.fail("StallTimeout", "%v is not positive; leave the option out for the default", d)
		}
		o.bridge.StallTimeout = d
	})
}

// Devices says what the workers compute on, spread evenly: "cpu", "gpu", or "gpu:N" for one of several CUDA GPUs, which a worker
// then sees alone (CUDA_VISIBLE_DEVICES). With Workers(4) and two GPUs each has two workers. The default is MLX's own choice.
func Devices(devices ...string) PythonOption {
	devices = slices.Clone(devices)
	return pythonOption("Devices", func(o *loadOptions) { o.bridge.Devices = devices })
}

// WorkerDir sets the workers' working directory; the default is the folder of their own source. Nothing is imported from it.
func WorkerDir(dir string) PythonOption {
	return pythonOption("WorkerDir", func(o *loadOptions) { o.bridge.Dir = dir })
}

// WorkerEnv sets environment variables of the workers, each as NAME=value. Of this program's environment they get only what Python
// and MLX need.
func WorkerEnv(variables ...string) PythonOption {
	variables = slices.Clone(variables)
	return pythonOption("WorkerEnv", func(o *loadOptions) { o.bridge.Environment = variables })
}

// WorkerLog logs workers that start and those that end without being asked to, and at slog.LevelDebug what they print.
func WorkerLog(l *slog.Logger) PythonOption {
	return pythonOption("WorkerLog", func(o *loadOptions) { o.bridge.Logger = l })
}

// QuarantineDir sets where requests that ended two workers are written for diagnosis. The default is go-mlx/quarantine in the user's
// cache folder.
func QuarantineDir(path string) PythonOption {
	return pythonOption("QuarantineDir", func(o *loadOptions) { o.bridge.QuarantineDir = path })
}

// Online lets the workers' libraries use the network. It is off by default.
func Online() PythonOption {
	return pythonOption("Online", func(o *loadOptions) { o.bridge.Online = true })
}

// TrustRemoteCode lets Python code in the model folder run. It is off by default: such code can do anything that this program can.
func TrustRemoteCode() PythonOption {
	return pythonOption("TrustRemoteCode", func(o *loadOptions) { o.bridge.TrustRemoteCode = true })
}

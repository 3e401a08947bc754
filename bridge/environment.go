package bridge

import (
	"os"
	"slices"
	"strings"
)

// What a worker sees of this program's environment: what Python, MLX and the dynamic linker need. Nothing that names code to
// import; and no secrets, except the token for the hub if the worker may use the network.
var (
	passed = []string{
		"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH",
		"XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_MODULES_CACHE",
	}
	passedPrefixes = []string{"MLX_", "CUDA_", "NVIDIA_", "METAL_", "MTL_", "OMP_", "OPENBLAS_"}
	// passedOnline are the variables that are passed on only if the worker may use the network.
	passedOnline = []string{
		"HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
		"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
	}
)

// environment is the whole environment of a worker. Without online, Hugging Face's libraries do not touch the network. Where MLX runs on an
// NVIDIA GPU, its caches of CUDA graphs and attention plans fail every op after some hundred different lengths, unless their check is off.
func environment(online bool) []string {
	env := []string{
		"PYTHONSAFEPATH=1", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8",
		"TOKENIZERS_PARALLELISM=false", "TERM=xterm", "MLX_ENABLE_CACHE_THRASHING_CHECK=0",
	}
	if !online {
		env = append(env, "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
	}
	for _, entry := range os.Environ() { // of two values of a variable the last one counts
		name, _, _ := strings.Cut(entry, "=")
		hasPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if slices.Contains(passed, name) || slices.ContainsFunc(passedPrefixes, hasPrefix) || online && slices.Contains(passedOnline, name) {
			env = append(env, entry)
		}
	}
	return env
}

// withSource lets code import the modules of the worker's folder, its first argument, and nothing of the working directory:
// Python would look there first, and a model's folder could hold a msgpack.py of its own. PYTHONSAFEPATH says the same to
// Python 3.11 and later, also in processes that it starts.
const withSource = `import sys
source = sys.argv.pop(1)
sys.path[:] = [source] + [p for p in sys.path if p]
`

// runModule runs a module, its second argument, as python -m would.
const runModule = withSource + `import runpy
sys.argv[:] = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
`

// moduleArguments are the interpreter's arguments that run a module of the worker's folder, or one that is installed.
func moduleArguments(source, module string, arguments ...string) []string {
	return append([]string{"-c", runModule, source, module}, arguments...)
}

package bridge

import (
	"os"
	"slices"
	"strings"
)

// environment is what a worker sees: what Python, MLX and the dynamic linker need, and no more. Without
// online, Hugging Face's libraries do not touch the network.
func environment(workerDir string, online bool) []string {
	keep := []string{"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "SSL_CERT_FILE"}
	prefixes := []string{"MLX_", "CUDA_", "NVIDIA_", "METAL_", "MTL_", "HF_", "OMP_", "OPENBLAS_"}
	env := []string{
		"PYTHONPATH=" + workerDir, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PYTHONIOENCODING=utf-8",
		"TOKENIZERS_PARALLELISM=false", "TERM=xterm",
	}
	if !online {
		env = append(env, "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
	}
	if extra := os.Getenv("PYTHONPATH"); extra != "" {
		env[0] += string(os.PathListSeparator) + extra
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if name == "HF_HUB_OFFLINE" || name == "TRANSFORMERS_OFFLINE" {
			continue // the option decides
		}
		hasPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if slices.Contains(keep, name) || slices.ContainsFunc(prefixes, hasPrefix) {
			env = append(env, entry)
		}
	}
	return env
}

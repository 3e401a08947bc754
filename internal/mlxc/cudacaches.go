package mlxc

import "os"

// MLX keeps what it has made for each shape that it has seen on an NVIDIA GPU: CUDA graphs, and cuDNN's plans for attention. Each of these caches
// fails every op once it has missed twice as often as it has places, counted over the life of the process: with MLX's defaults a
// server would be lost after some hundred requests of different lengths. Without that check the caches drop what was not used for longest.
var cudaCaches = map[string]string{
	"MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
	"MLX_CUDA_GRAPH_CACHE_SIZE":        "4000", // to make one again takes as long as to run it many times
	"MLX_CUDA_SDPA_CACHE_SIZE":         "2000",
}

// roomForCUDA sets these variables of MLX if the user has not. It must come before MLX's first use of a GPU.
func roomForCUDA() {
	for name, value := range cudaCaches {
		if _, set := os.LookupEnv(name); !set {
			_ = os.Setenv(name, value) // fails only for invalid names
		}
	}
}

package mlxc

import "os"

// MLX keeps the CUDA graphs that it has made, of every shape that it has seen, up to a number that an environment variable sets. It fails every
// op once it has made twice as many, counted over the life of the process: with its default of 400 a server would be lost after some
// hundred requests of different lengths.
const (
	graphCacheVariable = "MLX_CUDA_GRAPH_CACHE_SIZE"
	graphCacheSize     = "100000"
)

// roomForGraphs sets that number if the user has not. It must come before MLX's first use of a GPU.
func roomForGraphs() {
	if _, set := os.LookupEnv(graphCacheVariable); !set {
		_ = os.Setenv(graphCacheVariable, graphCacheSize) // fails only for invalid names
	}
}

// Package outside uses go-mlx as other modules do.
package outside

import (
	"strings"
	"testing"

	mlx "forge.lthn.ai/core/go-mlx"
)

// By a replace line the package is that of a folder beside, with the libraries that `make build` has put there.
func TestReplace(t *testing.T) {
	m, err := mlx.LoadModel("../models/assistant", mlx.WithEngine(mlx.EngineNative))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	answer, err := mlx.Collect(m.Chat(t.Context(), []mlx.Message{{Role: "user", Content: "Hello"}}))
	if err != nil || !strings.Contains(answer.Text, "very small model") {
		t.Fatal(answer.Text, err)
	}
}

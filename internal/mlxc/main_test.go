package mlxc

import (
	"testing"

	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

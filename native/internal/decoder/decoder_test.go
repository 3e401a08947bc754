package decoder

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/modelfiles"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
	"forge.lthn.ai/core/go-mlx/native/internal/checkpoint"
	"forge.lthn.ai/core/go-mlx/native/internal/mlxtest"
	"forge.lthn.ai/core/go-mlx/native/internal/owner"
)

// openNetwork loads the trained model, and checks at the end of the test that closing gives every byte back.
func openNetwork(t *testing.T, options engine.NativeOptions) *Network {
	t.Helper()
	before := mlxtest.Measure(t)
	from, err := modelfiles.Find(testenv.Model(t))
	require.NoError(t, err)
	config, err := checkpoint.ReadConfig(from)
	require.NoError(t, err)
	o, err := owner.NewOwner(0)
	require.NoError(t, err)
	n := &Network{Owner: o}
	t.Cleanup(func() {
		var closed error
		require.NoError(t, o.Lease.Release(func() { closed = n.Close() }))
		require.NoError(t, closed)
		require.Equal(t, before, mlxtest.Measure(t), "handles and active bytes")
	})
	require.NoError(t, o.Do(t.Context(), func() error {
		_, err := n.Load(from, config, "", options)
		return err
	}))
	return n
}

// someIDs is so many different tokens.
func someIDs(n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(300 + i*7%900)
	}
	return ids
}

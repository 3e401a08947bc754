// Package mlxtest helps tests to compare MLX's account of memory with what should be left.
package mlxtest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Account is what MLX holds.
type Account struct {
	Handles int64  // live arrays
	Active  uint64 // bytes
}

// Measure reads the account.
func Measure(t testing.TB) Account {
	t.Helper()
	m, err := mlxc.ReadMemory()
	require.NoError(t, err)
	// A thread of MLX's gives a GPU's memory back a little after the work that needed it, and nothing tells when.
	for quiet := 0; mlxc.HasCUDA() && quiet < 10; quiet++ {
		time.Sleep(time.Millisecond)
		now, err := mlxc.ReadMemory()
		require.NoError(t, err)
		if now.Active != m.Active {
			m, quiet = now, 0
		}
	}
	return Account{mlxc.LiveArrays(), m.Active}
}

// OnThread runs fn on an owner thread and checks that nothing outlives it.
func OnThread(t *testing.T, fn func(s *mlxc.Scope)) {
	t.Helper()
	lease, err := mlxc.Acquire()
	require.NoError(t, err)
	before := Measure(t)
	require.NoError(t, lease.Do(context.Background(), func() {
		s := lease.NewScope()
		defer s.Close()
		fn(s)
	}))
	require.NoError(t, lease.Release(func() {}))
	require.Equal(t, before, Measure(t))
}

// FailEverywhere runs work with a failure of MLX at its first op, then so many ops later and so on until it gets
// through. Each failure must come out as an error and leave nothing behind.
func FailEverywhere(t *testing.T, step int, work func() error) {
	t.Helper()
	require.NoError(t, work())
	before := Measure(t)
	mlxc.TraceLeaks(true)
	defer mlxc.TraceLeaks(false)
	defer mlxc.FailAt(0)
	failures := 0
	for n := 1; ; n += step {
		mlxc.FailAt(n)
		err := work()
		if !mlxc.FailAt(0) {
			require.NoError(t, err)
			break
		}
		failures++
		require.ErrorContains(t, err, "Cannot reshape", "op %d", n)
		require.Empty(t, mlxc.LiveByOp(), "op %d", n)
		require.Equal(t, before, Measure(t), "op %d", n)
	}
	t.Logf("%d failures", failures)
	require.Greater(t, failures, 3) // a pass by the CPU kernels is a single op
	require.NoError(t, work(), "it is as good as before")
}

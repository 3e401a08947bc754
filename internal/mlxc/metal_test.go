package mlxc

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// run runs fn with a fresh scope on an owner thread and checks that nothing outlives it: neither an
// array handle nor a byte of MLX's active memory.
func run(t *testing.T, fn func(l *Lease, s *Scope)) {
	t.Helper()
	l, err := Acquire()
	require.NoError(t, err)
	handles, memory := LiveArrays(), activeBytes(t)
	require.NoError(t, l.Do(context.Background(), func() {
		s := l.NewScope()
		defer func() { require.NoError(t, s.Close()) }()
		fn(l, s)
	}))
	require.NoError(t, l.Release(func() {}))
	require.Equal(t, handles, LiveArrays(), "live array handles")
	require.Equal(t, memory, activeBytes(t), "MLX active bytes")
}

func activeBytes(t *testing.T) uint64 {
	t.Helper()
	m, err := ReadMemory()
	require.NoError(t, err)
	return m.Active
}

func floats(t *testing.T, a *Array) []float32 {
	t.Helper()
	v, err := a.Floats()
	require.NoError(t, err)
	return v
}

func intsOf(t *testing.T, a *Array) []int64 {
	t.Helper()
	v, err := a.Ints()
	require.NoError(t, err)
	return v
}

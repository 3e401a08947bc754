package mlxc

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScopeLatchesTheFirstErrorAndNamesItsOp(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		bad := s.Matmul(counting(s, 2, 3), counting(s, 2, 3))
		first := s.Err()
		var mlxErr *Error
		require.ErrorAs(t, first, &mlxErr)
		require.Equal(t, "matmul", mlxErr.Op)
		require.Contains(t, mlxErr.Message, "matmul")
		require.NotContains(t, mlxErr.Message, ".cpp", "no place in foreign source")

		before := s.Len()
		after := s.Add(bad, bad)
		s.Concatenate(0, after, bad)
		require.Equal(t, before, s.Len(), "ops after the error must not run")
		require.Equal(t, first, s.Err())
		require.Equal(t, first, s.Eval(after))
	})
}

func TestFreedOperandsAreAnErrorNotACrash(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		child := s.Child()
		gone := counting(child, 3)
		require.NoError(t, child.Close())
		s.Exp(gone)
		require.ErrorIs(t, s.Err(), ErrFreed)
		_, err := gone.Floats()
		require.ErrorIs(t, err, ErrFreed)

		other := s.Child()
		other.Add(nil, nil)
		require.ErrorIs(t, other.Err(), ErrFreed)
	})
}

func TestKeptArraysOutliveTheirScope(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		child := s.Child()
		kept := child.Keep(child.Exp(counting(child, 3)))
		require.NoError(t, child.Close())
		require.Len(t, floats(t, kept), 3)
		require.NoError(t, kept.Free())
		require.NoError(t, kept.Free(), "a second Free does nothing")
		require.False(t, kept.Valid())
	})
}

func TestAdoptedArraysAreFreedWithTheirNewScope(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a, b := s.Child(), s.Child()
		owned, kept := counting(a, 3), a.Keep(counting(a, 2))
		b.Adopt(owned)
		b.Adopt(kept)
		require.NoError(t, a.Close())
		require.Len(t, floats(t, owned), 3)
		require.NoError(t, b.Close())
		require.False(t, owned.Valid())
		require.False(t, kept.Valid())
	})
}

func TestFreeLeavesOwnedArraysToTheirScope(t *testing.T) {
	run(t, func(_ *Lease, s *Scope) {
		a := counting(s, 2)
		require.NoError(t, a.Free())
		require.True(t, a.Valid())
	})
}

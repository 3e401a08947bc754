package mlxc

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Weights that are computed lie where arrays have them, are accounted for while an array holds them, and are given back with the last one.
func TestWeightsStayWhereTheyAreWritten(t *testing.T) {
	run(t, func(l *Lease, s *Scope) {
		if l.Device().Name == "gpu" {
			_, err := NewWeightRoom(1 << 20)
			require.ErrorContains(t, err, "on the CPU only")
			return
		}
		before, err := ReadMemory()
		require.NoError(t, err)
		room, err := NewWeightRoom(1 << 20)
		require.NoError(t, err)
		inner := s.Child()
		a, b := room.Array(inner, 64, Float32, 2, 3), room.Array(inner, 1<<20-8, Float32, 2)
		require.NoError(t, inner.Err())
		for offset, values := range map[int64][]float32{64: {0, 1, 2, 3, 4, 5}, 1<<20 - 8: {-1, 7}} {
			bytes, err := room.Bytes(offset, int64(4*len(values)))
			require.NoError(t, err)
			for i, v := range values {
				binary.LittleEndian.PutUint32(bytes[4*i:], math.Float32bits(v))
			}
		}
		during, err := ReadMemory()
		require.NoError(t, err)
		require.EqualValues(t, 32, during.Active-before.Active)
		for _, out := range [][2]int64{{1 << 20, 1}, {1<<20 - 8, 9}, {1 << 40, 0}} {
			_, err := room.Bytes(out[0], out[1])
			require.ErrorContains(t, err, "past the end of the file")
		}
		room.Close()
		room.Close()
		got, err := inner.Add(inner.SumAll(a), inner.SumAll(b)).Float()
		require.NoError(t, err)
		require.EqualValues(t, 21, got)
		require.NoError(t, inner.Close())
		after, err := ReadMemory()
		require.NoError(t, err)
		require.Equal(t, before.Active, after.Active)
	})
}

// A file that became shorter while it is read is an error and not a signal.
func TestAFileThatIsCutWhileItIsReadIsAnError(t *testing.T) {
	run(t, func(l *Lease, _ *Scope) {
		path := filepath.Join(t.TempDir(), "weights")
		require.NoError(t, os.WriteFile(path, make([]byte, 1<<16), 0o644))
		f, err := OpenWeightFile(path, 0)
		if l.Device().Name == "gpu" {
			require.ErrorContains(t, err, "on the CPU only")
			return
		}
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, os.Truncate(path, 100))
		require.Error(t, f.Read([]Range{{Offset: 0, Length: 1 << 16}}))
		require.Error(t, f.Read([]Range{{Offset: 1 << 16, Length: 1}}))
	})
}

package native

import (
	"context"
	"errors"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Inspection is what the native engine runs on.
type Inspection struct {
	MLX         string // version of the linked library
	Device      string // e.g. "cpu:0"
	MemoryBytes uint64 // of the device, where MLX knows it; 0 elsewhere
}

// Inspect opens MLX's device and computes a sum on it.
func Inspect(ctx context.Context) (in Inspection, err error) {
	if in.MLX, err = mlxc.Version(); err != nil {
		return in, err
	}
	lease, err := mlxc.Acquire()
	if err != nil {
		return in, err
	}
	defer func() { err = errors.Join(err, lease.Release(func() {})) }()
	in.Device = lease.Device().String()
	if in.MemoryBytes, err = lease.MemorySize(); err != nil {
		return in, err
	}
	var failed error
	err = lease.Do(ctx, func() {
		s := lease.NewScope()
		defer s.Close()
		sum := s.Add(s.FromInts([]int32{1}, 1), s.FromInts([]int32{2}, 1))
		if failed = s.Eval(sum); failed == nil {
			failed = s.Err()
		}
	})
	return in, errors.Join(err, failed)
}

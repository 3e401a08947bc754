package native

import (
	"context"
	"errors"
	"fmt"

	"forge.lthn.ai/core/go-mlx/internal/mlxc"
)

// Inspection is what the native engine runs on.
type Inspection struct {
	MLX         string // version of the linked library
	Device      string // e.g. "cpu:0"
	MemoryBytes uint64 // of the device, where MLX knows it; 0 elsewhere
	CUDA        string // of an NVIDIA GPU: its compute capability, and the CUDA versions of the driver and of the compiler; "" elsewhere
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
	if mlxc.HasCUDA() {
		d, err := lease.CUDADevice()
		if err != nil {
			return in, err
		}
		in.CUDA = fmt.Sprintf("compute capability %d.%d, driver for CUDA %d.%d, NVRTC %d.%d", d.Major, d.Minor, d.Driver/1000, d.Driver%1000/10, d.Compiler/1000, d.Compiler%1000/10)
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

package mlxc

import (
	"context"
	"testing"
)

// The cost of an op called from Go, its array allocated and freed: nothing is computed.
func BenchmarkOp(b *testing.B) {
	l, err := Acquire()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Release(func() {})
	_ = l.Do(context.Background(), func() {
		s := l.NewScope()
		defer s.Close()
		x := s.FromFloats([]float32{1}, 1)
		step := s.Child()
		n := 0
		for b.Loop() {
			step.Add(x, x)
			if n++; n%512 == 0 {
				_ = step.Close()
			}
		}
		_ = step.Close()
	})
}

// The cost of handing a job to the owner thread and back.
func BenchmarkDo(b *testing.B) {
	l, err := Acquire()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Release(func() {})
	for b.Loop() {
		_ = l.Do(context.Background(), func() {})
	}
}

package admission

import "context"

type memoryKey struct{}

// NewContext returns a context that carries the memory which a load may claim from. The public package hands it to the python engine
// this way, whose options are public and name no internal type.
func NewContext(ctx context.Context, m *Memory) context.Context {
	return context.WithValue(ctx, memoryKey{}, m)
}

// FromContext is the memory that NewContext put into a context; nil without.
func FromContext(ctx context.Context) *Memory {
	m, _ := ctx.Value(memoryKey{}).(*Memory)
	return m
}

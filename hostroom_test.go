package mlx_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// For a request that does not fit beside other models of the native engine, unused ones are closed.
func TestIdleModelsAreClosedForARequest(t *testing.T) {
	ids := slices.Repeat([]int32{300}, 513) // one pass, and the last token
	ask := func(m mlx.TextModel) error {
		_, err := mlx.Collect(m.GenerateIDs(t.Context(), ids, mlx.WithMaxTokens(1), mlx.WithSampling(mlx.IgnoreEOS())))
		return err
	}
	native := []mlx.LoadOption{mlx.WithEngine(mlx.EngineNative)}
	one := size(t, native...)
	alone, err := mlx.LoadModel(testenv.Model(t), append(native, mlx.WithMemoryBudget(one))...)
	require.NoError(t, err)
	var over *mlx.BudgetError
	require.ErrorAs(t, ask(alone), &over, "%d", one)
	require.NoError(t, alone.Close())
	budget := over.Used + over.Needed + over.Used/2 // the model, its request, and not one more model
	require.Greater(t, budget, 2*one, "both are loaded")

	h, err := mlx.NewHost(mlx.HostOptions{Budget: budget},
		mlx.HostedModel{Name: "a", Path: testenv.Model(t), Options: native}, mlx.HostedModel{Name: "b", Path: testenv.Model(t), Options: native})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	a, err := h.Acquire(t.Context(), "a")
	require.NoError(t, err)
	defer a.Release()
	b, err := h.Acquire(t.Context(), "b")
	require.NoError(t, err)
	require.ErrorIs(t, ask(a.Model), mlx.ErrBudget, "who has a lease is not closed")
	b.Release()
	require.NoError(t, h.Pin("b", true))
	require.ErrorIs(t, ask(a.Model), mlx.ErrBudget, "who is pinned neither")
	require.Equal(t, mlx.PhaseReady, h.State().Models[1].Phase)
	require.NoError(t, h.Pin("b", false))
	require.NoError(t, ask(a.Model))
	state := h.State().Models[1]
	require.Equal(t, mlx.PhaseCold, state.Phase)
	require.EqualValues(t, 1, state.Evictions)
}

//go:build unix

package bridge

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestAnEmbeddingSurvivesItsWorker(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies at embed once")
	vectors, err := m.Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{1}}, vectors)
	require.EqualValues(t, 1, m.counters.resumed.Load())
}

func TestAnEmbeddingThatEndsItsWorkersIsQuarantined(t *testing.T) {
	noLeaks(t)
	m := loadFake(t, "dies at embed")
	_, err := m.Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
	require.ErrorIs(t, err, ErrQuarantined)
}

func TestVectorsThatAreNoneAreErrors(t *testing.T) {
	noLeaks(t)
	_, err := loadFake(t, "too few numbers").Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
	require.ErrorIs(t, err, errProtocol)
	_, err = loadFake(t, "no numbers").Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
	require.ErrorContains(t, err, "text 0: embed: a value is not a finite number")
}

func TestListsToEmbedAreCutWhereTheyAreLarge(t *testing.T) {
	m := &Model{pool: newPool(limits{max: 1}, nil, nil)}
	large := string(make([]byte, embedBytes/2+1))
	require.Equal(t, []part{{0, 1}, {1, 3}, {3, 4}}, m.embedParts([]string{large, large, "x", large}, engine.EmbedOptions{}))
	require.Equal(t, []part{{0, 256}, {256, 300}}, m.embedParts(make([]string, 300), engine.EmbedOptions{}))
	require.Equal(t, []part{{0, 1}, {1, 2}}, m.embedParts(make([]string, 2), engine.EmbedOptions{IDs: [][]int32{make([]int32, embedBytes/8), make([]int32, embedBytes/8)}}))
}

// That it stops between two passes shows tests/python/test_server.py.
func TestTheMemoryOfACancelledListIsGivenBack(t *testing.T) {
	m := loadReal(t, nil)
	texts := make([]string, 256)
	ids := make([][]int32, len(texts))
	for i := range ids {
		ids[i] = make([]int32, 2000)
	}
	_, err := m.Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
	require.NoError(t, err)
	before, err := m.Metrics(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = m.Embed(ctx, texts, engine.EmbedOptions{IDs: ids})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Eventually(t, func() bool {
		after, err := m.Metrics(t.Context())
		return err == nil && after.ActiveBytes == before.ActiveBytes
	}, aWhile, 10*time.Millisecond)
}

func TestAnArchitectureWithoutVectorsSaysSo(t *testing.T) {
	dir := testenv.CopyModel(t)
	testenv.EditJSON(t, dir, "config.json", func(c map[string]any) { c["use_bidirectional_attention"] = true })
	m := loadReal(t, nil, dir)
	for range 2 {
		_, err := m.Embed(t.Context(), []string{"x"}, engine.EmbedOptions{})
		var refused *EmbedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "gemma3_text", refused.Architecture)
		require.ErrorIs(t, err, engine.ErrUnsupported)
		require.ErrorContains(t, err, "use the native engine")
	}
}

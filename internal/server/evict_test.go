package server

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Real models in room for one, asked for at once: every request is answered, and in the end every byte is back.
func TestModelsMakeRoomForEachOther(t *testing.T) {
	before, err := metal.ReadMemory()
	require.NoError(t, err)
	arrays := metal.LiveArrays()
	models, err := mlx.NewHost(mlx.HostOptions{Budget: 8 << 20, IdleTTL: 10 * time.Second}, []mlx.HostedModel{
		{Name: "chat", Path: filepath.Join(testenv.Root(), "tests", "models", "assistant")},
		{Name: "domains", Path: testenv.Model(t)},
		{Name: "python", Path: testenv.Model(t), Options: []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(testenv.Python(t))}},
	}...)
	require.NoError(t, err)
	s, err := New(Config{Models: models})
	require.NoError(t, err)
	var group sync.WaitGroup
	codes := make([]string, 12)
	for i := range codes {
		group.Go(func() {
			name := []string{"chat", "domains", "python"}[i%3]
			body := fmt.Sprintf(`{"model": %q, "prompt": "Hello", "max_tokens": 10}`, name)
			r := httptest.NewRequest("POST", "/v1/completions", strings.NewReader(body))
			r.Host = "localhost"
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			codes[i] = fmt.Sprint(w.Code, " ", name)
			if w.Code != 200 {
				codes[i] += w.Body.String()
			}
		})
	}
	group.Wait()
	var evictions int64
	for i, code := range codes {
		require.Equal(t, "200 "+[]string{"chat", "domains", "python"}[i%3], code)
	}
	loaded := 0
	for _, state := range models.State().Models {
		evictions += state.Evictions
		if state.Phase == mlx.PhaseReady {
			loaded++
		}
	}
	require.GreaterOrEqual(t, evictions, int64(2))
	require.Equal(t, 1, loaded)
	require.NoError(t, models.Close())
	after, err := metal.ReadMemory()
	require.NoError(t, err)
	require.Equal(t, before.Active, after.Active)
	require.Equal(t, arrays, metal.LiveArrays())
}

package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/mlxc"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// Real models in room for one, asked for at once: every request is answered, and in the end every byte is back.
func TestModelsMakeRoomForEachOther(t *testing.T) {
	before, err := mlxc.ReadMemory()
	require.NoError(t, err)
	arrays := mlxc.LiveArrays()
	models, err := mlx.NewHost(mlx.HostOptions{Budget: 8 << 20, IdleTTL: time.Hour}, []mlx.HostedModel{
		{Name: "chat", Path: filepath.Join(testenv.Root(), "tests", "models", "assistant")},
		{Name: "domains", Path: testenv.Model(t)},
		{Name: "python", Path: testenv.Model(t), Options: []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))}},
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
	after, err := mlxc.ReadMemory()
	require.NoError(t, err)
	require.Equal(t, before.Active, after.Active)
	require.Equal(t, arrays, mlxc.LiveArrays())
}

// A request that waits for memory is told for what: in the comments that keep its stream alive, and in /v1/status.
func TestARequestThatWaitsForMemoryIsTold(t *testing.T) {
	models, err := mlx.NewHost(mlx.HostOptions{Budget: 8 << 20},
		mlx.HostedModel{Name: "chat", Path: filepath.Join(testenv.Root(), "tests", "models", "assistant")},
		mlx.HostedModel{Name: "domains", Path: testenv.Model(t)})
	require.NoError(t, err)
	defer func() { require.NoError(t, models.Close()) }()
	s, err := New(Config{Models: models})
	require.NoError(t, err)
	lease, err := models.Acquire(t.Context(), "chat")
	require.NoError(t, err)
	answer := make(chan *httptest.ResponseRecorder)
	go func() {
		answer <- send(t, s, "POST", "/v1/completions", `{"model": "domains", "prompt": "Hello", "max_tokens": 3, "stream": true}`)
	}()
	require.Eventually(t, func() bool {
		status := send(t, s, "GET", "/v1/status", "").Body.String()
		return strings.Contains(status, `"waiting":1,"wait":"model domains waits for `) && strings.Contains(status, `are free; held by: chat"`)
	}, 2*time.Minute, 10*time.Millisecond)
	lease.Release()
	w := <-answer
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), "[DONE]")
}

func TestAStreamSaysWhatItsRequestWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		out := (&Server{}).newStream(t.Context(), w, openAI)
		out.waits(mlx.Wait{Model: "large\nmodel", Reason: mlx.WaitMemory, Models: []string{"small"}, Needed: 9 << 20, Free: 1 << 20, Budget: 10 << 20})
		time.Sleep(keepAlive + keepAlive/2)
		out.header(func(http.Header) {}) // the model is there
		time.Sleep(keepAlive + keepAlive/2)
		out.close()
		require.Equal(t, ": model large model waits for 9 MiB of memory, 1 MiB of 10 MiB are free; held by: small\n\n: still at work\n\n", w.Body.String())
	})
}

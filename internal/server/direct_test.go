package server

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// bothEngines hosts the trained assistant twice: as "native" and as "python".
func bothEngines(t *testing.T) *mlx.Host {
	t.Helper()
	dir := filepath.Join(testenv.Root(), "tests", "models", "assistant")
	models, err := mlx.NewHost(mlx.HostOptions{},
		mlx.HostedModel{Name: "native", Path: dir},
		mlx.HostedModel{Name: "python", Path: dir, Options: []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, models.Close()) })
	return models
}

// send asks a server without a listener.
func send(t *testing.T, s *Server, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	r.Host = "localhost"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func post(t *testing.T, s *Server, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	return send(t, s, "POST", path, body)
}

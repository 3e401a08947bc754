package testenv

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main is a package's TestMain: it runs the tests, then the closers, and fails if a goroutine is left that was not there before.
func Main(m *testing.M, closers ...func() error) {
	code := m.Run()
	for _, closer := range closers {
		if err := closer(); err != nil {
			fmt.Println("closing what tests shared failed:", err)
			code = 1
		}
	}
	err := left()
	// What is about to end gets time for it: goleak itself waits for less than a second, which a busy machine may take.
	for end := time.Now().Add(2 * time.Minute); err != nil && code == 0 && time.Now().Before(end); err = left() {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil && code == 0 { // a test that failed may have left something
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// left is an error that names the goroutines that were not there before.
func left() error {
	http.DefaultClient.CloseIdleConnections()
	return goleak.Find(
		// These stay for as long as the program does.
		goleak.IgnoreTopFunction("forge.lthn.ai/core/go-mlx/bridge.serveSpawns"),
		goleak.IgnoreTopFunction("forge.lthn.ai/core/go-mlx/internal/mlxc.(*Thread).loop"),
	)
}

package mlx_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	mlx "forge.lthn.ai/core/go-mlx"
)

// The Python environment that `make build` makes. A program that is installed beside its own .venv needs no Interpreter.
const python = ".venv/bin/python"

func ExamplePromptCacheFiles() {
	m, err := mlx.LoadModel(domains, mlx.WithPromptCache(64<<20))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	c, ok := m.(mlx.PromptCacheFiles)
	if !ok {
		log.Fatal("only models of the native engine have prompt cache files")
	}
	dir, err := os.MkdirTemp("", "go-mlx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "prompts.safetensors")
	if err := c.SavePromptCache(context.Background(), file); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.LoadPromptCache(context.Background(), file))
	// Output: <nil>
}

func ExampleHiddenStates() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	h, ok := m.(mlx.HiddenStates)
	if !ok {
		log.Fatal("only models of the native engine give their hidden states away")
	}
	states, err := h.States(context.Background(), []string{"The striker scored.", "Simmer the sauce."}, mlx.StatesOptions{Layers: []int{2, 4}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(states), "layers,", len(states[0]), "texts,", len(states[0][0]) == m.Info().HiddenSize)
	// Output: 2 layers, 2 texts, true
}

// The workers of the python engine can be looked at, and renewed when the model's files have changed.
func ExampleSupervised() {
	m, err := mlx.LoadModel(domains, mlx.WithPython(mlx.Interpreter(python), mlx.Workers(1), mlx.Queue(100)))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	s, ok := m.(mlx.Supervised)
	if !ok {
		log.Fatal("only models of the python engine have workers")
	}
	for _, w := range s.Stat().Workers {
		fmt.Println(w.State, w.Active)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println(s.Shutdown(ctx))
	// Output:
	// ready 0
	// <nil>
}

// The native engine answers; a worker of the python engine answers the same requests again, and what differs is kept.
func ExampleShadowed() {
	m, err := mlx.LoadModel(domains, mlx.WithShadow(1, mlx.WithPython(mlx.Interpreter(python))))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Classify(context.Background(), []string{"The striker scored twice."}, []string{"sports", "food"}); err != nil {
		log.Fatal(err)
	}
	s := m.(mlx.Shadowed)
	report := s.Shadow()
	for report.Compared+report.Failed == 0 { // Classify did not wait for the comparison
		time.Sleep(10 * time.Millisecond)
		report = s.Shadow()
	}
	for _, d := range report.Differences {
		fmt.Println(d.Text, d.Native, d.Python)
	}
	fmt.Println(report.Compared, "compared,", report.Flips, "different,", report.LastError)
	// Output: 1 compared, 0 different, <nil>
}

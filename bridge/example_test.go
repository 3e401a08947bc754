package bridge_test

import (
	"context"
	"fmt"
	"log"

	"forge.lthn.ai/core/go-mlx/bridge"
	"forge.lthn.ai/core/go-mlx/engine"
)

// The Python environment that `make build` makes.
const python = "../.venv/bin/python"

// The engine by itself. Most programs use mlx.LoadModel with WithPython.
func ExampleLoad() {
	ctx := context.Background()
	m, err := bridge.Load(ctx, "../tests/models/domains", bridge.Options{Python: python})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	for tok, err := range m.Generate(ctx, engine.Prompt{Text: "Where can I"}, engine.DefaultGenerateOptions()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(tok.Text)
	}
	fmt.Printf("\n%d worker, %d request served\n", len(m.Stat().Workers), m.Stat().Served)
	// Output:
	// find the free shipping offer?
	// 1 worker, 1 request served
}

// Python can also be run once, without a model.
func ExampleTool() {
	tool, err := bridge.NewTool(python)
	if err != nil {
		log.Fatal(err)
	}
	out, err := tool.Run(context.Background(), "-c", "print(6 * 7)")
	fmt.Printf("%s%v\n", out, err)
	// Output:
	// 42
	// <nil>
}

func ExampleInspect() {
	_, versions, err := bridge.Inspect(context.Background(), python)
	fmt.Println(versions.MLX, err)
	// Output: 0.32.2 <nil>
}

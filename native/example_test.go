package native_test

import (
	"context"
	"fmt"
	"log"

	"forge.lthn.ai/core/go-mlx/engine"
	"forge.lthn.ai/core/go-mlx/native"
)

// The engine by itself. Most programs use mlx.LoadModel, which takes this engine where it can.
func ExampleLoad() {
	ctx := context.Background()
	m, err := native.Load(ctx, "../tests/models/domains", engine.NativeOptions{})
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
	// Output: find the free shipping offer?
}

func ExampleSupported() {
	fmt.Println(native.Supported("../tests/models/domains"))
	// Output: <nil>
}

func ExampleInspect() {
	in, err := native.Inspect(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(in.MLX != "", in.Device != "")
	// Output: true true
}

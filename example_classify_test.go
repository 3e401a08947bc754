package mlx_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"

	mlx "forge.lthn.ai/core/go-mlx"
)

func ExampleTextModel_classify() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	texts := []string{"The striker scored twice in the second half.", "Simmer the sauce until it thickens."}
	results, err := m.Classify(context.Background(), texts, []string{"sports", "food"}, mlx.WithAbstain(0.5))
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range results {
		fmt.Println(r.Label, r.Abstained)
	}
	// Output:
	// sports false
	// food false
}

func ExampleClassifyAll() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	texts := slices.Values([]string{"The striker scored twice in the second half.", "Simmer the sauce until it thickens."})
	for r, err := range mlx.ClassifyAll(context.Background(), m, texts, []string{"sports", "food"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Label)
	}
	// Output:
	// sports
	// food
}

var labelled = func() (texts []mlx.LabelledText) {
	for range 12 {
		texts = append(texts,
			mlx.LabelledText{Text: fmt.Sprintf("The striker scored %d goals.", len(texts)), Label: "sports"},
			mlx.LabelledText{Text: fmt.Sprintf("Simmer %d tomatoes in the pan.", len(texts)), Label: "food"})
	}
	return texts
}()

func ExampleTrainClassifier() {
	m, err := mlx.LoadModel(domains, mlx.WithEngine(mlx.EngineNative))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx := context.Background()
	c, err := mlx.TrainClassifier(ctx, m, labelled, mlx.ClassifierOptions{})
	if err != nil {
		log.Fatal(err)
	}
	results, err := m.Classify(ctx, []string{"The striker scored 7 goals."}, nil, mlx.WithClassifier(c))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Info().Labels, results[0].Label)
	// Output: [food sports] sports
}

func ExampleCalibrate() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	ctx, labels := context.Background(), []string{"sports", "food"}
	c, err := mlx.Calibrate(ctx, m, labelled, labels)
	if err != nil {
		log.Fatal(err)
	}
	_, err = m.Classify(ctx, []string{"The striker scored."}, labels, mlx.WithCalibration(c))
	fmt.Println(c.Texts, err)
	// Output: 24 <nil>
}

func ExampleWithLabels() {
	m, err := mlx.LoadModel(domains)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	details := map[string]mlx.LabelDetails{
		"sports": {Description: "games, teams, athletes", Examples: []string{"The match ended in a draw."}},
		"food":   {Description: "cooking and eating"},
	}
	results, err := m.Classify(context.Background(), []string{"The striker scored twice."}, []string{"sports", "food"},
		mlx.WithLabels(mlx.LabelDescriptions(details), mlx.LabelPrior(mlx.PriorContentFree)))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(results[0].Label)
	// Output: sports
}

func ExampleClassifier_Save() {
	m, err := mlx.LoadModel(domains, mlx.WithEngine(mlx.EngineNative))
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	trained, err := mlx.TrainClassifier(context.Background(), m, labelled, mlx.ClassifierOptions{})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "go-mlx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "domains.safetensors")
	if err := trained.Save(file); err != nil {
		log.Fatal(err)
	}
	c, err := mlx.LoadClassifier(file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Info().Labels, "layer", c.Info().Layer)
	// Output: [food sports] layer 5
}

package quality_test

import (
	"fmt"
	"log"

	"forge.lthn.ai/core/go-mlx/quality"
)

func ExampleNewReport() {
	report, err := quality.NewReport([]string{"sport", "food"}, []quality.Prediction{
		{Truth: "sport", Label: "sport", Probability: 0.9, Confidence: 0.9},
		{Truth: "food", Label: "food", Probability: 0.8, Confidence: 0.8},
		{Truth: "food", Label: "sport", Probability: 0.6, Confidence: 0.6},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.2f right; rows are right labels: %v\n", report.Accuracy, report.Confusion)
	// Output: 0.67 right; rows are right labels: [[1 0] [1 1]]
}

func ExampleCompare() {
	right := quality.Prediction{Text: "a goal", Truth: "sport", Label: "sport"}
	wrong := quality.Prediction{Text: "a goal", Truth: "sport", Label: "food"}
	c, err := quality.Compare([]quality.Prediction{right, right}, []quality.Prediction{right, wrong})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.OnlyA, c.OnlyB, c.Both)
	// Output: 1 0 1
}

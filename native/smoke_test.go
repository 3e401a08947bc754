package native

import (
	"context"
	"fmt"
	"forge.lthn.ai/core/go-mlx/internal/engine"
	"forge.lthn.ai/core/go-mlx/internal/metal"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	m0, _ := metal.ReadMemory()
	l0 := metal.LiveArrays()
	m, err := Load(context.Background(), "../tests/models/domains")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%+v\n", m.Info())
	o := engine.DefaultGenerateOptions()
	o.MaxTokens = 40
	o.LogProbs = true
	o.TopLogProbs = 2
	for tok, err := range m.Generate(context.Background(), engine.Prompt{Text: "Please check"}, o) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Print(tok.ID, " ", tok.Text, " ", tok.LogProb, "|")
	}
	fmt.Println()
	b, _ := os.ReadFile("../tests/corpus/heldout.tsv")
	var texts, want []string
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.Split(line, "\t")
		texts = append(texts, f[2])
		want = append(want, f[1])
	}
	co := engine.ClassifyOptions{Labels: strings.Fields("commerce medical legal travel finance developer sport food"), Prompt: engine.DefaultLabelPrompt}
	t0 := time.Now()
	cs, err := m.Classify(context.Background(), texts, co)
	if err != nil {
		t.Fatal(err)
	}
	right := 0
	for i := range cs {
		if cs[i].Label == want[i] {
			right++
		}
	}
	fmt.Println(right, len(cs), time.Since(t0), cs[0])
	co.Labels = append(co.Labels, "something else", "weather forecast")
	cs, err = m.Classify(context.Background(), texts[:5], co)
	fmt.Println(cs[0], err)
	c1, err := m.Classify(context.Background(), texts[:1], co)
	fmt.Println(c1[0], err)
	mm, _ := m.Metrics(context.Background())
	fmt.Printf("%+v\n", mm)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m1, _ := metal.ReadMemory()
	fmt.Println(m0.Active, m1.Active, l0, metal.LiveArrays())
}

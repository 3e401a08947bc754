package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// sorted is a line that a job wrote.
type sorted struct {
	text, domain string
}

func readSorted(path, field string) ([]sorted, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	var out []sorted
	for lines.Scan() {
		var fields map[string]json.RawMessage
		var s sorted
		err := json.Unmarshal(lines.Bytes(), &fields)
		if err == nil {
			err = json.Unmarshal(fields[field], &s.text)
		}
		if err == nil {
			err = json.Unmarshal(fields["domain"], &s.domain)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: line %d is not of this program: %w", path, len(out)+1, err)
		}
		out = append(out, s)
	}
	return out, lines.Err()
}

// agreement prints how far two sorted files agree: the share of equal domains, Cohen's kappa, which takes out what chance would agree on, and what
// is taken for what most often.
func agreement(out io.Writer, pathA, pathB, field string) error {
	a, err := readSorted(pathA, field)
	if err != nil {
		return err
	}
	b, err := readSorted(pathB, field)
	if err != nil {
		return err
	}
	if len(a) == 0 || len(a) != len(b) {
		return fmt.Errorf("%s has %d sentences and %s %d: both must be of the same file", pathA, len(a), pathB, len(b))
	}
	same, n := 0.0, float64(len(a))
	countA, countB, pairs := map[string]float64{}, map[string]float64{}, map[[2]string]int{}
	for i := range a {
		if a[i].text != b[i].text {
			return fmt.Errorf("sentence %d is not the same: both must be of the same file", i+1)
		}
		countA[a[i].domain]++
		countB[b[i].domain]++
		if a[i].domain == b[i].domain {
			same++
		} else {
			pairs[[2]string{a[i].domain, b[i].domain}]++
		}
	}
	chance := 0.0
	for domain, count := range countA {
		chance += count / n * countB[domain] / n
	}
	kappa := 1.0
	if chance < 1 {
		kappa = (same/n - chance) / (1 - chance)
	}
	fmt.Fprintf(out, "%d sentences, the same domain for %.1f %%, kappa %.2f\n", len(a), 100*same/n, kappa)
	order := slices.SortedFunc(maps.Keys(pairs), func(x, y [2]string) int {
		return cmp.Or(cmp.Compare(pairs[y], pairs[x]), cmp.Compare(x[0]+x[1], y[0]+y[1]))
	})
	for _, pair := range order[:min(len(order), 10)] {
		fmt.Fprintf(out, "%8d  %s / %s\n", pairs[pair], pair[0], pair[1])
	}
	return nil
}

package parity

import (
	"fmt"
	"maps"
	"slices"
)

// Report is the outcome of a comparison.
type Report struct {
	Model     string
	DType     string
	Engines   [2]string // the two sides: engine and device
	Tolerance float64   // of a layer's relative difference
	Key       Key       // what the result holds for
	Prompts   []Prompt
	Checks    []Check
	Columns   []string
	Layers    []Layer
	Diverging *Divergence // the first layer beyond the tolerance, or else the first that is not bit-equal; nil if all are
	Passed    bool
}

// Key says what a result holds for: versions, options and hashes of the model's files, by name.
type Key map[string]string

// Prompt is a text that was compared.
type Prompt struct {
	Text   string
	Tokens int
}

// Check is one comparison besides the layers.
type Check struct {
	Name   string
	Passed bool
	Detail string
}

// Layer is the differences of one layer's states over all prompts, by column.
type Layer struct {
	Name        string
	Differences []Difference
}

// Divergence names where the two sides begin to differ.
type Divergence struct {
	Prompt int // index
	Layer  string
	Op     string // the first of its ops that differs; empty if there are none to compare
	Beyond bool   // beyond the tolerance, and not only in bits
	Ops    []Op
}

// Op is the difference of one op of the diverging layer.
type Op struct {
	Name       string
	Difference Difference
	Missing    string // the side that does not have it; empty if both do
}

// Stale lists what has changed between the time of a result and now.
func (k Key) Stale(now Key) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(k)) {
		if value, ok := now[name]; !ok {
			out = append(out, name+" is gone")
		} else if value != k[name] {
			out = append(out, fmt.Sprintf("%s was %s, is %s", name, short(k[name]), short(value)))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if _, ok := k[name]; !ok {
			out = append(out, name+" is new")
		}
	}
	return out
}

func short(value string) string {
	if len(value) == 64 { // a hash
		return value[:12]
	}
	return value
}

// Failures are the checks and layers that did not pass.
func (r *Report) Failures() []string {
	var out []string
	for _, c := range r.Checks {
		if !c.Passed {
			out = append(out, c.Name+": "+c.Detail)
		}
	}
	if d := r.Diverging; d != nil && d.Beyond {
		out = append(out, "layers: "+d.String())
	}
	return out
}

// String names the place.
func (d *Divergence) String() string {
	where := d.Layer
	if d.Op != "" {
		where += ", " + d.Op
	}
	if d.Beyond {
		return "beyond the tolerance from " + where + " on"
	}
	return "not bit-equal from " + where + " on, within the tolerance"
}

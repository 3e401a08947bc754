package parity

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

//go:embed report.html
var page string

// The plot's area, in its own units; decades are those of relative differences that it shows.
const (
	plotLeft, plotTop, plotWidth, plotHeight = 64, 12, 780, 260
	highestDecade, lowestDecade              = 1, -8
)

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"sci": func(x float64) string {
		if x == 0 {
			return "0"
		}
		return fmt.Sprintf("%.2g", x)
	},
	"cosine": func(x float64) string {
		if math.IsNaN(x) {
			return "–"
		}
		return fmt.Sprintf("%.9f", x)
	},
	"short":   short,
	"buckets": func() []string { return Buckets[:] },
}).Parse(page))

// WriteHTML writes the report as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*Report
		Keys   []string
		Lines  []plotLine
		Grid   []tick
		Ticks  []tick
		Bars   []bar
		Bottom int
		Limit  float64
	}{
		r, slices.Sorted(maps.Keys(r.Key)), r.lines(), grid(), r.ticks(), r.bars(), plotTop + plotHeight, height(r.Tolerance),
	})
}

type plotLine struct {
	Name   string
	Class  string
	Points string
	Dots   []dot
}

type dot struct {
	X, Y  float64
	Title string
}

type tick struct {
	At    float64
	Label string
}

// bar is one layer's ULP histogram, as parts one above the other.
type bar struct {
	X, Width float64
	Title    string
	Parts    []part
}

type part struct {
	Y, Height float64
	Class     string
}

// height is the vertical place of a relative difference in the plot; 0 is at the bottom.
func height(relative float64) float64 {
	decade := float64(lowestDecade)
	if relative > 0 {
		decade = min(max(math.Log10(relative), lowestDecade), highestDecade)
	}
	return plotTop + plotHeight*(highestDecade-decade)/(highestDecade-lowestDecade)
}

func (r *Report) across(layer int) float64 {
	return plotLeft + plotWidth*(float64(layer)+0.5)/float64(len(r.Layers))
}

func (r *Report) lines() []plotLine {
	var out []plotLine
	for c, name := range r.Columns {
		line := plotLine{Name: name, Class: fmt.Sprintf("c%d", c)}
		var points []string
		for i, layer := range r.Layers {
			if len(layer.Differences) == 0 {
				continue
			}
			d := layer.Differences[c]
			x, y := r.across(i), height(d.Relative)
			points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
			line.Dots = append(line.Dots, dot{x, y, fmt.Sprintf("%s, %s: relative %.3g, largest %.3g", layer.Name, name, d.Relative, d.MaxAbs)})
		}
		line.Points = strings.Join(points, " ")
		out = append(out, line)
	}
	return out
}

func grid() []tick {
	var out []tick
	for decade := highestDecade; decade >= lowestDecade; decade-- {
		label := fmt.Sprintf("1e%d", decade)
		if decade == lowestDecade {
			label = "equal"
		}
		out = append(out, tick{height(math.Pow(10, float64(decade))), label})
	}
	return out
}

// ticks names some of the layers.
func (r *Report) ticks() []tick {
	var out []tick
	every := (len(r.Layers) + 11) / 12
	for i, layer := range r.Layers {
		if i == 0 || i == len(r.Layers)-1 || (i-1)%every == 0 && i < len(r.Layers)-every/2-1 {
			out = append(out, tick{r.across(i), strings.TrimPrefix(layer.Name, "layer ")})
		}
	}
	return out
}

func (r *Report) bars() []bar {
	var out []bar
	for i, layer := range r.Layers {
		if len(layer.Differences) == 0 {
			continue
		}
		h := layer.Differences[columnEngines].ULP
		var total int64
		for _, n := range h {
			total += n
		}
		if total == 0 {
			continue
		}
		b := bar{X: r.across(i) - 0.35*plotWidth/float64(len(r.Layers)), Width: 0.7 * plotWidth / float64(len(r.Layers)), Title: layer.Name}
		y := float64(plotTop + plotHeight)
		for k, n := range h {
			share := plotHeight * float64(n) / float64(total)
			y -= share
			b.Parts = append(b.Parts, part{y, share, fmt.Sprintf("u%d", k)})
			if n > 0 {
				b.Title += fmt.Sprintf("; %s ULP: %.2f %%", Buckets[k], 100*float64(n)/float64(total))
			}
		}
		out = append(out, b)
	}
	return out
}

package quality

import (
	_ "embed" // the page
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed report.html
var page string

// plotSize is the side of a plot's square, in its own units.
const plotSize = 240

// darkest is how strong the colour behind a number may be, with which it can still be read.
const darkest = 0.7

// maxShown is how many labels have their confusions on the page and in the text; for thousands of labels that would be gigabytes.
const maxShown = 60

// showsConfusion reports whether the confusions are shown. They may also be missing, as in a classifier's file of many labels.
func (r *Report) showsConfusion() bool {
	return len(r.Confusion) == len(r.Labels) && len(r.Labels) <= maxShown
}

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"percent": func(x float64) string { return fmt.Sprintf("%.1f", 100*x) },
	"shade": func(counts []int, n int) template.CSS { // of a cell of the confusion matrix, by its share of the row
		total := 0
		for _, c := range counts {
			total += c
		}
		return template.CSS(fmt.Sprintf("background:rgba(20,100,200,%.2f)", darkest*ratio(float64(n), float64(total))))
	},
	"confusion": (*Report).showsConfusion,
	"calibration": func(bins []Bin) string {
		var points [][2]float64
		for _, b := range bins {
			if b.Texts > 0 {
				points = append(points, [2]float64{b.Confidence, b.Accuracy})
			}
		}
		return line(points)
	},
	"coverage": func(covers []Cover) string {
		var points [][2]float64
		for _, c := range covers {
			points = append(points, [2]float64{c.Coverage, c.Accuracy})
		}
		return line(points)
	},
}).Parse(page))

// line is the points of a polyline in a plot of the unit square.
func line(points [][2]float64) string {
	var b strings.Builder
	for _, p := range points {
		fmt.Fprintf(&b, "%.1f,%.1f ", p[0]*plotSize, (1-p[1])*plotSize)
	}
	return strings.TrimSpace(b.String())
}

// WriteHTML writes one page that needs nothing else.
func (r *Report) WriteHTML(out io.Writer, title string) error {
	return pageTemplate.Execute(out, struct {
		*Report
		Title string
	}{r, title})
}

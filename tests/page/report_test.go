package page_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/quality"
)

// report serves a report's page of some labels, with texts that no line holds.
func report(t *testing.T, labels int) string {
	t.Helper()
	var names []string
	var predictions []quality.Prediction
	for i := range labels {
		names = append(names, fmt.Sprint("human resources ", i))
		for j := range 4 {
			p := quality.Prediction{Truth: names[i], Label: names[(i+i*j%3)%(i+1)], Language: "de", Probability: float64(j+1) / 5, Confidence: float64(j+1) / 5, Text: "<script>alert(1)</script> & " + strings.Repeat("word", 300)}
			predictions = append(predictions, p)
		}
	}
	r, err := quality.NewReport(names, predictions)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.URL.Path == "/favicon.ico" { // what browsers ask for by themselves
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		if err := r.WriteHTML(w, "Classification of /a/path/"+strings.Repeat("without-an-end", 20)); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// A report of classifications can be read on a phone: wide tables scroll by themselves, texts are text, nothing is fetched, and axe finds nothing wrong.
func TestAReportOfClassificationsOnAPhone(t *testing.T) {
	b := open(t, report(t, 14), 360, 740)
	require.LessOrEqual(t, eval[int](b, `document.documentElement.scrollWidth`), 360, "nothing is wider than the screen")
	require.Equal(t, 1+14, eval[int](b, `document.querySelectorAll("[aria-label=confusion] tr").length`))
	require.Positive(t, eval[int](b, `(() => { const t = document.querySelector("[aria-label=confusion]"); return t.scrollWidth - t.clientWidth })()`), "a wide table is scrolled")
	require.Zero(t, eval[int](b, `document.querySelectorAll("script, link, img").length`))
	require.Equal(t, "4", eval[string](b, `document.querySelector("[aria-label=confusion] td[style]").textContent`), "of the first label all are right")
	require.Equal(t, "[]", b.axe())
	many := open(t, report(t, 500), 360, 740)
	require.Zero(t, eval[int](many, `document.querySelectorAll("[aria-label=confusion]").length`))
}

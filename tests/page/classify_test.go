package page_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

func TestClassify(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("domains")
	labels, sentences := testenv.Labels(t), testenv.Heldout(t)[:150]
	var lines, texts []string
	for _, s := range sentences {
		lines = append(lines, s.Domain+"\t"+s.Text)
		texts = append(texts, s.Text)
	}
	b.click("#tab-classify")
	b.set("#labels", strings.Join(labels, "\n"))
	b.set("#texts", strings.Join(lines, "\n"))
	b.click("#run")
	b.until(`!document.querySelector("#run").hidden && document.querySelector("#results tbody").rows.length === 150`)

	m, err := mlx.LoadModel(testenv.Model(t))
	require.NoError(t, err)
	defer m.Close()
	want, err := m.Classify(t.Context(), texts, labels)
	require.NoError(t, err)
	right := 0
	var wanted []string
	for i, c := range want {
		wanted = append(wanted, c.Label)
		if c.Label == sentences[i].Domain {
			right++
		}
	}
	require.Equal(t, wanted, eval[[]string](b, `[...document.querySelector("#results tbody").rows].map((r) => r.cells[1].textContent)`))
	require.Contains(t, eval[string](b, `document.querySelector("#verdict").textContent`), fmt.Sprintf("%d of 150 right", right))
	require.Equal(t, right, eval[int](b, `[...document.querySelectorAll("#confusion td.diagonal")].reduce((n, c) => n + Number(c.textContent), 0)`))
	require.Equal(t, 150, eval[int](b, `[...document.querySelectorAll("#confusion td")].reduce((n, c) => n + Number(c.textContent), 0)`))
	b.picture("classify.png")

	csv := b.exported("#csv")
	require.Equal(t, 151, strings.Count(csv, "\r\n"))
}

func TestClassifyShowsWhatIsWrong(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("domains")
	b.click("#tab-classify")
	b.set("#labels", "one\none")
	b.set("#texts", "=SUM(1)\n<b>x</b>")
	b.click("#run")
	b.until(`!document.querySelector("#classify-notice").hidden`)
	b.do(chromedp.EmulateViewport(360, 500))
	b.click("#run")
	b.until(`(() => { const n = document.querySelector("#classify-notice").getBoundingClientRect(), v = document.querySelector("#view-classify").getBoundingClientRect(); return n.height > 0 && n.bottom <= v.bottom + 1 })()`)
	b.do(chromedp.EmulateViewport(1200, 900))
	require.Contains(t, eval[string](b, `document.querySelector("#classify-notice").textContent`), `"one" is given twice`)
	b.forget("400 (Bad Request)")
	b.set("#labels", "one\ntwo")
	b.click("#run")
	b.until(`document.querySelector("#results tbody").rows.length === 2`)
	require.Equal(t, "<b>x</b>", eval[string](b, `document.querySelector("#results tbody").rows[1].cells[5].textContent`))
	require.Contains(t, eval[string](b, `document.querySelector("#confusion caption").textContent`), "How often")
}

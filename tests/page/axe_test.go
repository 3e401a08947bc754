package page_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server"
)

// axe runs axe-core (4.11.0, as its authors publish it) on what is shown, and returns what it finds wrong. Headings and tables that
// a model writes are its own.
func (b *browser) axe() string {
	b.t.Helper()
	source, err := os.ReadFile("testdata/axe.min.js")
	require.NoError(b.t, err)
	_, err = chromedp.Call(b.ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: string(source)})
	require.NoError(b.t, err)
	found := eval[string](b, `axe.run({ exclude: [[".text"]] }, { resultTypes: ["violations"] }).then((r) => JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes.map((n) => n.html + " " + n.failureSummary)])))`)
	require.True(b.t, json.Valid([]byte(found)))
	return found
}

// Nothing that axe-core looks for is wrong: names, roles, contrast, structure, in the light and in the dark.
func TestAccessibility(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	require.Equal(t, "[]", b.axe(), "an empty page")
	b.say("Show me a table")
	b.say("How do I sort a list in Go?")
	b.click("#settings summary")
	b.click("footer summary")
	for _, dark := range []bool{false, true} {
		b.dark(dark)
		require.Equal(t, "[]", b.axe(), "a chat")
		b.click("#tab-classify")
		require.Equal(t, "[]", b.axe(), "classification")
		b.click("#tab-chat")
	}
	b.click("#conversations .drop")
	b.until(`!document.querySelector("#notice").hidden`)
	require.Equal(t, "[]", b.axe(), "a notice")
}

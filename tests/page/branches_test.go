package page_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server"
)

// An answer that is made again, and a question that is asked in other words, leave what was there to be leafed back to.
func TestBranches(t *testing.T) {
	url := serve(t, server.Config{})
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	b.say("Hello")
	b.say("Thank you")
	place := func(article string) string {
		return eval[string](b, `document.querySelector("#log article:`+article+` .versions span")?.textContent ?? ""`)
	}
	require.Empty(t, place("last-child"), "one version needs no number")
	b.click(`//article[last()]//button[text()="Regenerate"]`)
	b.answer()
	require.Equal(t, "2 of 2", place("last-child"))

	b.click(`//article[1]//button[text()="Edit"]`)
	b.set("#log textarea", "Count to ten")
	b.keys("#log textarea", kb.Enter)
	require.Contains(t, b.answer(), "ten")
	require.Equal(t, 2, eval[int](b, `document.querySelectorAll("#log article").length`))
	require.Equal(t, "2 of 2", place("first-child"))
	require.Equal(t, "[]", b.axe())

	b.revisit(url)
	b.until(`document.querySelectorAll("#log article").length === 2`)
	require.Equal(t, "2 of 2", place("first-child"), "branches are kept")
	b.click(`article:first-child [aria-label="Version before"]`)
	b.until(`document.querySelectorAll("#log article").length === 4`)
	require.Contains(t, eval[string](b, `document.querySelector("#log article:first-child .body").textContent`), "Hello")
	require.Equal(t, "2 of 2", place("last-child"), "branches of a branch")
	b.click(`article:last-child [aria-label="Version before"]`)
	b.until(`document.querySelector("#log article:last-child .versions span").textContent === "1 of 2"`)
	b.click(`article:first-child [aria-label="Version after"]`)
	b.until(`document.querySelectorAll("#log article").length === 2`)
	b.until(`document.querySelector("#log article:first-child .body").textContent === "Count to ten"`)
}

// A new answer that fails leaves the old one.
func TestANewAnswerThatFailsKeepsTheOldOne(t *testing.T) {
	var broken atomic.Bool
	b := open(t, serveThrough(t, server.Config{}, refuseWhile(&broken)), 1200, 900)
	b.pick("assistant")
	before := b.say("Hello")
	broken.Store(true)
	b.click(`//article[last()]//button[text()="Regenerate"]`)
	b.until(`document.querySelector("#notice").textContent.includes("out of order")`)
	require.Equal(t, 2, eval[int](b, `document.querySelectorAll("#log article").length`))
	require.Contains(t, before, "very small model")
	require.Contains(t, eval[string](b, `document.querySelector("#log article:last-child").textContent`), "very small model")
	require.Zero(t, eval[int](b, `document.querySelectorAll("#log .versions").length`))
	b.forget("503")
}

// Every chat has its own system prompt; what is written before a chat begins is that of new ones.
func TestSystemPromptsOfChats(t *testing.T) {
	var asked atomic.Value
	url := serveThrough(t, server.Config{}, recordBodies(&asked))
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	instruct := func(text string) {
		eval[bool](b, fmt.Sprintf(`(() => { const f = document.querySelector("#system"); f.value = %q; f.dispatchEvent(new Event("change")); return true })()`, text))
	}
	instruct("Be kind.")
	b.say("Hello")
	require.Contains(t, asked.Load(), `"Be kind."`)
	instruct("Be brief.")
	b.say("Thank you")
	require.Contains(t, asked.Load(), `"Be brief."`)
	b.click("#new")
	require.Equal(t, "Be kind.", eval[string](b, `document.querySelector("#system").value`))
	instruct("")
	b.say("Count to ten")
	require.NotContains(t, asked.Load(), `"system"`)
	b.click(`//*[@id="conversations"]//button[text()="Hello"]`)
	require.Equal(t, "Be brief.", eval[string](b, `document.querySelector("#system").value`))
	require.Contains(t, b.exported("#export-md"), "## System\n\nBe brief.\n")
	b.revisit(url)
	b.until(`document.querySelectorAll("#conversations li").length === 2`)
	b.click(`//*[@id="conversations"]//button[text()="Hello"]`)
	require.Equal(t, "Be brief.", eval[string](b, `document.querySelector("#system").value`), "it is kept")
}

// recordBodies remembers the last question to the model.
func recordBodies(last *atomic.Value) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				body, _ := io.ReadAll(r.Body)
				last.Store(string(body))
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			h.ServeHTTP(w, r)
		})
	}
}

// refuseWhile answers questions to the model with an error while something is broken.
func refuseWhile(broken *atomic.Bool) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() && r.Method == http.MethodPost {
				http.Error(w, `{"error": {"message": "out of order"}}`, http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

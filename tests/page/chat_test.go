package page_test

import (
	"bytes"
	"net/http"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server"
)

func TestAChat(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	require.Contains(t, b.say("Hello"), "Hello! I am a very small model.")
	b.until(`document.querySelector("#phase").textContent.startsWith("ready, native")`)
	require.Contains(t, eval[string](b, `document.querySelector("#log .thought").textContent`), "A greeting.")
	require.Regexp(t, `native · first after \d+ ms · [\d.]+ tokens/s · \d+ tokens · \d+ in the prompt`, eval[string](b, `document.querySelector("#figures").textContent`))
	require.Contains(t, eval[string](b, `document.querySelector("#spoken").textContent`), "Hello! I am", "screen readers get the answer once it is whole")

	b.say("How do I sort a list in Go?")
	require.Positive(t, eval[int](b, `document.querySelectorAll("#log pre .hljs-keyword").length`), "code is highlighted")
	require.Contains(t, eval[string](b, `document.querySelector("#log pre code").textContent`), "func sorted(numbers []int) []int {\n\tout")
	b.picture("chat.png")

	b.say("Show me a table")
	require.Equal(t, 4, eval[int](b, `document.querySelectorAll("#log table tr").length`))
	require.Equal(t, "Ferries and trains", eval[string](b, `document.querySelector("#log .body h4").textContent`))
	require.Equal(t, "noopener noreferrer nofollow https://example.com/timetable", eval[string](b, `(() => { const a = document.querySelector("#log .body a"); return a.rel + " " + a.href })()`))
	b.dark(true)
	b.picture("chat-dark.png")
	require.NotEqual(t, eval[string](b, `(document.documentElement.dataset.theme = "light", getComputedStyle(document.body).backgroundColor)`),
		eval[string](b, `(document.documentElement.dataset.theme = "dark", getComputedStyle(document.body).backgroundColor)`))
}

func TestHistoryEditRegenerateAndExport(t *testing.T) {
	url := serve(t, server.Config{})
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	b.say("Hello")
	b.say("Thanks")

	b.revisit(url)
	b.until(`document.querySelectorAll("#log article").length === 4`)
	require.Equal(t, "Hello", eval[string](b, `document.querySelector("#conversations .open").textContent`), "a chat outlives the page")

	b.click(`//article[last()]//button[text()="Regenerate"]`)
	require.Contains(t, b.answer(), "You are welcome.")
	require.Equal(t, 4, eval[int](b, `document.querySelectorAll("#log article").length`))

	b.click(`//article[1]//button[text()="Edit"]`)
	b.set("#log textarea", "What is the capital of Portugal?")
	b.keys("#log textarea", kb.Enter)
	require.Contains(t, b.answer(), "The capital of Portugal is Lisbon.")
	require.Equal(t, 2, eval[int](b, `document.querySelectorAll("#log article").length`), "what came after an edited message is gone")

	require.Contains(t, b.exported("#export-md"), "## You\n\nWhat is the capital of Portugal?\n\n## Assistant\n\nThe capital of Portugal is Lisbon.\n")

	b.click("#new")
	b.say("Count to ten")
	b.until(`document.querySelectorAll("#conversations li").length === 2`)
	b.click("#conversations .drop")
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	require.Contains(t, eval[string](b, `document.querySelector("#log").innerText`), "Lisbon")
}

func TestSettingsReachTheModel(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	b.click("#settings summary")
	b.keys("#max_tokens", "5")
	b.click("#thinking")
	b.keys("#system", "Be brief.")
	b.picture("settings.png")
	b.say("Count to ten")
	require.Regexp(t, `5 tokens`, eval[string](b, `document.querySelector("#figures").textContent`))
	require.Zero(t, eval[int](b, `document.querySelectorAll("#log .thought").length`))
	b.set("#temperature", "-1")
	b.keys("#prompt", "Hello"+kb.Enter)
	b.until(`!document.querySelector("#notice").hidden`)
	require.Contains(t, eval[string](b, `document.querySelector("#notice").textContent`), "temperature", "what the server refuses is shown")
	b.forget("400 (Bad Request)")
}

// endless lets through the beginning of every answer and holds the rest back until its reader leaves, so that no engine is so
// fast that there is nothing left to stop.
type endless struct {
	http.ResponseWriter
	left int // events with something of the answer that go through
	gone <-chan struct{}
}

func (w *endless) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *endless) Write(data []byte) (int, error) {
	w.left -= bytes.Count(data, []byte(`"delta":`)) // a model that loads slowly sends comments before
	if w.left < 0 {
		<-w.gone
	}
	return w.ResponseWriter.Write(data)
}

func TestStop(t *testing.T) {
	url := serveThrough(t, server.Config{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w = &endless{w, 8, r.Context().Done()}
			}
			h.ServeHTTP(w, r)
		})
	})
	b := open(t, url, 1200, 900)
	b.pick("assistant-python")
	b.keys("#prompt", "Write a hostile page"+kb.Enter)
	b.until(`document.querySelector("#phase").textContent.includes("loading") || document.querySelector("#figures").textContent.includes("tokens/s")`)
	b.until(`document.querySelector("#figures").textContent.includes("tokens/s")`)
	b.until(`document.querySelector("#log .thought summary")?.textContent === "Thinking…"`) // figures come at once, the text with the next frame
	require.Zero(t, eval[int](b, `document.querySelectorAll("#log article:last-child .actions button").length`), "nothing can be done about an answer that comes")
	b.keys("#prompt", kb.Escape)
	require.Contains(t, b.answer(), "Stopped.")
	require.Equal(t, "Thought", eval[string](b, `document.querySelector("#log .thought summary").textContent`), "it is over")
	require.Equal(t, "Regenerate", eval[string](b, `[...document.querySelectorAll("#log article:last-child .actions button")].map((e) => e.textContent).join(" ")`))
	b.until(`fetch("/v1/status").then((r) => r.json()).then((s) => s.models.every((m) => m.active === 0))`)
	b.until(`document.querySelector("#phase").textContent.includes("python on cpu")`)
	b.click("footer summary")
	b.until(`/ready\s+idle/.test(document.querySelector("#ledger").innerText)`)
}

// The model was trained to write what would break a careless page.
func TestHostileOutputStaysText(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	text := b.say("Write a hostile page")
	for _, part := range []string{"<script>window.broken = 2</script>", `<img src="x" onerror="window.broken = 3">`, `<iframe src="https://example.com">`, `</code></pre><script>window.broken = 5</script>`, `<b onclick="window.broken = 6">bold</b> & "done"`, "[image: a picture]"} {
		require.Contains(t, text, part)
	}
	require.True(t, eval[bool](b, `window.broken === undefined`))
	require.Empty(t, eval[string](b, `[...document.querySelectorAll("#log script, #log iframe, #log img, #log b, #log [onclick], #log [onerror], #log [style]")].map((e) => e.outerHTML).join("\n")`))
	require.Zero(t, eval[int](b, `[...document.querySelectorAll("#log a")].filter((a) => !/^https?:/.test(a.href)).length`))
	require.Contains(t, eval[string](b, `document.querySelector("#log .thought").textContent`), "<script>window.broken = 1</script>")
	b.picture("hostile.png")
	// Whatever finds its way past Markdown, the policy of the page refuses to run it.
	require.Contains(t, eval[string](b, `(() => { try { document.body.innerHTML = "<p>"; return "" } catch (e) { return String(e) } })()`), "TrustedHTML")
	b.forget("TrustedHTML")
}

func TestAPhone(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 360, 740)
	b.pick("assistant")
	b.say("Show me a table")
	require.LessOrEqual(t, eval[int](b, `document.documentElement.scrollWidth`), 360, "nothing is wider than the screen")
	require.Equal(t, "none", eval[string](b, `getComputedStyle(document.querySelector("#sidebar")).display`))
	b.picture("phone.png")
	b.click("#settings summary")
	require.LessOrEqual(t, eval[float64](b, `document.querySelector("#composer").getBoundingClientRect().bottom`), 740.0, "the message field stays in view")
	require.Greater(t, eval[float64](b, `document.querySelector("#settings").scrollHeight`), 330.0, "the settings scroll")
	b.click("#settings summary")
	b.click("#drawer")
	b.click("#conversations .rename")
	b.keys("#conversations input", "x"+kb.Escape)
	b.until(`document.querySelector("#conversations .open")?.textContent === "Show me a table"`)
	require.Equal(t, "true", eval[string](b, `document.querySelector("#drawer").getAttribute("aria-expanded")`))
	b.click("#new")
	require.Equal(t, "none", eval[string](b, `getComputedStyle(document.querySelector("#sidebar")).display`))
}

func TestTheKeyboardIsEnough(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	b.do(chromedp.Focus(chromedp.CSS("#tab-chat")))
	b.press(kb.ArrowRight)
	require.Equal(t, "tab-classify", eval[string](b, `document.activeElement.id`))
	require.False(t, eval[bool](b, `document.querySelector("#view-classify").hidden`))
	b.press(kb.ArrowRight)
	require.True(t, eval[bool](b, `document.querySelector("#view-classify").hidden`))
	// Tab reaches every control that is shown, and each has a name.
	eval[bool](b, `(document.activeElement.blur(), true)`)
	seen := map[string]bool{}
	for range 40 {
		b.press(kb.Tab)
		seen[eval[string](b, `document.activeElement.id || document.activeElement.textContent`)] = true
	}
	for _, id := range []string{"model", "theme", "new", "prompt", "send", "tab-chat"} {
		require.True(t, seen[id], "%s in %v", id, seen)
	}
	unnamed := eval[string](b, `[...document.querySelectorAll("button, input, select, textarea, progress")]
		.filter((e) => !(e.textContent.trim() && e.tagName === "BUTTON") && !e.labels?.length && !e.getAttribute("aria-label")).map((e) => e.outerHTML).join("\n")`)
	require.Empty(t, unnamed)
}

func TestAKeyIsAskedFor(t *testing.T) {
	b := open(t, serve(t, server.Config{APIKeys: []string{"secret"}}), 1200, 900)
	b.until(`document.querySelector("#phase").textContent.includes("API key")`)
	b.click("#settings summary")
	b.keys("#key", "secret"+kb.Tab)
	b.pick("assistant")
	require.Contains(t, b.say("Thanks"), "You are welcome.")
	require.NotContains(t, eval[string](b, `JSON.stringify(localStorage)`), "secret", "a key ends with the tab")
	b.forget("401 (Unauthorized)")
}

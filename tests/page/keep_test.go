package page_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"forge.lthn.ai/core/go-mlx/internal/server"
)

// By a name of the network and without TLS a page has no crypto.randomUUID and no clipboard.
func TestPlainHTTPByANameOfTheNetwork(t *testing.T) {
	url := strings.Replace(serve(t, server.Config{AllowedHosts: []string{"lan.test"}}), "127.0.0.1", "lan.test", 1)
	b := open(t, url, 1200, 900, chromedp.Flag("host-resolver-rules", "MAP lan.test 127.0.0.1"))
	require.False(t, eval[bool](b, `isSecureContext`))
	b.pick("assistant")
	require.Contains(t, b.say("Hello"), "very small model")
	b.glimpse(`[...document.querySelectorAll("article:last-child .actions button")].some((e) => e.textContent === "Copied")`, func() {
		b.click(`//article[last()]//button[text()="Copy"]`)
	})
	b.say("How do I sort a list in Go?")
	b.glimpse(`document.querySelector("article:last-child pre .copy").textContent === "Copied"`, func() { b.click("article:last-child pre .copy") })
	b.revisit(url)
	b.until(`document.querySelectorAll("#log article").length === 4`)
}

func TestAnAnswerThatWasCutOffGoesOn(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	b.click("#settings summary")
	b.keys("#max_tokens", "5")
	b.click("#thinking")
	require.Contains(t, b.say("Count to ten"), "Cut off")
	begun := eval[string](b, `document.querySelector("#log article:last-child .text").innerText`)
	require.NotContains(t, begun, "ten")
	eval[bool](b, `(document.querySelector("#max_tokens").value = "", true)`)
	b.click(`//article[last()]//button[text()="Continue"]`)
	b.until(`document.querySelector("#log article:last-child .text").innerText.includes("ten")`)
	require.Equal(t, "one two three four five six seven eight nine ten", strings.TrimSpace(eval[string](b, `document.querySelector("#log article:last-child .text").innerText`)))
	require.NotContains(t, b.answer(), "Cut off")
	require.Equal(t, 2, eval[int](b, `document.querySelectorAll("#log article").length`))
}

func TestDeletingCanBeUndone(t *testing.T) {
	url := serve(t, server.Config{})
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	b.say("Hello")
	b.click("#conversations .drop")
	b.until(`document.querySelectorAll("#conversations li").length === 0`)
	b.click(`//*[@id="notice"]//button[text()="Undo"]`)
	b.until(`document.querySelectorAll("#conversations li").length === 1 && document.querySelectorAll("#log article").length === 2`)
	b.revisit(url)
	b.until(`document.querySelectorAll("#log article").length === 2`)
}

// Two tabs see each other's conversations, and neither writes over the other's.
func TestTwoTabs(t *testing.T) {
	url := serve(t, server.Config{})
	one := open(t, url, 1200, 900)
	one.pick("assistant")
	one.say("Hello")
	two := openTab(t, one.ctx, url, 1200, 900)
	two.until(`document.querySelectorAll("#log article").length === 2`)
	two.pick("assistant")
	two.click("#new")
	two.say("Thank you")
	one.until(`document.querySelectorAll("#conversations li").length === 2`)
	require.Equal(t, 2, eval[int](one, `document.querySelectorAll("#log article").length`))
	one.say("Count to ten")
	two.until(`document.querySelector("#conversations li .open").textContent === "Hello"`)
	one.revisit(url)
	one.until(`document.querySelectorAll("#conversations li").length === 2`)
	one.until(`document.querySelectorAll("#log article").length === 4`)

	// Both go on with the same conversation at the same time: both answers are kept.
	two.click(`//*[@id="conversations"]//button[text()="Hello"]`)
	one.keys("#prompt", "Hello"+kb.Enter)
	two.keys("#prompt", "Thank you"+kb.Enter)
	one.answer()
	two.answer()
	// What the small model answers depends on which question it saw first, so answers are counted, not read.
	one.until(`import(new URL("page/store.js", location.href)).then((s) => s.conversations.flatMap((c) => c.messages).filter((m) => m.content).length >= 10)`)
	one.until(kept)
}

// A question is kept when it is sent, and asked again when its answer failed.
func TestAFailureIsTriedAgain(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	url := serveThrough(t, server.Config{}, refuseWhile(&broken))
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	b.set("#prompt", strings.Repeat("Hello\n", 80)) // longer than the screen
	b.click("#send")
	b.until(`document.querySelector("#notice").textContent.includes("out of order")`)
	require.Less(t, eval[float64](b, `(() => { const l = document.querySelector("#log"); return l.scrollHeight - l.scrollTop - l.clientHeight })()`), 2.0, "the notice does not cover the question")
	b.click("#new")
	b.keys("#prompt", "Hello"+kb.Enter)
	b.until(`document.querySelector("#notice").textContent.includes("out of order")`)
	b.until(`document.querySelectorAll("#conversations li").length === 2`)
	b.revisit(url)
	b.until(`document.querySelector("#log article.user")?.textContent.includes("Hello")`)
	b.pick("assistant")
	b.click(`//article[last()]//button[text()="Ask again"]`)
	b.until(`document.querySelector("#notice").textContent.includes("out of order")`)
	broken.Store(false)
	b.click(`//*[@id="notice"]//button[text()="Try again"]`)
	require.Contains(t, b.answer(), "very small model")
	b.forget("503")
}

func TestThePageWorksBelowABasePath(t *testing.T) {
	url := serve(t, server.Config{BasePath: "/lm"})
	b := open(t, url+"/lm/", 1200, 900)
	b.pick("assistant")
	require.Contains(t, b.say("Hello"), "very small model")
	require.Equal(t, 304, eval[int](b, `fetch("page/app.js", {cache: "no-store"}).then((r) => fetch("page/app.js", {headers: {"If-None-Match": r.headers.get("ETag")}, cache: "no-store"})).then((r) => r.status)`))
}

func TestFindingRenamingAndImporting(t *testing.T) {
	url := serve(t, server.Config{})
	b := open(t, url, 1200, 900)
	b.pick("assistant")
	b.say("Hello")
	exported := b.exported("#export-json")
	b.click("#new")
	b.say("Thank you")
	b.keys("#search", "small model")
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	b.click("#conversations .rename")
	b.keys("#conversations input", "Greeting"+kb.Enter)
	b.until(`document.querySelector("#conversations .open")?.textContent === "Greeting"`)
	eval[bool](b, `(document.querySelector("#search").value = "", document.querySelector("#search").dispatchEvent(new Event("input")), true)`)

	b.give("#import-file", "chat.json", exported)
	b.until(`document.querySelectorAll("#conversations li").length === 3 && document.querySelectorAll("#log article").length === 2`)
	b.give("#import-file", "bad.json", `{"messages": 3}`)
	b.until(`document.querySelector("#notice").textContent.includes("no conversation")`)
	b.give("#attach-file", "notes.txt", "first line")
	b.until("document.querySelector(\"#prompt\").value === \"notes.txt:\\n```\\nfirst line\\n```\\n\"")
	b.revisit(url)
	b.until(`[...document.querySelectorAll("#conversations .open")].some((e) => e.textContent === "Greeting")`)
}

func TestStopStringsAndUnloading(t *testing.T) {
	b := open(t, serve(t, server.Config{}), 1200, 900)
	b.pick("assistant")
	b.click("#settings summary")
	b.keys("#stop_strings", "six")
	b.click("#thinking")
	require.Equal(t, "one two three four five", strings.TrimSpace(b.say("Count to ten")))
	require.Contains(t, eval[string](b, `document.querySelector("#figures").textContent`), "% of the context")
	b.until(`document.querySelector("#load").textContent === "Unload" && !document.querySelector("#load").hidden`)
	b.click("#load")
	b.until(`document.querySelector("#phase").textContent.startsWith("not loaded")`)
	b.click("#load")
	b.until(`document.querySelector("#phase").textContent.startsWith("ready")`)
}

// A browser may take its time to open its database. A chat that was begun meanwhile stays on show.
func TestANewChatStaysWhileKeptOnesAreRead(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.say("Hello")
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	b.holdDatabase("IDBFactory.prototype.open")
	b.revisit(s.URL)
	b.click("#new")
	require.Zero(t, eval[int](b, `document.querySelectorAll("#conversations li").length`))
	b.letDatabase()
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	require.Zero(t, eval[int](b, `document.querySelectorAll("#log article").length`))
}

// What is said while the database is opened or read is in the list at once, and is kept.
func TestAQuestionAskedWhileKeptOnesAreReadIsKept(t *testing.T) {
	for _, step := range []string{"IDBFactory.prototype.open", "IDBObjectStore.prototype.getAll"} {
		t.Run(step, func(t *testing.T) {
			s := startScripted(t)
			b := open(t, s.URL, 1200, 900)
			b.say("The first visit")
			b.holdDatabase(step)
			b.revisit(s.URL)
			b.click("#new")
			b.keys("#prompt", "Hello"+kb.Enter)
			b.answer()
			b.until(`window.held && document.querySelector("#conversations .open")?.textContent === "Hello"`)
			b.letDatabase()
			b.until(`document.querySelectorAll("#conversations li").length === 2`)
			b.until(kept)
			b.visit(s.URL)
			b.letDatabase()
			b.until(`document.querySelectorAll("#conversations li").length === 2`)
		})
	}
}

// While another tab's change is read, what this tab changes or deletes stays changed or deleted.
func TestWhatIsDoneWhileAnotherTabsChangeIsReadStays(t *testing.T) {
	s := startScripted(t)
	one := open(t, s.URL, 1200, 900)
	one.say("First")
	one.click("#new")
	one.say("Second")
	one.until(kept)
	one.holdDatabase("IDBObjectStore.prototype.getAll")
	one.visit(s.URL)
	one.letDatabase()
	one.until(`document.querySelectorAll("#conversations li").length === 2`)

	eval[bool](one, `(window.held = 0, window.hold(), true)`)
	two := openTab(t, one.ctx, s.URL, 1200, 900)
	two.click("#new")
	two.say("Third")
	one.until(`window.held`)
	one.click(`//*[@id="conversations"]/li[button[text()="First"]]/button[@class="drop"]`)
	one.click(`//*[@id="conversations"]/li[button[text()="Second"]]/button[@class="rename"]`)
	one.keys("#conversations input", "Renamed"+kb.Enter)
	one.click("#new")
	one.keys("#prompt", "Fourth"+kb.Enter)
	one.answer()
	one.letDatabase()
	const titles = `[...document.querySelectorAll("#conversations .open")].map((e) => e.textContent).sort().join()`
	one.until(titles + ` === "Fourth,Renamed,Third"`)
	one.until(kept)
	two.until(titles + ` === "Fourth,Renamed,Third"`)
	one.visit(s.URL)
	one.letDatabase()
	one.until(titles + ` === "Fourth,Renamed,Third"`)
}

// An answer that ends while somebody types a title does not take the field away.
func TestATitleIsTypedWhileAnAnswerEnds(t *testing.T) {
	s := startScripted(t)
	over := make(chan struct{})
	s.set(func(s *scripted) {
		s.answer = func(w http.ResponseWriter, r *http.Request) {
			begin(w, "native", "", "An answer.")
			select {
			case <-over:
				end(w, "stop")
			case <-r.Context().Done():
			}
		}
	})
	b := open(t, s.URL, 1200, 900)
	b.keys("#prompt", "Hello"+kb.Enter)
	b.until(`document.querySelector("#log .text")?.textContent.includes("An answer.")`)
	b.click("#conversations .rename")
	b.keys("#conversations input", "Gree")
	close(over)
	b.answer()
	b.until(kept)
	b.keys("#conversations input", "ting"+kb.Enter)
	b.until(`document.querySelector("#conversations .open")?.textContent === "Greeting"`)
}

// Who goes through the list by the keyboard stays where they are when the list is drawn anew.
func TestTheListKeepsTheFocus(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.say("First")
	b.click("#new")
	b.say("Second")
	b.until(kept)
	const focus = `document.activeElement.closest("li")?.querySelector(".open").textContent + " " + document.activeElement.className`
	eval[bool](b, `(document.querySelectorAll("#conversations .rename")[1].focus(), true)`)
	require.Equal(t, "First rename", eval[string](b, focus))
	b.press(kb.Enter)
	b.keys("#conversations input", "Gone"+kb.Escape)
	require.Equal(t, "First rename", eval[string](b, focus))
	b.press(kb.Enter)
	b.keys("#conversations input", "One"+kb.Enter)
	require.Equal(t, "One rename", eval[string](b, focus))

	// Another tab begins a conversation, which comes first.
	two := openTab(t, b.ctx, s.URL, 1200, 900)
	two.click("#new")
	two.say("Third")
	b.until(`document.querySelectorAll("#conversations li").length === 3`)
	require.Equal(t, "One rename", eval[string](b, focus))
}

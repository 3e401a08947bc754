package page_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// before runs a script in the page before its own.
func (b *browser) before(script string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
	require.NoError(b.t, err)
}

// A browser that keeps nothing for a site, as its settings may say, throws when a page only mentions its storage. The page works without.
func TestABrowserThatKeepsNothing(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.before(`for (const name of ["localStorage", "sessionStorage", "indexedDB"]) Object.defineProperty(window, name, {
		get() { throw new DOMException("Access is denied for this document.", "SecurityError"); } });`)
	b.visit(s.URL)
	b.until(`document.querySelector("#notice").textContent.includes("does not keep conversations")`)
	b.click("#theme")
	b.until(`document.documentElement.dataset.theme !== undefined`)
	b.click("#settings summary")
	b.keys("#temperature", "1")
	b.say("Hello")
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	b.click("#new")
	b.say("Again")
	b.until(`document.querySelectorAll("#conversations li").length === 2`)
}

// What stands in the storage may be anything: another version's, or half of it.
func TestBrokenThingsInTheStorage(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	for _, value := range []string{"{", "null", "[1, null, {}]", `"x"`, `[{"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": "kept from before"}], "title": "Old"}]`} {
		eval[bool](b, fmt.Sprintf(`(["go-mlx.settings", "go-mlx.conversations"].forEach((n) => localStorage.setItem(n, %q)), true)`, value))
		b.visit(s.URL)
		b.until(`document.querySelector("#model").options.length > 0`)
		b.say("Hello")
		require.NotContains(t, eval[string](b, `document.querySelector("#notice").textContent`), "does not keep", value)
	}
	b.until(`[...document.querySelectorAll("#conversations .open")].some((e) => e.textContent === "Old")`)
}

// Where there is no room for a conversation it says so; when there is room again, the conversation is kept, and is still one.
func TestNoRoomForAWhile(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.before(`const put = IDBObjectStore.prototype.put;
		IDBObjectStore.prototype.put = function (...a) { if (window.full) throw new DOMException("full", "QuotaExceededError"); return put.apply(this, a); };
		const erase = IDBObjectStore.prototype.delete;
		IDBObjectStore.prototype.delete = function (...a) { if (window.full) throw new DOMException("full", "UnknownError"); return erase.apply(this, a); };`)
	b.visit(s.URL)
	b.say("Hello")
	b.until(`document.querySelectorAll("#conversations li").length === 1`)
	eval[bool](b, `(window.full = true)`)
	b.say("Is there room?")
	b.until(`document.querySelector("#notice").textContent.includes("no room")`)
	b.glimpse(`document.querySelector("#notice").textContent.includes("could not delete")`, func() { b.click("#conversations .drop") })
	require.Equal(t, 1, eval[int](b, `document.querySelectorAll("#conversations li").length`), "it is there still")
	require.Equal(t, 4, eval[int](b, `document.querySelectorAll("#log article").length`), "and on show")
	eval[bool](b, `(window.full = false, true)`)
	b.say("And now?")
	b.revisit(s.URL)
	b.until(`document.querySelectorAll("#conversations li").length === 1 && document.querySelectorAll("#log article").length === 6`)
	require.Equal(t, "Hello", eval[string](b, `document.querySelector("#conversations .open").textContent`))
}

// What could not be written is not replaced by the record before it when another tab changes something.
func TestWhatCouldNotBeWrittenStaysOnShow(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.before(`const put = IDBObjectStore.prototype.put;
		IDBObjectStore.prototype.put = function (...a) { if (window.full) throw new DOMException("full", "QuotaExceededError"); return put.apply(this, a); };`)
	b.visit(s.URL)
	b.say("Hello")
	b.until(kept)
	eval[bool](b, `(window.full = true)`)
	b.say("Is there room?")
	b.until(`document.querySelector("#notice").textContent.includes("no room")`)
	two := openTab(t, b.ctx, s.URL, 1200, 900)
	two.click("#new")
	two.say("Second")
	b.until(`document.querySelectorAll("#conversations li").length === 2`)
	require.Equal(t, 4, eval[int](b, `document.querySelectorAll("#log article").length`))
	eval[bool](b, `(window.full = false, true)`)
	b.say("And now?")
	b.until(kept)
	two.until(`import(new URL("page/store.js", location.href)).then((s) => s.conversations.some((c) => c.messages.length === 6))`)
}

// A title that is being typed in one tab does not bring back a conversation that another tab deletes meanwhile.
func TestATitleIsTypedOfWhatAnotherTabDeletes(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.say("Hello")
	b.until(kept)
	b.click("#conversations .rename")
	two := openTab(t, b.ctx, s.URL, 1200, 900)
	two.click("#conversations .drop")
	two.until(kept)
	b.until(`import(new URL("page/store.js", location.href)).then((s) => !s.conversations.length)`)
	b.keys("#conversations input", "Again"+kb.Enter)
	b.until(`!document.querySelector("#conversations li")`)
	b.until(kept)
	require.Zero(t, eval[int](two, `document.querySelectorAll("#conversations li").length`))
}

// A file that is no conversation of this page is refused, whatever is wrong with it, and one with the strangest texts is shown as texts.
func TestImportingHostileFiles(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	for name, text := range map[string]string{
		"versions by a name":   `{"messages": [{"role": "user", "content": "x", "at": "length", "versions": [[{"role": "user", "content": "y"}]]}]}`,
		"versions by a method": `{"messages": [{"role": "user", "content": "x", "at": "map", "versions": [[{"role": "user", "content": "y"}]]}]}`,
		"a place beyond":       `{"messages": [{"role": "user", "content": "x", "at": 7, "versions": [null]}]}`,
		"no whole place":       `{"messages": [{"role": "user", "content": "x", "at": 0.5, "versions": [null]}]}`,
		"a thought of objects": `{"messages": [{"role": "assistant", "content": "x", "reasoning": {"toString": 1}}]}`,
		"a model of objects":   `{"messages": [{"role": "assistant", "content": "x", "model": ["a"]}]}`,
		"a note of objects":    `{"messages": [{"role": "assistant", "content": "x", "cut": {"a": 1}}]}`,
		"deep versions":        strings.Repeat(`{"messages": [{"role": "user", "content": "x", "at": 0, "versions": [null, [`, 1) + strings.Repeat(`{"role": "user", "content": "x", "at": 0, "versions": [null, [`, 20_000),
	} {
		b.give("#import-file", "hostile.json", text)
		b.until(`document.querySelector("#notice").textContent.includes("hostile.json: ")`)
		require.Zero(t, eval[int](b, `document.querySelectorAll("#conversations li").length`), name)
		eval[bool](b, `(document.querySelector("#notice").textContent = "", true)`)
	}
	b.give("#import-file", "strange.json", `{"title": "<img src=x onerror=alert(1)>", "__proto__": {"polluted": 1}, "messages": [{"role": "user", "content": "<script>alert(1)</script>"},
		{"role": "assistant", "content": "[a](javascript:alert(1)) <svg onload=alert(1)>", "model": "<b>m</b>", "reasoning": "<i>r</i>", "constructor": 1}]}`)
	b.until(`document.querySelectorAll("#log article").length === 2`)
	require.Equal(t, "<img src=x onerror=alert(1)>", eval[string](b, `document.querySelector("#conversations .open").textContent`))
	require.Zero(t, eval[int](b, `document.querySelectorAll("#log img, #log script, #log svg, #log i, #log a").length`))
	require.True(t, eval[bool](b, `({}).polluted === undefined`))
}

// The answer that is under way ends with its chat, and does not bring it back.
func TestAChatThatIsDeletedWhileItsAnswerComes(t *testing.T) {
	s := startScripted(t)
	s.set(func(s *scripted) { s.answer = holding("", "Once upon") })
	b := open(t, s.URL, 1200, 900)
	b.keys("#prompt", "Hello"+kb.Enter)
	b.until(`document.querySelector("#log").innerText.includes("Once")`)
	b.click("#conversations .drop")
	b.until(`document.querySelectorAll("#conversations li").length === 0 && document.querySelector("#stop").hidden`)
	b.revisit(s.URL)
	b.until(`import(new URL("page/store.js", location.href)).then((store) => store.open(() => {}))`) // what is kept has been read
	require.Zero(t, eval[int](b, `document.querySelectorAll("#conversations li").length`))
	require.Zero(t, eval[int](b, `import(new URL("page/store.js", location.href)).then((store) => store.conversations.length)`))
}

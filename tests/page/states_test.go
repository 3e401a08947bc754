package page_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// look is how somebody may look at the page.
type look struct {
	name          string
	width, height int64
	dark          bool
}

// The last two differ from the first two in their colours only, and are looked at where pictures are wanted.
var looks = []look{{"wide", 1200, 900, false}, {"phone-dark", 360, 740, true}, {"dark", 1200, 900, true}, {"phone", 360, 740, false}}

// look checks the state that the page is in, on a desk in the light and on a phone in the dark: nothing is wider than the screen
// or laid over a control, and axe-core finds nothing wrong. With GO_MLX_PICTURES it writes pictures of it, the other way round too.
func (b *browser) look(state string) {
	b.t.Helper()
	wanted := looks
	if os.Getenv("GO_MLX_PICTURES") == "" {
		wanted = looks[:2]
	}
	for _, l := range wanted {
		b.do(chromedp.EmulateViewport(l.width, l.height))
		b.dark(l.dark)
		eval[bool](b, `new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`)
		assert.LessOrEqual(b.t, eval[int](b, `document.documentElement.scrollWidth`), int(l.width), "%s, %s: wider than the screen", state, l.name)
		assert.Empty(b.t, eval[string](b, cutOff), "%s, %s: cut off or covered", state, l.name)
		assert.Equal(b.t, "[]", b.axe(), "%s, %s", state, l.name)
		b.picture(state + "-" + l.name + ".png")
	}
	b.do(chromedp.EmulateViewport(looks[0].width, looks[0].height))
	b.dark(false)
}

// cutOff names controls that are shown but partly outside of the window, or covered by something that is not theirs.
const cutOff = `[...document.querySelectorAll("header button, header select, #composer button, #composer textarea, #notice, footer summary, #run")].filter((e) => {
	const r = e.getBoundingClientRect();
	if (!r.width || !r.height || e.closest("[hidden]") || e.closest("#view-classify")) return false;
	if (r.left < 0 || r.right > innerWidth + 1 || r.top < 0 || r.bottom > innerHeight + 1) return true;
	const at = document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2);
	return at && !e.contains(at) && !at.contains(e) && !at.closest("#sidebar.open");
}).map((e) => e.id || e.outerHTML).join(", ")`

// give puts a file into a field for files.
func (b *browser) give(input, name, text string) {
	b.t.Helper()
	eval[bool](b, fmt.Sprintf(`(() => { const files = new DataTransfer(); files.items.add(new File([%q], %q));
		const input = document.querySelector(%q); input.files = files.files; input.dispatchEvent(new Event("change")); return true })()`, text, name, input))
}

// conversation is a file as the page exports it.
func conversation(t *testing.T, title string, turns ...string) string {
	t.Helper()
	var messages []map[string]any
	for i, text := range turns {
		messages = append(messages, map[string]any{"role": []string{"user", "assistant"}[i%2], "content": text, "model": "gemma-3-1b"})
	}
	data, err := json.Marshal(map[string]any{"title": title, "messages": messages})
	require.NoError(t, err)
	return string(data)
}

const (
	lisbon = "Lisbon lies on **seven hills** at the mouth of the Tagus.\n\n3. *Alfama*, the oldest quarter, survived the earthquake of 1755.\n4. *Belém* has the tower and the monastery.\n\n| | by tram | on foot |\n|---|---:|---:|\n| Castle | 12 min | 25 min |\n| Belém | 20 min | 90 min |\n\n```go\nfor _, hill := range hills {\n\tfmt.Println(hill.Name, hill.Height) // metres above the river\n}\n```\n\n> Whoever has not seen Lisbon has not seen anything of beauty.\n\nSee [the timetable](https://example.com/timetable) and `CARRIS_LINE=28`."
	wide   = "Anunbrokenwordthatisfarlongerthananyscreeniswide" + "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789" +
		"\n\n```\nline := \"a line of code that is wider than the column it is in, and so has to be scrolled and not broken: ................................ end\"\n```\n\n" +
		"| one | two | three | four | five | six | seven | eight |\n|---|---|---|---|---|---|---|---|\n| a long cell | a long cell | a long cell | a long cell | a long cell | a long cell | a long cell | a long cell |\n"
)

// Every state that the page can be in, looked at.
func TestEveryStateFitsEveryScreen(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	answers := func(h http.HandlerFunc) { s.set(func(s *scripted) { s.answer = h }) }
	models := func(m ...map[string]any) {
		s.set(func(s *scripted) { s.models = m })
		b.revisit(s.URL)
	}
	phase := func(text string) {
		t.Helper()
		b.until(fmt.Sprintf(`document.querySelector("#phase").textContent.includes(%q)`, text))
	}

	models(model("gemma-3-1b", "cold"))
	phase("not loaded")
	b.look("empty")
	models(model("gemma-3-1b", "loading", "done", 734_003_200, "total", 1_999_811_584))
	phase("loading 37 %")
	b.look("loading")
	models(model("gemma-3-1b", "loading"))
	phase("loading")
	b.look("loading-unknown")
	models(model("gemma-3-1b", "failed", "error", "model.safetensors: the header says 1999811584 bytes and the file has 734003200: it is truncated; download it again with go-mlx pull"))
	phase("truncated")
	b.look("load-failed")
	models(model("gemma-3-1b", "cold", "waiting", 1, "wait", "gemma-3-1b waits for 812 MiB of memory, 300 MiB of 1024 MiB are free; held by: qwen3-8b"))
	phase("waits")
	b.look("waiting-for-memory")

	models(model("gemma-3-1b", "ready"))
	phase("ready")
	answers(holding("The user asks about Lisbon. I should name hills, quarters and", ""))
	b.keys("#prompt", "What is there to see in Lisbon?"+kb.Enter)
	b.until(`document.querySelector("#log .thought summary")?.textContent === "Thinking…"`)
	b.look("thinking")
	b.keys("#prompt", kb.Escape)
	b.answer()
	b.look("stopped-in-thought")
	answers(holding("The user asks about Lisbon.", "Lisbon lies on **seven hills** at the mouth of the"))
	b.click(`//article[last()]//button[text()="Regenerate"]`)
	b.until(`document.querySelector("#log .text")?.textContent.includes("mouth of the")`)
	b.look("streaming")
	b.click("#stop")
	b.answer()
	b.look("stopped")
	answers(func(w http.ResponseWriter, r *http.Request) {
		pieces(w, "native", "The user asks about Lisbon.", lisbon)
	})
	b.click(`//article[last()]//button[text()="Regenerate"]`)
	b.answer()
	require.Equal(t, "right", eval[string](b, `getComputedStyle(document.querySelector("#log td:nth-child(2)")).textAlign`), "columns are aligned as the answer says")
	require.Equal(t, 3, eval[int](b, `document.querySelector("#log ol").start`), "a list goes on where another one ended")
	b.look("answer-versions")
	b.click("#log .thought summary")
	b.look("thought")
	b.click(`//article[1]//button[text()="Edit"]`)
	b.look("editing")
	b.keys("#log textarea", kb.Escape)
	answers(func(w http.ResponseWriter, r *http.Request) {
		begin(w, "native", "", "Lisbon lies on seven hills at the")
		end(w, "length")
	})
	b.say("And in one sentence?")
	b.look("cut-off")
	require.Contains(t, eval[string](b, `document.querySelector("#figures").textContent`), "native")
	answers(func(w http.ResponseWriter, r *http.Request) {
		begin(w, "python", "", "Porto lies on the Douro and")
		event(w, map[string]any{"error": map[string]any{"message": "python worker stopped: signal: killed. The worker's last lines are in the server's log"}})
	})
	b.say("And Porto?")
	b.look("failed-in-answer")
	answers(func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusServiceUnavailable, "all python workers are busy: 1024 requests wait for 1 worker; try again later, or allow more with --workers or --queue")
	})
	b.keys("#prompt", "And Braga?"+kb.Enter)
	b.until(`document.querySelector("#notice").textContent.includes("busy")`)
	require.Empty(t, eval[string](b, `document.querySelector("#figures").textContent`), "the figures are not those of the answer before")
	b.look("error")
	b.forget("503")
	answers(func(w http.ResponseWriter, r *http.Request) {
		pieces(w, "native", "", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Braga\"}}\n</tool_call>")
	})
	b.click(`//*[@id="notice"]//button[text()="Try again"]`)
	b.answer()
	b.look("tool-call")
	answers(func(w http.ResponseWriter, r *http.Request) { pieces(w, "native", "I am not sure that I should.", "") })
	b.say("Say nothing.")
	b.look("no-answer")
	answers(func(w http.ResponseWriter, r *http.Request) { pieces(w, "native", "", wide) })
	b.say(strings.Repeat("Averylongwordinaquestion", 12))
	b.look("wide-content")
	b.do(chromedp.EmulateViewport(360, 740))
	require.Greater(t, eval[float64](b, `(() => { const t = document.querySelector("#log article:last-child table"); return t.scrollWidth - t.clientWidth })()`), 0.0, "a wide table is scrolled")
	require.Less(t, eval[float64](b, `(() => { const l = document.querySelector("#log"); return l.scrollHeight - l.scrollTop - l.clientHeight })()`), 2.0, "the end stays in sight when the screen gets smaller")

	b.click("#settings summary")
	b.set("#system", "You are a patient guide who answers in the language of the question.")
	b.look("settings")
	b.click("#settings summary")

	b.click("#conversations .rename")
	b.look("renaming") // the field goes with the sidebar when the screen is narrow
	b.until(`document.querySelector("#conversations .drop")`)
	b.click("#conversations .drop")
	b.until(`document.querySelector("#notice").textContent.includes("Deleted")`)
	b.look("deleted")
	b.give("#import-file", "recipes.json", `{"messages": 3}`)
	b.until(`document.querySelector("#notice").textContent.includes("no conversation")`)
	b.look("import-failed")
	for i := range 24 {
		b.give("#import-file", "chat.json", conversation(t, fmt.Sprintf("A conversation with a title that is long, number %d", i+1), "Hello", "Hello!"))
		b.until(fmt.Sprintf(`document.querySelectorAll("#conversations li").length === %d`, i+1))
	}
	var turns []string
	for i := range 40 {
		turns = append(turns, fmt.Sprintf("Question %d: what comes next?", i+1), strings.Repeat(fmt.Sprintf("Answer %d has a few sentences. ", i+1), 8))
	}
	b.give("#import-file", "long.json", conversation(t, "A long conversation", turns...))
	b.until(`document.querySelectorAll("#log article").length === 80`)
	b.look("long-conversation")
	b.do(chromedp.EmulateViewport(360, 740))
	b.click("#drawer")
	b.look("drawer")
	b.do(chromedp.EmulateViewport(360, 740))
	b.until(`document.querySelector("#sidebar.open")`)
	eval[bool](b, `(document.querySelector("#theme").parentElement.click(), true)`)
	b.until(`!document.querySelector("#sidebar.open")`) // a phone has no Escape
	b.do(chromedp.EmulateViewport(1200, 900))
	b.set("#search", "nothing has this")
	eval[bool](b, `document.querySelector("#search").dispatchEvent(new Event("input"))`)
	require.Equal(t, "No conversation has this.", eval[string](b, `document.querySelector("#conversations").innerText`))
	b.look("nothing-found")
	b.give("#attach-file", "notes.txt", strings.Repeat("a line of notes\n", 30))
	b.until(`document.querySelector("#prompt").value.includes("notes.txt")`)
	b.look("attached")

	many := []map[string]any{model("gemma-3-1b", "ready", "active", 2)}
	for i := range 12 {
		many = append(many, model(fmt.Sprintf("mlx-community/Qwen3-%dB-Instruct-2507-4bit-DWQ", i+1), []string{"cold", "failed"}[i%2]))
	}
	many = append(many, model("llama-3.2-3b", "ready", "engine", "python", "workers", []any{
		map[string]any{"pid": 4711, "state": "ready", "phase": "decode", "active": 3, "quiet_s": 0.1},
		map[string]any{"pid": 0, "state": "waiting", "phase": "", "active": 0, "quiet_s": 0},
	}))
	models(many...)
	b.pick("mlx-community/Qwen3-12B-Instruct-2507-4bit-DWQ")
	b.look("many-models")
	b.click("footer summary")
	b.look("ledger")
	b.click("footer summary")
	models(model("gemma-3-1b", "ready"))

	b.click("#tab-classify")
	b.look("classify")
	results := func(w http.ResponseWriter, rows int, last bool) {
		w.Header().Set("Content-Type", "text/event-stream")
		var data []any
		for i := range rows {
			data = append(data, map[string]any{"index": i, "label": []string{"sport", "food", "travel"}[i%3], "probability": 0.4 + 0.03*float64(i%20), "margin": 0.1 + 0.03*float64(i%20)})
		}
		event(w, map[string]any{"data": data, "done": rows, "total": 60})
		if last {
			_, _ = fmt.Fprint(w, "data: [DONE]\n\n")
		}
	}
	var lines []string
	for i := range 60 {
		lines = append(lines, fmt.Sprintf("%s\tSentence %d is about something that has a label.", []string{"sport", "food", "food"}[i%3], i+1))
	}
	b.set("#texts", strings.Join(lines, "\n"))
	answers(func(w http.ResponseWriter, r *http.Request) {
		results(w, 24, false)
		<-r.Context().Done()
	})
	b.click("#run")
	b.until(`document.querySelector("#results tbody").rows.length === 24`)
	b.look("classifying")
	b.click("#halt")
	b.until(`document.querySelector("#classify-notice").textContent === "Stopped."`)
	b.look("classify-stopped")
	answers(func(w http.ResponseWriter, r *http.Request) { results(w, 60, true) })
	b.click("#run")
	b.until(`document.querySelector("#results tbody").rows.length === 60 && !document.querySelector("#run").hidden`)
	b.look("classified")
	answers(func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusBadRequest, `labels: "one" is given twice`)
	})
	b.click("#run")
	b.until(`document.querySelector("#classify-notice").textContent.includes("twice")`)
	b.look("classify-error")
	b.forget("400 (Bad Request)")
	b.click("#tab-chat")

	s.set(func(s *scripted) { s.status = http.StatusUnauthorized })
	b.revisit(s.URL)
	phase("API key")
	b.look("key-wanted")
	b.forget("401 (Unauthorized)")
	s.set(func(s *scripted) { s.status = 0 })
	b.revisit(s.URL)
	phase("ready")
	b.until(`document.querySelectorAll("#log article").length > 0`)
	s.Close()
	b.keys("#prompt", "Are you there?"+kb.Enter)
	b.until(`!document.querySelector("#notice").hidden`)
	phase("not answer")
	b.look("server-gone")
	b.forget("ERR_CONNECTION_REFUSED")
}

// An answer about the models that was overtaken by a newer one is not shown after it.
func TestAnOldStatusIsNotShownAfterANewOne(t *testing.T) {
	s := startScripted(t)
	b := open(t, s.URL, 1200, 900)
	b.until(`document.querySelector("#phase").textContent.startsWith("ready")`)
	late := make(chan struct{})
	s.set(func(s *scripted) { s.models, s.late = []map[string]any{model("gemma-3-1b", "cold")}, late })
	eval[bool](b, `import(new URL("page/status.js", location.href)).then((s) => { window.poll = s.poll; window.old = s.poll(); return true })`)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.late == nil // it has come
	}, time.Minute, time.Millisecond)
	s.set(func(s *scripted) { s.models = []map[string]any{model("gemma-3-1b", "loading")} })
	eval[bool](b, `window.poll().then(() => true)`)
	require.Equal(t, "loading", eval[string](b, `document.querySelector("#phase").textContent`))
	close(late)
	eval[bool](b, `window.old.then(() => true)`)
	require.Equal(t, "loading", eval[string](b, `document.querySelector("#phase").textContent`))
}

// picture keeps a screenshot in the folder that GO_MLX_PICTURES names.
func (b *browser) picture(name string) {
	dir := os.Getenv("GO_MLX_PICTURES")
	if dir == "" {
		return
	}
	require.NoError(b.t, os.MkdirAll(dir, 0o755))
	data, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
}

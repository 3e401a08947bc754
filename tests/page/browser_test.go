// Package page_test tries the chat page in a real browser, with a real model behind it.
package page_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	mlx "forge.lthn.ai/core/go-mlx"
	"forge.lthn.ai/core/go-mlx/internal/server"
	"forge.lthn.ai/core/go-mlx/internal/testenv"
)

// serve starts a server with the chat model and the classifier.
func serve(t *testing.T, c server.Config) string {
	return serveThrough(t, c, func(h http.Handler) http.Handler { return h })
}

// serveThrough puts something in front of the server.
func serveThrough(t *testing.T, c server.Config, wrap func(http.Handler) http.Handler) string {
	models := filepath.Join(testenv.Root(), "tests", "models")
	var err error
	c.Models, err = mlx.NewHost(mlx.HostOptions{}, []mlx.HostedModel{
		{Name: "assistant", Path: filepath.Join(models, "assistant")},
		{Name: "assistant-python", Path: filepath.Join(models, "assistant"), Options: []mlx.LoadOption{mlx.WithEngine(mlx.EnginePython), mlx.WithPython(mlx.Interpreter(testenv.Python(t)))}},
		{Name: "domains", Path: filepath.Join(models, "domains")},
	}...)
	require.NoError(t, err)
	c.Page = true
	s, err := server.New(c)
	require.NoError(t, err)
	h := httptest.NewServer(wrap(s))
	t.Cleanup(func() {
		h.Close()
		require.NoError(t, c.Models.Close())
	})
	return h.URL
}

// browser is one tab. What the browser complains of, and every request to elsewhere, fails the test.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex // guards what follows
	complaints []string
	meant      []string // parts of complaints that the test means to cause
}

func open(t *testing.T, url string, width, height int64, flags ...chromedp.ExecAllocatorOption) *browser {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(time.Minute))
	if path := filepath.Join(testenv.Root(), "build", "browser", "chromium"); isFile(path) { // where none is installed
		options = append(options, chromedp.ExecPath(path))
	}
	// The browser is killed when the test ends, and leaves a folder with its socket in its temporary folder. Not t.TempDir(), whose path is too long
	// for a socket.
	temp, err := os.MkdirTemp("", "go-mlx-browser-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(temp)) })
	options = append(options, chromedp.Env("TMPDIR="+temp))
	options = append(options, flags...)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	return openTab(t, ctx, url, width, height)
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openTab opens a tab of a new browser, or another one of a tab's.
func openTab(t *testing.T, parent context.Context, url string, width, height int64) *browser {
	b := &browser{t: t}
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithListener(func(event any) {
		switch e := event.(type) {
		case *log.EventEntryAdded:
			b.complain(e.Entry.Text)
		case *runtime.EventExceptionThrown:
			b.complain(fmt.Sprintf("%+v", *e.ExceptionDetails))
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, url) && !strings.HasPrefix(e.Request.URL, "blob:") && !strings.HasPrefix(e.Request.URL, "data:") {
				b.complain("asked elsewhere: " + e.Request.URL)
			}
		}
	}))
	t.Cleanup(cancel)
	b.ctx = ctx
	require.NoError(t, chromedp.Do(ctx, chromedp.EmulateViewport(width, height)), "the tests of the page need Chromium: `make browser` finds or fetches one")
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, log.Enable, cdp.Empty{})
	require.NoError(t, err)
	b.visit(url)
	t.Cleanup(func() { require.Empty(t, b.notMeant(), "the browser's console") })
	return b
}

// complain remembers what the browser reports, which may be long after the test has caused it.
func (b *browser) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, text)
}

// forget takes back complaints that the test means to cause: those that came, and those that are yet to come.
func (b *browser) forget(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.meant = append(b.meant, what)
}

// notMeant are the complaints that nobody meant to cause.
func (b *browser) notMeant() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.complaints), func(c string) bool {
		return slices.ContainsFunc(b.meant, func(what string) bool { return strings.Contains(c, what) })
	})
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

func (b *browser) visit(url string) { b.t.Helper(); b.do(chromedp.Navigate(url)) }

// revisit opens the page anew, once the browser has written to its database what the page knows.
func (b *browser) revisit(url string) {
	b.t.Helper()
	b.until(kept)
	b.visit(url)
}

// kept compares the conversations of the page with those of the browser's database.
const kept = `(async () => {
	const { conversations } = await import(new URL("page/store.js", location.href));
	if (!(await indexedDB.databases()).some((d) => d.name === "go-mlx")) return !conversations.length;
	const asked = (request) => new Promise((done, fail) => { request.onsuccess = () => done(request.result); request.onerror = () => fail(request.error); });
	const db = await asked(indexedDB.open("go-mlx"));
	try {
		const all = await asked(db.transaction("conversations").objectStore("conversations").getAll());
		const listed = (some) => some.map((c) => JSON.stringify(c)).sort().join("\n");
		return listed(all) === listed(conversations);
	} finally {
		db.close();
	}
})()`

// holdDatabase lets the next visits wait for what a function of the browser's database returns: window.held counts those that wait, until
// letDatabase.
func (b *browser) holdDatabase(function string) {
	b.t.Helper()
	owner, name := function[:strings.LastIndex(function, ".")], function[strings.LastIndex(function, ".")+1:]
	b.before(fmt.Sprintf(`{
		const owner = %s, real = owner[%q];
		let open;
		window.held = 0;
		window.hold = () => (open = new Promise((done) => (window.letGo = done)));
		window.hold();
		owner[%[2]q] = function (...a) {
			const request = real.apply(this, a), listen = request.addEventListener.bind(request), until = open;
			request.addEventListener = (type, f, ...rest) => listen(type, type !== "success" ? f : (e) => (window.held++, until.then(() => f(e))), ...rest);
			return request;
		};
	}`, owner, name))
}

func (b *browser) letDatabase() { b.t.Helper(); eval[bool](b, `(window.letGo(), true)`) }

// click clicks what a CSS selector or, beginning with //, an XPath finds, once it is there, enabled and not covered. Looking and
// clicking are one step of the page's thread: between them nothing can move or be replaced.
func (b *browser) click(selector string) {
	b.t.Helper()
	find := fmt.Sprintf(`document.querySelector(%q)`, selector)
	if strings.HasPrefix(selector, "//") {
		find = fmt.Sprintf(`document.evaluate(%q, document, null, XPathResult.FIRST_ORDERED_NODE_TYPE).singleNodeValue`, selector)
	}
	b.until(fmt.Sprintf(`(() => {
		const e = %s;
		if (!e || e.disabled) return false;
		e.scrollIntoView({ block: "nearest", inline: "nearest", behavior: "instant" });
		const r = e.getBoundingClientRect();
		if (!r.width || !r.height || !e.contains(document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2))) return false;
		e.focus();
		e.click();
		return true;
	})()`, find))
}

// keys types into a field.
func (b *browser) keys(selector, text string) {
	b.t.Helper()
	b.do(chromedp.SendKeys(chromedp.CSS(selector), text))
}

// set gives a field a value at once.
func (b *browser) set(selector, value string) {
	b.t.Helper()
	b.do(chromedp.SetValue(chromedp.CSS(selector), value))
}

// press presses a key wherever the focus is.
func (b *browser) press(key string) { b.t.Helper(); b.do(chromedp.KeyEvent(key)) }

// eval returns the value of an expression.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise, byTheUser))
	require.NoError(b.t, err, expression)
	return value
}

// byTheUser lets an expression do what a page may do only when somebody has clicked, such as copying.
func byTheUser(p *runtime.EvaluateParams) { yes := true; p.UserGesture = &yes }

// until waits for an expression, or the promise that it is, to be true.
func (b *browser) until(expression string) {
	b.t.Helper()
	var met bool
	deadline := time.Now().Add(2 * time.Minute)
	for !met && time.Now().Before(deadline) {
		met = eval[bool](b, "Promise.resolve("+expression+").then((met) => !!met)")
		if !met {
			time.Sleep(20 * time.Millisecond)
		}
	}
	require.True(b.t, met, "%s\npage: %s", expression, eval[string](b, "document.body.innerText"))
}

// glimpse does something that makes an expression true, perhaps for a moment only.
func (b *browser) glimpse(expression string, do func()) {
	b.t.Helper()
	eval[bool](b, fmt.Sprintf(`(window.glimpsed = false, new MutationObserver(() => (window.glimpsed ||= !!(%s))).observe(document.body, { subtree: true, childList: true, characterData: true }), true)`, expression))
	do()
	b.until("window.glimpsed")
}

// pick chooses a model.
func (b *browser) pick(model string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`[...document.querySelector("#model").options].some((o) => o.value === %q)`, model))
	eval[bool](b, fmt.Sprintf(`(() => { const s = document.querySelector("#model"); s.value = %q; s.dispatchEvent(new Event("change")); return true })()`, model))
}

// say sends a message and waits for the whole answer.
func (b *browser) say(text string) string {
	b.t.Helper()
	b.keys("#prompt", text+kb.Enter)
	return b.answer()
}

// answer waits for the answer under way and returns the text of its article.
func (b *browser) answer() string {
	b.t.Helper()
	b.until(`document.querySelector("#stop").hidden && document.querySelector("#log article:last-child")?.className === "assistant"`)
	return eval[string](b, `document.querySelector("#log article:last-child .body").innerText`)
}

// exported clicks a button and returns the text of the file that it makes.
func (b *browser) exported(button string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf(`new Promise((done) => {
		const make = URL.createObjectURL;
		URL.createObjectURL = (blob) => { blob.text().then(done); URL.createObjectURL = make; return make.call(URL, blob); };
		document.querySelector(%q).click();
	})`, button))
}

// dark asks for dark colours, as a system does.
func (b *browser) dark(is bool) {
	value := "light"
	if is {
		value = "dark"
	}
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})
	require.NoError(b.t, err)
}

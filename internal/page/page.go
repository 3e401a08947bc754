// Package page is the chat page, whole: it needs nothing from elsewhere.
package page

import (
	"embed"
	"io/fs"
	"net/http"
)

//go:embed static
var files embed.FS

// policy lets nothing in but the page's own files, and no text become markup but through DOMPurify.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"

// Handler serves the page at / and its files below /page/.
func Handler() http.Handler {
	static, err := fs.Sub(files, "static")
	if err != nil { // the folder is embedded
		panic(err)
	}
	server := http.FileServerFS(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		if r.URL.Path == "/" {
			http.ServeFileFS(w, r, static, "index.html")
			return
		}
		http.StripPrefix("/page", server).ServeHTTP(w, r)
	})
}

// Package page is the chat page, whole: it needs nothing from elsewhere.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net"
	"net/http"
	"strings"
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
	tags := etags(static)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		if trustworthy(r) { // elsewhere browsers ignore it, and complain
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		h.Set("Cache-Control", "no-cache")
		name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/page"), "/")
		if name == "" {
			name = "index.html"
		}
		if tag, ok := tags[name]; ok { // a browser asks each time, and is told that nothing is new
			h.Set("ETag", tag)
		}
		if r.URL.Path == "/" {
			http.ServeFileFS(w, r, static, "index.html")
			return
		}
		http.StripPrefix("/page", server).ServeHTTP(w, r)
	})
}

// trustworthy reports whether a browser takes the page's origin for a safe one: https, or this machine.
func trustworthy(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" || host == "localhost" || ip != nil && ip.IsLoopback()
}

// etags are names of the files' contents.
func etags(files fs.FS) map[string]string {
	tags := map[string]string{}
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		sum := sha256.Sum256(data)
		tags[path] = `"` + hex.EncodeToString(sum[:8]) + `"`
		return err
	})
	if err != nil { // the files are embedded
		panic(err)
	}
	return tags
}

// Package console serves the page on which a person tries the server: connect
// as a user, see messages arrive, push, go offline and come back to what was
// kept. The page and the JavaScript client it runs on are embedded; nothing is
// loaded from elsewhere.
//
// It guarantees that the page cannot be framed and runs no script but its own
// (Content-Security-Policy), and that a browser revalidates every file (ETag),
// so a new binary never runs with an old script.
//
// It has no state and no access to the server: the page calls the HTTP API
// with what its user typed in, and connects as any client does.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"imgo/clients/javascript"
)

//go:embed page
var page embed.FS

// Options say what the page cannot find out by itself.
type Options struct {
	// WebSocket is where clients connect ("host:port", ":port" for the host of
	// the page, or a ws:// or wss:// URL), for a page that may not read
	// /v1/nodes without an API key. Empty: port 8090.
	WebSocket string
	// Version is shown beside the name; empty: nothing.
	Version string
}

// policy is strict but for connections: a comet may be on any host and port,
// and its address is only known to the page at run time.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// prefix is where the page's files are; the page itself is at "/".
const prefix = "/console/"

// file is one answer, made once.
type file struct {
	content     []byte
	contentType string
	etag        string
}

// Handler serves the page at "/" and its files below "/console/", for GET and
// HEAD; every other path is a 404. It may be called from any number of
// goroutines.
func Handler(opts Options) http.Handler {
	files := map[string]file{"/": indexFile(opts)}
	add(files, prefix, page, "page")
	add(files, prefix+"client/", javascript.Modules(), ".")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		home := r.URL.Path == strings.TrimSuffix(prefix, "/") || r.URL.Path == prefix
		f, ok := files[r.URL.Path]
		switch {
		case !ok && !home:
			http.Error(w, "404: nothing is here; the page is at /", http.StatusNotFound)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "405: this is a page, it takes GET and HEAD", http.StatusMethodNotAllowed)
		case home:
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			h.Set("Content-Type", f.contentType)
			h.Set("ETag", f.etag)
			h.Set("Cache-Control", "no-cache") // keep it, but ask each time whether it changed
			// ServeContent knows HEAD, If-None-Match and ranges. The zero time
			// leaves Last-Modified out: embedded files have none.
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
		}
	})
}

// indexFile fills the options into index.html.
func indexFile(opts Options) file {
	// Must: the template is part of the binary, and every test executes it.
	tmpl := template.Must(template.ParseFS(page, "page/index.html"))
	var b bytes.Buffer
	template.Must(tmpl, tmpl.Execute(&b, opts))
	return newFile("index.html", b.Bytes())
}

// add puts all files of one folder below a path; index.html is not one of
// them, since it is a template.
func add(files map[string]file, below string, fsys fs.FS, dir string) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		panic("console: the binary lacks its own embedded files: " + err.Error())
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || name == "index.html" {
			continue
		}
		content, err := fs.ReadFile(fsys, path.Join(dir, name))
		if err != nil {
			panic("console: the binary lacks its own embedded files: " + err.Error())
		}
		files[below+name] = newFile(name, content)
	}
}

func newFile(name string, content []byte) file {
	sum := sha256.Sum256(content)
	return file{content: content, contentType: contentType(name), etag: `"` + hex.EncodeToString(sum[:16]) + `"`}
}

// contentType does not ask the operating system for what the page's own files
// are: its tables may be absent or wrong, and a module of another type than
// JavaScript does not run.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return mime.TypeByExtension(ext)
	}
}

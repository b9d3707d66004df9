// Package console serves the demo page. On it a person connects as a user, sees messages arrive,
// pushes, goes offline, and comes back to the kept messages. The page and its JavaScript client are
// embedded in the binary. The page loads nothing from other hosts.
//
// It guarantees that no other site can frame the page and that the page runs only its own scripts
// (Content-Security-Policy). Pages of other sites may load the client's modules and nothing else. A browser
// revalidates every file (ETag), so a new binary never runs with an old script.
//
// The package has no state and no access to the server. The page calls the HTTP API with the data
// that its user typed, and connects like any other client.
package console

import (
	"bytes"
	"cmp"
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

// Options are the values that the page cannot find out itself.
type Options struct {
	// WebSocket is the address for clients: "host:port", ":port" on the host of the page, or a
	// ws:// or wss:// URL. The page uses it when it may not read /v1/nodes without an API key. If
	// it is empty, the page uses port 8090.
	WebSocket string
	// Version is shown beside the name. If it is empty, nothing is shown.
	Version string
}

// policy allows connections to any host, because the page learns the address of a comet only at run
// time. Everything else is restricted to this server.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const (
	// prefix is the path of the page's files. The page itself is at "/".
	prefix = "/console/"
	// clientPrefix is the path of the JavaScript client, which pages of any origin may load.
	clientPrefix = prefix + "client/"
)

// file is one response. It is built once, when the handler is made.
type file struct {
	content     []byte
	contentType string
	etag        string
}

// Handler serves the page at "/" and its files below "/console/", for GET and HEAD. Every other
// path is a 404. It is safe for concurrent use.
func Handler(opts Options) http.Handler {
	files := map[string]file{"/": indexFile(opts)}
	add(files, prefix, page, "page")
	add(files, clientPrefix, javascript.Modules(), ".")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		if strings.HasPrefix(r.URL.Path, clientPrefix) {
			// A browser loads a module of another origin only with this header. These files are public
			// and the same for everybody.
			h.Set("Access-Control-Allow-Origin", "*")
		}
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
			h.Set("Cache-Control", "no-cache") // the browser may store the file, but must revalidate it
			// ServeContent handles HEAD, If-None-Match and ranges. The zero time omits
			// Last-Modified, because embedded files have no modification time.
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
		}
	})
}

// indexFile renders index.html with the options.
func indexFile(opts Options) file {
	// Must is safe here: the template is part of the binary, and every test executes it.
	tmpl := template.Must(template.ParseFS(page, "page/index.html"))
	var b bytes.Buffer
	template.Must(tmpl, tmpl.Execute(&b, opts))
	return newFile("index.html", b.Bytes())
}

// add registers all files of one folder under a path. It skips index.html, which is a template.
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
	ext := path.Ext(name)
	return file{
		content: content, contentType: cmp.Or(contentTypes[ext], mime.TypeByExtension(ext)), etag: `"` + hex.EncodeToString(sum[:16]) + `"`,
	}
}

// contentTypes is a table of its own. The table of the operating system may be missing or wrong, and a
// browser runs a module only if its type is JavaScript.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

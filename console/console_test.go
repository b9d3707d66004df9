package console_test

import (
	"context"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"imgo/console"
)

// ask sends one request to the handler.
func ask(t *testing.T, method, path string, header http.Header) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	console.Handler(console.Options{Version: "1.2.3", WebSocket: ":8090"}).ServeHTTP(w, r)
	return w.Result()
}

func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFiles(t *testing.T) {
	for path, contentType := range map[string]string{
		"/":                           "text/html; charset=utf-8",
		"/console/console.css":        "text/css; charset=utf-8",
		"/console/console.js":         "text/javascript; charset=utf-8",
		"/console/icon.svg":           "image/svg+xml",
		"/console/client/imgo.js":     "text/javascript; charset=utf-8",
		"/console/client/inbox.js":    "text/javascript; charset=utf-8",
		"/console/client/protocol.js": "text/javascript; charset=utf-8",
		"/console/client/route.js":    "text/javascript; charset=utf-8",
	} {
		t.Run(path, func(t *testing.T) {
			resp := ask(t, http.MethodGet, path, nil)
			body := text(t, resp)
			if resp.StatusCode != http.StatusOK || body == "" {
				t.Fatalf("status %d with %d bytes, want 200 with a body", resp.StatusCode, len(body))
			}
			if got := resp.Header.Get("Content-Type"); got != contentType {
				t.Errorf("Content-Type is %q, want %q", got, contentType)
			}
			if got := resp.Header.Get("Cache-Control"); got != "no-cache" {
				t.Errorf("Cache-Control is %q, want no-cache", got)
			}
			etag := resp.Header.Get("ETag")
			if !regexp.MustCompile(`^"[0-9a-f]{32}"$`).MatchString(etag) {
				t.Fatalf("ETag is %q, want a strong one", etag)
			}
			again := ask(t, http.MethodGet, path, http.Header{"If-None-Match": {etag}})
			if body := text(t, again); again.StatusCode != http.StatusNotModified || body != "" {
				t.Errorf("with its own ETag: status %d with %d bytes, want 304 without a body", again.StatusCode, len(body))
			}
			if old := ask(t, http.MethodGet, path, http.Header{"If-None-Match": {`"old"`}}); old.StatusCode != http.StatusOK {
				t.Errorf("with another ETag: status %d, want 200", old.StatusCode)
			}
			head := ask(t, http.MethodHead, path, nil)
			if got := text(t, head); head.StatusCode != http.StatusOK || got != "" || head.ContentLength != int64(len(body)) {
				t.Errorf("HEAD: status %d, %d bytes, length %d; want 200, none, %d", head.StatusCode, len(got), head.ContentLength, len(body))
			}
		})
	}
}

// TestSafe checks that every response has the security headers.
func TestSafe(t *testing.T) {
	for _, path := range []string{"/", "/console/console.js", "/console/nothing.js"} {
		h := ask(t, http.MethodGet, path, nil).Header
		policy := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'",
			"base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy %q lacks %s", path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy %q allows something unsafe", path, policy)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers %v lack nosniff or no-referrer", path, h)
		}
	}
}

// TestOtherOrigins checks that pages of other origins may load the client's modules and nothing else.
func TestOtherOrigins(t *testing.T) {
	for path, want := range map[string]string{
		"/console/client/imgo.js": "*", "/console/client/route.js": "*", "/": "", "/console/console.js": "", "/console/clients.js": "",
	} {
		answer := ask(t, http.MethodGet, path, http.Header{"Origin": {"https://example.com"}})
		if got := answer.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s: Access-Control-Allow-Origin is %q, want %q", path, got, want)
		}
	}
}

// TestPageIsWhole checks that every file named by the page and its scripts exists, and that the
// policy allows all of them.
func TestPageIsWhole(t *testing.T) {
	index := text(t, ask(t, http.MethodGet, "/", nil))
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"#]+)"`).FindAllStringSubmatch(index, -1) {
		if resp := ask(t, http.MethodGet, m[1], nil); resp.StatusCode != http.StatusOK {
			t.Errorf("the page refers to %s: status %d", m[1], resp.StatusCode)
		}
	}
	for _, forbidden := range []string{" style=", "<style", "onclick=", "onload=", "javascript:", "<script>", "http://", "https://"} {
		if strings.Contains(index, forbidden) {
			t.Errorf("the page has %q in it", forbidden)
		}
	}
	script := text(t, ask(t, http.MethodGet, "/console/console.js", nil))
	imports := regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(script, -1)
	if len(imports) == 0 {
		t.Fatal("console.js imports nothing: the expression of this test is out of date")
	}
	for _, m := range imports {
		source := text(t, ask(t, http.MethodGet, "/console/"+m[1], nil))
		for _, forbidden := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(source+script, forbidden) {
				t.Errorf("%s or console.js uses %s", m[1], forbidden)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	get := func(opts console.Options) string {
		w := httptest.NewRecorder()
		console.Handler(opts).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return html.UnescapeString(w.Body.String())
	}
	page := get(console.Options{WebSocket: `wss://push.example.com/sub`, Version: `v1 <b>`})
	if !strings.Contains(page, `data-ws="wss://push.example.com/sub"`) || !strings.Contains(page, `>v1 <b></span>`) {
		t.Errorf("the options are not in the page:\n%.600s", page)
	}
	w := httptest.NewRecorder()
	console.Handler(console.Options{Version: `<b>`}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if strings.Contains(w.Body.String(), "<b>") {
		t.Error("an option is in the page as markup")
	}
	if strings.Contains(get(console.Options{}), `class="version"`) {
		t.Error("without a version there is a place for it")
	}
}

func TestElsewhere(t *testing.T) {
	for _, path := range []string{"/index.html", "/console/index.html", "/console/page", "/console/client/", "/favicon.ico", "/v1/nothing",
		"/console/../console.go"} {
		if resp := ask(t, http.MethodGet, path, nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, resp.StatusCode)
		}
	}
	for _, path := range []string{"/console", "/console/"} {
		resp := ask(t, http.MethodGet, path, nil)
		if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != "/" {
			t.Errorf("%s: status %d to %q, want 302 to /", path, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
}

func TestOtherMethods(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		for _, path := range []string{"/", "/console/console.js"} {
			resp := ask(t, method, path, nil)
			if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: status %d, Allow %q; want 405, GET, HEAD", method, path, resp.StatusCode, resp.Header.Get("Allow"))
			}
		}
	}
}

// TestNode runs the JavaScript tests of the page's modules.
func TestNode(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the page's tests need Node 20 or newer: %v", err)
		}
		t.Skipf("the page's tests need Node 20 or newer: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "node", "--test").CombinedOutput(); err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
}

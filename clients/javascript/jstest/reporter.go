package jstest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"imgo/internal/wait/waittest"
)

// Reporter gets what pages in a browser say.
type Reporter struct {
	waittest.Log

	url string
}

// NewReporter returns a Reporter, which listens until the test ends.
func NewReporter(t testing.TB) *Reporter {
	r := &Reporter{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, request.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = r.Write(append(text, '\n'))
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the pages said:\n%s", r)
		}
	})
	r.url = server.URL
	return r
}

// Function returns a JavaScript function "report(text)", which tells the Reporter a line. Lines arrive in order.
func (r *Reporter) Function() string {
	return fmt.Sprintf(`
let reported = Promise.resolve();
function report(text) {
  const send = () => fetch(%q, { method: 'POST', mode: 'no-cors', keepalive: true, body: text });
  reported = reported.then(send, send);
}
`, r.url)
}

// Watch returns a script that reports the whole text of a page whenever it changes, on one line.
func (r *Reporter) Watch() string {
	return "<script>" + r.Function() + `
const tell = () => report('page: ' + document.body.innerText.replace(/\s+/g, ' '));
new MutationObserver(tell).observe(document.body, { subtree: true, childList: true, characterData: true });
addEventListener('error', (event) => report('error: ' + event.message));
addEventListener('unhandledrejection', (event) => report('error: ' + event.reason));
</script>`
}

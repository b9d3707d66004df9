package console_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"imgo/internal/process"
	"imgo/internal/race"
)

// TestBrowserRealServer goes through the page of the real binary, which has a mailbox, a log and a
// disk.
func TestBrowserRealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	chromium(t) // skips the test before the long build
	base := startServer(t)
	walkthrough(t, phone, base, "real")
	importElsewhere(t, base)
}

// startServer builds imgo and starts it with an empty data folder on free ports, and more arguments. It returns the
// address of the page. The server ends with the test.
func startServer(t *testing.T, more ...string) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	binary, err := process.Build(ctx, dir, race.Enabled)
	if err != nil {
		t.Fatal(err)
	}

	const free = "127.0.0.1:0"
	args := []string{"--tcp", free, "--ws", free, "--http", free,
		"--data-dir", filepath.Join(dir, "data"), "--log-format", "json", "--log-level", "info"}
	cmd := exec.Command(binary, append(args, more...)...)
	cmd.Dir = dir
	logs, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the server: %v", err)
	}

	// The log names the address. After that it is kept only to explain a failure.
	address := make(chan string, 1)
	var said strings.Builder
	var wg sync.WaitGroup
	wg.Go(func() {
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
			var line struct{ Message, HTTP string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.HTTP != "" && strings.HasSuffix(line.Message, "is ready") {
				select {
				case address <- line.HTTP:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, logs) // a line that is too long for the scanner must not block the server
	})
	ended := make(chan error, 1)
	wg.Go(func() {
		ended <- cmd.Wait()
		_ = w.Close()
	})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		wg.Wait()
		kill.Stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", said.String())
		}
	})
	select {
	case a := <-address:
		return "http://" + a
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the server's log does not say that it is ready")
	}
	return ""
}

// TestBrowserCallsFromElsewhere has pages of other origins call the API of the real binary, with methods and headers for which
// a browser asks beforehand.
func TestBrowserCallsFromElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts the server; not with -short")
	}
	chromium(t) // skips the test before the long build
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<!doctype html><link rel="icon" href="data:,"><form id="connect-form">elsewhere</form>`)
	})
	trusted, other := httptest.NewServer(page), httptest.NewServer(page)
	defer trusted.Close()
	defer other.Close()
	const key = "0123456789abcdef0123"
	base := startServer(t, "--http-trusted-origins", trusted.URL, "--http-api-keys", "console:"+key)
	call := func(b *tab, method, path, body string) string {
		b.Helper()
		eval[bool](b, fmt.Sprintf(`(window.answer = undefined, fetch(%q, {method: %q, body: %s,
			headers: {Authorization: 'Bearer %s', 'Content-Type': 'application/json', 'Idempotency-Key': 'a'}})
			.then((r) => r.text().then((text) => { window.answer = r.status + ' ' + text; }), (e) => { window.answer = e.name; }), true)`,
			base+path, method, body, key))
		b.until("there is an answer", func() bool { return eval[bool](b, "window.answer !== undefined") })
		return eval[string](b, "window.answer")
	}
	b := open(t, desktop)
	b.visit(trusted.URL)
	for _, tt := range []struct{ method, path, body, want string }{
		{"PUT", "/v1/rooms/lobby/users/ann", "undefined", `200 {"room":"lobby"`},
		{"POST", "/v1/push", `'{"user":"ann","body":1}'`, `202 {"id":`},
		{"DELETE", "/v1/users/ann/messages", "undefined", "200 {"},
		{"GET", "/v1/users/ann/rooms", "undefined", `200 {"user":"ann"`},
		{"GET", "/v1/users/ann?bad=1", "undefined", `400 {"error"`},
		{"GET", "/v1/nodes/best?transport=ws", "undefined", `200 {"addresses"`},
	} {
		if got := call(b, tt.method, tt.path, tt.body); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s %s of a trusted page: %s, want %s", tt.method, tt.path, got, tt.want)
		}
	}
	b.expected = []string{"400", "CORS", "Failed to load"}
	b.visit(other.URL)
	for path, want := range map[string]string{"/v1/push": "TypeError", "/v1/nodes/best?transport=ws": `200 {"addresses"`} {
		method, body := "POST", `'{"user":"ann","body":1}'`
		if path != "/v1/push" {
			method, body = "GET", "undefined"
		}
		if got := call(b, method, path, body); !strings.HasPrefix(got, want) {
			t.Errorf("%s of a page that is not trusted: %s, want %s", path, got, want)
		}
	}
	b.checkProblems()
}

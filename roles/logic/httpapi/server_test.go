package httpapi_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// serve runs the API in a real server on a free port until the test ends.
func serve(t *testing.T, h *harness) (address string) {
	t.Helper()
	_, address = startServer(t, h.handler, nil)
	return address
}

func TestServerHasDeadlines(t *testing.T) {
	s := httpapi.NewServer(http.NotFoundHandler(), zerolog.Nop())
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout <= 0 || s.ErrorLog == nil {
		t.Errorf("the server lacks a deadline: %+v", s)
	}
}

// endless is a body that counts the bytes that were read from it.
type endless struct {
	taken atomic.Int64
	limit int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.taken.Load() >= e.limit {
		return 0, io.EOF
	}
	for i := range p {
		p[i] = ' '
	}
	e.taken.Add(int64(len(p)))
	return len(p), nil
}

// TestHundredMegabytes checks that a body of 100 MB is refused with an error before all of it was
// read.
func TestHundredMegabytes(t *testing.T) {
	const size = 100_000_000
	for _, announced := range []bool{true, false} {
		for _, path := range []string{"/v1/push", "/v1/push/batch", "/1/push?uid=1", "/goim/push/mids?mids=1&operation=5"} {
			t.Run(fmt.Sprint(path, " announced ", announced), func(t *testing.T) {
				t.Parallel() // Each subtest waits half a second until the server closes the connection.
				h := newHarness(t, httpapi.Config{}, nil)
				address := serve(t, h)
				body := &endless{limit: size}
				r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+path, body)
				if err != nil {
					t.Fatal(err)
				}
				if announced {
					r.ContentLength = size
				}
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				response, err := transport.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				if err != nil {
					t.Fatal(err)
				}
				a := answer{status: response.StatusCode, header: response.Header, body: string(text)}
				switch {
				case strings.HasPrefix(path, "/v1/"):
					if code, _, message := a.problem(t); a.status != 413 || code != "too_large" || !strings.Contains(message, "16777216") {
						t.Errorf("answered %d: %s", a.status, a.body)
					}
				case strings.HasPrefix(path, "/1/"):
					if a.status != 200 || a.body != `{"ret":65535}` && a.body != `{"ret":65534}` {
						t.Errorf("answered %d: %s", a.status, a.body)
					}
				default:
					if a.status != 200 || !strings.HasPrefix(a.body, `{"code":-400,`) {
						t.Errorf("answered %d: %s", a.status, a.body)
					}
				}
				// The kernel's buffers take some more bytes, which the server does not control. The
				// limit is 16 MiB.
				if taken := body.taken.Load(); taken > size/2 {
					t.Errorf("%d bytes of the body were taken", taken)
				}
				if calls := h.service.recorded(); len(calls) > 0 {
					t.Errorf("it did %q", calls)
				}
			})
		}
	}
}

// TestBodyCutShort checks that a caller that disconnects in the middle of its body has pushed nothing.
// Its connection is not kept.
func TestBodyCutShort(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	conn, err := net.Dial("tcp", serve(t, h))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"user\":\"a\",\"body\":1}")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("answered %d: %s", response.StatusCode, text)
		}
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("half a request did %q", calls)
	}
}

// TestLargeBodiesWaitTheirTurn checks that the number of large bodies in memory stays below the bound.
// Another large body waits, and is refused with Retry-After when its time is over.
func TestLargeBodiesWaitTheirTurn(t *testing.T) {
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	service := &fakeService{push: func(context.Context, *logic.PushCommand) (*logic.PushResult, error) {
		entered <- struct{}{}
		<-leave
		return &logic.PushResult{}, nil
	}}
	h := newHarness(t, httpapi.Config{MaxLarge: 1, Timeout: 500 * time.Millisecond}, service)
	large := `{"user":"a","body_text":"` + strings.Repeat("x", 200_000) + `"}`
	first := make(chan answer)
	go func() { first <- h.doUnchecked("POST", "/v1/push", large) }()
	<-entered
	waited := h.doUnchecked("POST", "/v1/push", large)
	if code, _, _ := waited.problem(t); waited.status != 503 || code != "unavailable" || waited.header.Get("Retry-After") == "" {
		t.Errorf("a large body without a place was answered %d: %s", waited.status, waited.body)
	}
	close(leave)
	if a := <-first; a.status != 202 {
		t.Errorf("the first one was answered %d: %s", a.status, a.body)
	}
	if a := h.doUnchecked("POST", "/v1/push", large); a.status != 202 {
		t.Errorf("with the place free again: %d: %s", a.status, a.body)
	}
	if a := h.doUnchecked("POST", "/v1/push", `{"user":"a","body":1}`); a.status != 202 {
		t.Errorf("a small body needs no place, but: %d: %s", a.status, a.body)
	}
}

// TestSlowLargeBody checks that a large body that has taken its time leaves all of the bound to the work.
func TestSlowLargeBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := httpapi.DefaultConfig()
		var left time.Duration
		h := newHarness(t, cfg, &fakeService{push: func(ctx context.Context, _ *logic.PushCommand) (*logic.PushResult, error) {
			deadline, _ := ctx.Deadline()
			left = time.Until(deadline)
			return &logic.PushResult{}, ctx.Err()
		}})
		body, send := io.Pipe()
		go func() {
			for _, piece := range []string{`{"user":"a","body_text":"`, strings.Repeat("x", 200_000), `"}`} {
				_, _ = io.WriteString(send, piece)
				time.Sleep(cfg.Timeout / 2)
			}
			_ = send.Close()
		}()
		r := httptest.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/v1/push", body)
		r.RemoteAddr = "127.0.0.1:1"
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Code != http.StatusAccepted || left != cfg.Timeout {
			t.Errorf("answered %d, with %v left: %s", w.Code, left, w.Body)
		}
	})
}

// TestCallerGoesAway checks that a disconnecting caller is not logged as an error of the server.
func TestCallerGoesAway(t *testing.T) {
	service := &fakeService{push: func(ctx context.Context, _ *logic.PushCommand) (*logic.PushResult, error) {
		<-ctx.Done()
		return nil, fmt.Errorf("append to the log: %w", ctx.Err())
	}}
	h := newHarness(t, httpapi.Config{}, service)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://127.0.0.1/v1/push", strings.NewReader(`{"user":"a","body":1}`))
	if err != nil {
		t.Fatal(err)
	}
	w := &discard{header: http.Header{}}
	h.handler.ServeHTTP(w, r)
	if w.status != 499 || strings.Contains(h.logged.String(), "failed") {
		t.Errorf("status %d, logged %s", w.status, h.logged.String())
	}
}

type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }

// TestSlowCaller checks that a caller whose body does not come in time is told so. It has not gone away.
func TestSlowCaller(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	server := httptest.NewUnstartedServer(h.handler)
	server.Config.ReadTimeout = 100 * time.Millisecond
	server.Start()
	defer server.Close()
	for path, want := range map[string]string{
		"/v1/push": "HTTP/1.1 408", "/1/push?uid=1": "HTTP/1.1 200", "/goim/push/mids?mids=1&operation=5": "HTTP/1.1 200",
	} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"user\":\"a\"")
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(line, want) {
			t.Errorf("%s was answered %q, %v, want %s", path, line, err, want)
		}
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("half a request did %q", calls)
	}
}

package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// streamCall is the caller's side of a stream of pushes.
type streamCall struct {
	t        *testing.T
	body     *io.PipeWriter
	response *http.Response
	results  *bufio.Reader
	cancel   context.CancelFunc
}

// streamResult is one result line.
type streamResult struct {
	Status int
	User   string
	ID     string
	End    bool
	Error  struct{ Code, Field, Message string }
}

// openStream begins a stream at a base URL. The stream ends with the test.
func openStream(t *testing.T, client *http.Client, base string, headers ...string) *streamCall {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	r, err := http.NewRequestWithContext(ctx, "POST", base+"/v1/push/stream", reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Add(name, value)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	s := &streamCall{t: t, body: writer, response: response, results: bufio.NewReader(response.Body), cancel: cancel}
	t.Cleanup(func() {
		cancel()
		writer.Close()
		response.Body.Close()
		client.CloseIdleConnections()
	})
	if got := response.Header.Get("Content-Type"); response.StatusCode != 200 || got != "application/x-ndjson" {
		t.Fatalf("the stream was answered %d, %s", response.StatusCode, got)
	}
	return s
}

func (s *streamCall) send(lines ...string) {
	s.t.Helper()
	if _, err := io.WriteString(s.body, strings.Join(lines, "\n")+"\n"); err != nil {
		s.t.Fatal("send:", err)
	}
}

// next reads one result. ok is false after the last one.
func (s *streamCall) next() (result streamResult, ok bool) {
	s.t.Helper()
	line, err := s.results.ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) == 0 {
		return result, false
	}
	if err == nil {
		err = json.Unmarshal(line, &result)
	}
	if err != nil {
		s.t.Fatalf("result %q: %v", line, err)
	}
	return result, true
}

// want expects results with these statuses.
func (s *streamCall) want(statuses ...int) {
	s.t.Helper()
	for _, status := range statuses {
		if result, ok := s.next(); !ok || result.Status != status || result.End {
			s.t.Fatalf("result %+v (there is one: %v), want status %d", result, ok, status)
		}
	}
}

// wantEnd expects the last line, with the reason why the server ended the stream.
func (s *streamCall) wantEnd(status int, code, message string) {
	s.t.Helper()
	end, ok := s.next()
	if !ok || !end.End || end.Status != status || end.Error.Code != code || !strings.Contains(end.Error.Message, message) {
		s.t.Errorf("the last line is %+v, want %d %s with %q", end, status, code, message)
	}
	if after, ok := s.next(); ok {
		s.t.Errorf("after the last line came %+v", after)
	}
}

// finish ends the body. It fails the test if another line follows.
func (s *streamCall) finish() {
	s.t.Helper()
	if err := s.body.Close(); err != nil {
		s.t.Fatal(err)
	}
	if result, ok := s.next(); ok {
		s.t.Errorf("one result too many: %+v", result)
	}
}

// protocols calls run with servers and clients of HTTP/1.1 and HTTP/2.
func protocols(t *testing.T, run func(t *testing.T, open func(h http.Handler) (*http.Client, string))) {
	t.Run("HTTP/1.1", func(t *testing.T) {
		run(t, func(h http.Handler) (*http.Client, string) {
			_, address := startServer(t, h, nil)
			return &http.Client{Transport: &http.Transport{}}, "http://" + address
		})
	})
	t.Run("HTTP/2", func(t *testing.T) {
		run(t, func(h http.Handler) (*http.Client, string) {
			// The certificate of httptest is valid for 127.0.0.1.
			certificate := httptest.NewUnstartedServer(nil)
			certificate.StartTLS()
			certificate.Close()
			_, address := startServer(t, h, func(s *http.Server) {
				s.TLSConfig = &tls.Config{
					Certificates: certificate.TLS.Certificates, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12,
				}
			})
			transport := certificate.Client().Transport.(*http.Transport)
			transport.ForceAttemptHTTP2 = true
			return &http.Client{Transport: transport}, "https://" + address
		})
	})
}

// TestStreamInterleaves checks that each result arrives while the body is still open, with HTTP/1.1
// and HTTP/2. The stream ends with its body.
func TestStreamInterleaves(t *testing.T) {
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		h := newHarness(t, httpapi.Config{}, nil)
		client, base := open(h.handler)
		s := openStream(t, client, base)
		for n := range 50 {
			user := fmt.Sprint("u", n)
			s.send(`{"user":"` + user + `","body":1}`)
			if result, ok := s.next(); !ok || result.Status != 202 || result.User != user || result.ID == "" {
				t.Fatalf("result %+v", result)
			}
		}
		s.finish()
	})
}

// TestStreamOrder checks that results have the order of the lines. Pushes to one user run in that
// order, however long each takes. A bad line has an error as its result, and later lines are pushed.
func TestStreamOrder(t *testing.T) {
	const lines = 2000
	var mu sync.Mutex
	seen := map[string][]string{}
	service := &fakeService{push: func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
		if len(cmd.Body)%3 == 0 {
			time.Sleep(time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, user := range cmd.Users {
			seen[user] = append(seen[user], string(cmd.Body))
		}
		return &logic.PushResult{Users: []logic.UserResult{{User: string(cmd.Body)}}}, nil
	}}
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		clear(seen)
		client, base := open(newHarness(t, httpapi.Config{}, service).handler)
		s := openStream(t, client, base)
		go func() {
			w := bufio.NewWriter(s.body)
			for n := range lines {
				switch n % 10 {
				case 3:
					fmt.Fprintf(w, "nonsense %d\n", n)
				case 5:
					fmt.Fprintf(w, `{"users":["u0","u1"],"body":%d}`+"\n", n)
				default:
					fmt.Fprintf(w, `{"user":"u%d","body":%d}`+"\n", n%7, n)
				}
			}
			_ = w.Flush()
			_ = s.body.Close()
		}()
		for n := range lines {
			result, ok := s.next()
			switch bad := n%10 == 3; {
			case !ok, bad && (result.Status != 400 || result.Error.Code != "invalid"):
				t.Fatalf("line %d: %+v", n, result)
			case !bad && n%10 != 5 && (result.Status != 202 || result.User != fmt.Sprint(n)):
				t.Fatalf("line %d: %+v", n, result)
			}
		}
		s.finish()
		mu.Lock()
		defer mu.Unlock()
		for user, bodies := range seen {
			if !slices.IsSortedFunc(bodies, func(a, b string) int {
				return len(a)*10000 - len(b)*10000 + strings.Compare(a, b)
			}) {
				t.Errorf("%s got its messages out of order: %v", user, bodies)
			}
		}
	})
}

// TestStreamLines checks that each line gets the same answer as a push in a batch, and has the same
// effect.
func TestStreamLines(t *testing.T) {
	lines := []string{
		`{"user":"alice","body":{"test":1}}`,
		`{"user":"alice","body":1,"kept":false}`,
		`{"users":["a","b"],"body_text":"x","ttl":"1h","idempotency_key":"k"}`,
		`{"room":"live://1","body":1}`,
		`{"all":true,"body_base64":"AAH/"}`,
		`{"user":"","body":1}`,
		`{"user":"a"}`,
		`{"user":"a","body":1,"body":2}`,
		`{"user":"a","body":1,"boddy":2}`,
		`[]`,
		`"push"`,
		`null`,
	}
	h := newHarness(t, httpapi.Config{}, nil)
	a := h.do("POST", "/v1/push/batch", `{"pushes":[`+strings.Join(lines, ",")+`]}`)
	var batch struct{ Results []json.RawMessage }
	if err := json.Unmarshal([]byte(a.body), &batch); err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, result := range batch.Results {
		want.Write(result)
		want.WriteByte('\n')
	}
	byBatch := map[string]bool{}
	for _, cmd := range h.service.pushes {
		byBatch[fmt.Sprintf("%+v", *cmd)] = true
	}
	for name, text := range map[string]string{
		"plain": strings.Join(lines, "\n") + "\n", "without the last end": strings.Join(lines, "\n"),
		"line ends of Windows and blank lines": "\n" + strings.Join(lines, "\r\n\r\n \t\r\n") + "\r\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, httpapi.Config{}, nil)
			a := h.do("POST", "/v1/push/stream", text)
			if a.status != 200 || a.body != want.String() {
				t.Errorf("answered %d:\n%s\nwant\n%s", a.status, a.body, want.String())
			}
			if len(h.service.pushes) != len(byBatch) {
				t.Errorf("%d pushes, want %d", len(h.service.pushes), len(byBatch))
			}
			for _, cmd := range h.service.pushes {
				if !byBatch[fmt.Sprintf("%+v", *cmd)] {
					t.Errorf("pushed %+v", *cmd)
				}
			}
		})
	}
}

// TestStreamBadLinesInvalidJSON tests lines that a batch cannot contain.
func TestStreamBadLinesInvalidJSON(t *testing.T) {
	h := newHarness(t, httpapi.Config{MaxUsers: 3}, nil)
	_, address := startServer(t, h.handler, nil)
	s := openStream(t, &http.Client{Transport: &http.Transport{}}, "http://"+address)
	for _, tt := range []struct{ line, field, message string }{
		{`{"user":"a","body":{"x":`, "body", "ends early"},
		{`{"user":"a"`, "", "ends early"},
		{`{"user":"a","body":1}{"user":"b","body":1}`, "", "more after its JSON value"},
		{"{\"user\":\"a\xff\",\"body\":1}", "user", "invalid UTF-8"},
		{`{"users":["a","b","c","d"],"body":1}`, "users", "more than 3"},
		{`{"user":"a","body":` + strings.Repeat("[", 10_000), "body", "nested more than 1000 deep"},
		{"\x00", "", "not valid JSON"},
	} {
		s.send(tt.line)
		result, ok := s.next()
		if !ok || result.Status != 400 || result.End || result.Error.Field != tt.field || !strings.Contains(result.Error.Message, tt.message) {
			t.Errorf("%.40s: %+v", tt.line, result)
		}
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("bad lines did %q", calls)
	}
	s.send(`{"user":"a","body":1}`)
	s.want(202)
	s.finish()
}

// TestStreamErrors checks that a failed push has the status and error of a single push.
func TestStreamErrors(t *testing.T) {
	service := &fakeService{}
	h := newHarness(t, httpapi.Config{}, service)
	for _, tt := range []struct {
		err    error
		status int
		code   string
	}{
		{envelope.ErrDiskFull, 507, "disk_full"},
		{envelope.ErrUnavailable, 503, "unavailable"},
		{errors.New("read /secret/path"), 500, "internal"},
	} {
		service.err = tt.err
		a := h.do("POST", "/v1/push/stream", `{"user":"a","body":1}`)
		var result streamResult
		if err := json.Unmarshal([]byte(a.body), &result); err != nil || result.Status != tt.status || result.Error.Code != tt.code ||
			strings.Contains(a.body, "secret") {
			t.Errorf("%v: %d %s", tt.err, a.status, a.body)
		}
	}
	service.err = nil
	service.push = func(context.Context, *logic.PushCommand) (*logic.PushResult, error) { panic("as the test wants it") }
	a := h.do("POST", "/v1/push/stream", `{"user":"a","body":1}`+"\n"+`{"user":"b","body":1}`)
	if got := strings.Count(a.body, `{"status":500,`); got != 2 || strings.Contains(a.body, "as the test") {
		t.Errorf("two panics were answered %d: %s", a.status, a.body)
	}
}

// TestStreamIdempotencyKey checks that each line has its own key, and that keys belong to the caller.
func TestStreamIdempotencyKey(t *testing.T) {
	h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{{Name: "one", Key: "k1"}}}, nil)
	a := h.do("POST", "/v1/push/stream", `{"user":"a","body":1,"idempotency_key":"x"}`, "X-API-Key: k1")
	if a.status != 200 || h.service.lastPush().IdempotencyKey != "one/x" {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
	a = h.do("POST", "/v1/push/stream", `{"user":"a","body":1}`, "X-API-Key: k1", "Idempotency-Key: x")
	if code, field, _ := a.problem(t); a.status != 400 || code != "invalid" || field != "Idempotency-Key" {
		t.Errorf("with the header: %d: %s", a.status, a.body)
	}
}

// TestStreamRate checks that the request counts once against the rate, and each line once more. A line
// over the rate is refused, and the stream continues.
func TestStreamRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, httpapi.Config{Keys: []httpapi.Key{{Name: "backend", Key: "secret", Rate: 1, Burst: 3}}}, nil)
		line := `{"user":"a","body":1}` + "\n"
		a := h.doUnchecked("POST", "/v1/push/stream", line+line+line+line, "X-API-Key: secret")
		if strings.Count(a.body, `{"status":202,`) != 2 || strings.Count(a.body, `{"status":429,"error":{"code":"rate_limited"`) != 2 {
			t.Errorf("answered %d: %s", a.status, a.body)
		}
		got := counted(t, h.reg)
		if got["imgo_logic_http_callers_total key=backend outcome=allowed"] != 3 ||
			got["imgo_logic_http_callers_total key=backend outcome=rate_limited"] != 2 ||
			got["imgo_logic_http_requests_total route=/v1/push/stream status=200"] != 1 ||
			got["imgo_logic_http_problems_total code=rate_limited field=none"] != 2 {
			t.Errorf("counted %v", got)
		}
	})
}

// TestStreamInFlight checks that the number of concurrent pushes stays within the bound. More lines
// are pushed once results are written.
func TestStreamInFlight(t *testing.T) {
	const bound = 256
	var mu sync.Mutex
	var now, most int
	var full, leave chan struct{}
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		if now += n; now > most {
			if most = now; most == bound {
				close(full)
			}
		}
	}
	service := &fakeService{push: func(context.Context, *logic.PushCommand) (*logic.PushResult, error) {
		count(1)
		defer count(-1)
		<-leave
		return &logic.PushResult{}, nil
	}}
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		leave, full, most = make(chan struct{}), make(chan struct{}), 0
		client, base := open(newHarness(t, httpapi.Config{}, service).handler)
		s := openStream(t, client, base)
		go func() {
			for n := range 4 * bound {
				if _, err := fmt.Fprintf(s.body, `{"user":"u%d","body":1}`+"\n", n); err != nil {
					return
				}
			}
			s.body.Close()
		}()
		<-full
		time.Sleep(20 * time.Millisecond) // time for a push over the bound to start
		close(leave)
		for range 4 * bound {
			s.want(202)
		}
		if _, ok := s.next(); ok {
			t.Error("one result too many")
		}
		mu.Lock()
		defer mu.Unlock()
		if most != bound {
			t.Errorf("%d pushes at once, want %d", most, bound)
		}
	})
}

// TestStreamLargeLines checks that a large line is pushed alone and then releases its slot for large
// bodies. A line over the limit ends the stream.
func TestStreamLargeLines(t *testing.T) {
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		h := newHarness(t, httpapi.Config{MaxLarge: 1, MaxBody: 300_000}, nil)
		client, base := open(h.handler)
		s := openStream(t, client, base)
		large := `{"user":"a","body_text":"` + strings.Repeat("x", 200_000) + `"}`
		go func() {
			for range 5 {
				_, _ = io.WriteString(s.body, large+"\n"+`{"user":"a","body":1}`+"\n")
			}
			_, _ = io.WriteString(s.body, `{"user":"a","body_text":"`+strings.Repeat("x", 300_000)+`"}`+"\n"+large+"\n")
		}()
		for range 5 {
			s.want(202, 202)
		}
		s.wantEnd(413, "too_large", "300000 bytes")
		if got := len(h.service.pushes); got != 10 {
			t.Errorf("%d pushes, want 10", got)
		}
		if a := h.doUnchecked("POST", "/v1/push", large); a.status != 202 {
			t.Errorf("a large push afterwards was answered %d", a.status)
		}
	})
}

// TestStreamSmallLimit checks that a body limit below 64 KiB applies to lines too.
func TestStreamSmallLimit(t *testing.T) {
	h := newHarness(t, httpapi.Config{MaxBody: 100}, nil)
	a := h.do("POST", "/v1/push/stream", `{"user":"a","body":1}`+"\n"+`{"user":"a","body_text":"`+strings.Repeat("x",
		100)+`"}`+"\n"+`{"user":"a","body":1}`)
	if strings.Count(a.body, "\n") != 2 || !strings.Contains(a.body, `{"status":413,"end":true,"error":{"code":"too_large"`) ||
		len(h.service.pushes) != 1 {
		t.Errorf("answered %d: %s", a.status, a.body)
	}
}

// TestStreamCutShort checks that the complete lines of a truncated body are pushed, and that an
// incomplete line is not.
func TestStreamCutShort(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	_, address := startServer(t, h.handler, nil)
	conn := dial(t, address)
	_, _ = io.WriteString(conn, "POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"+
		`{"user":"a","body":1}`+"\n"+`{"user":"b","body":1}`)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(text), `{"status":202,`) || !strings.Contains(string(text),
		`"end":true,"error":{"code":"invalid","message":"the request body ended early"`) {
		t.Errorf("answered %s, %v", text, err)
	}
	if len(h.service.pushes) != 1 || h.service.pushes[0].Users[0] != "a" {
		t.Errorf("pushed %d", len(h.service.pushes))
	}
}

// TestStreamClosesItsConnection checks that the unread rest of a body is never read as another
// request.
func TestStreamClosesItsConnection(t *testing.T) {
	h := newHarness(t, httpapi.Config{MaxBody: 100}, nil)
	_, address := startServer(t, h.handler, nil)
	hidden := rawPush(pushOf("hidden"))
	body := strings.Repeat("x", 200) + "\n" + hidden
	sent := fmt.Sprintf("POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body)+1000, body)
	if got := exchange(t, address, sent, len(sent), 2); !slices.Equal(got, []string{"200", "end"}) {
		t.Errorf("answered %q", got)
	}
	if calls := h.service.recorded(); len(calls) > 0 {
		t.Errorf("did %q", calls)
	}
}

// TestStreamExpectsContinue checks that a caller that waits for "100 Continue" gets it.
func TestStreamExpectsContinue(t *testing.T) {
	h := newHarness(t, httpapi.Config{}, nil)
	_, address := startServer(t, h.handler, nil)
	conn := dial(t, address)
	r := bufio.NewReader(conn)
	_, _ = io.WriteString(conn,
		"POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("answered %q, %v", line, err)
	}
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "16\r\n"+`{"user":"a","body":1}`+"\n\r\n0\r\n\r\n")
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(response.Body); err != nil || !strings.HasPrefix(string(text), `{"status":202,`) {
		t.Errorf("answered %d: %s, %v", response.StatusCode, text, err)
	}
}

// TestStreamCallerVanishes checks that a disconnecting caller leaves nothing behind. All lines that
// were read are pushed.
func TestStreamCallerVanishes(t *testing.T) {
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		entered, leave := make(chan struct{}, 10), make(chan struct{})
		var pushed atomic.Int64
		service := &fakeService{push: func(ctx context.Context, _ *logic.PushCommand) (*logic.PushResult, error) {
			entered <- struct{}{}
			<-leave
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			pushed.Add(1)
			return &logic.PushResult{}, nil
		}}
		h := newHarness(t, httpapi.Config{}, service)
		ended := make(chan struct{})
		client, base := open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			h.handler.ServeHTTP(w, r)
		}))
		s := openStream(t, client, base)
		s.send(`{"user":"a","body":1}`, `{"user":"b","body":1}`)
		<-entered
		<-entered
		s.cancel()
		client.CloseIdleConnections()
		close(leave)
		<-ended
		if got := pushed.Load(); got != 2 {
			t.Errorf("%d pushes were done, want 2", got)
		}
	})
}

// TestStreamEnds checks how the server ends its streams. Lines that were read get their results, and
// the last line says that the stream ends. A stream that begins later ends at once, and other calls
// are answered.
func TestStreamEnds(t *testing.T) {
	protocols(t, func(t *testing.T, open func(http.Handler) (*http.Client, string)) {
		entered, leave := make(chan struct{}, 10), make(chan struct{})
		service := &fakeService{push: func(context.Context, *logic.PushCommand) (*logic.PushResult, error) {
			entered <- struct{}{}
			<-leave
			return &logic.PushResult{}, nil
		}}
		h := newHarness(t, httpapi.Config{}, service)
		client, base := open(h.handler)
		s, idle := openStream(t, client, base), openStream(t, client, base)
		s.send(`{"user":"a","body":1}`, `{"user":"b","body":1}`)
		<-entered
		<-entered
		h.api.EndStreams()
		idle.wantEnd(503, "unavailable", "open another one")
		close(leave)
		s.want(202, 202)
		s.wantEnd(503, "unavailable", "open another one")
		openStream(t, client, base).wantEnd(503, "unavailable", "open another one")
		if a := h.do("POST", "/v1/push", `{"user":"a","body":1}`); a.status != 202 {
			t.Errorf("a push was answered %d", a.status)
		}
		if strings.Contains(h.logged.String(), "failed") {
			t.Errorf("logged %s", h.logged.String())
		}
	})
}

// pipeListener gives a server connections without a network, so that the test can run in a synctest
// bubble. The pipes have no buffer, so an unread answer blocks.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l pipeListener) Close() error   { close(l.done); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// pipeServer serves h over pipes until stop is called.
func pipeServer(t *testing.T, h http.Handler) (dial func() net.Conn, stop func()) {
	t.Helper()
	l := pipeListener{make(chan net.Conn), make(chan struct{})}
	server := httpapi.NewServer(h, zerolog.Nop())
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	dial = func() net.Conn {
		client, end := net.Pipe()
		l.conns <- end
		return client
	}
	return dial, func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
		time.Sleep(time.Second) // time for connections that the server closes slowly
	}
}

// TestStreamIdle checks that a stream without a byte for two minutes ends with an error. One byte in
// time keeps the stream open.
func TestStreamIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := pipeServer(t, newHarness(t, httpapi.Config{}, nil).handler)
		defer stop()
		client := &http.Client{Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil },
		}}
		defer client.CloseIdleConnections()
		s := openStream(t, client, "http://localhost")
		for range 5 {
			time.Sleep(119 * time.Second)
			s.send(`{"user":"a","body":1}`)
			s.want(202)
		}
		last := time.Now()
		s.wantEnd(400, "invalid", "no byte came for 2m0s")
		if took := time.Since(last); took != 2*time.Minute {
			t.Errorf("the stream ended after %s", took)
		}
		_ = s.body.Close()
	})
}

// TestStreamWaitsForAPlace checks that a stream whose large line waits for a place ends when the server ends its
// streams, and that the wait has a bound.
func TestStreamWaitsForAPlace(t *testing.T) {
	large := `{"user":"a","body_text":"` + strings.Repeat("x", 200_000) + `"}`
	for _, end := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			leave := make(chan struct{})
			h := newHarness(t, httpapi.Config{MaxLarge: 1}, &fakeService{
				push: func(context.Context, *logic.PushCommand) (*logic.PushResult, error) {
					<-leave
					return &logic.PushResult{}, nil
				},
			})
			dial, stop := pipeServer(t, h.handler)
			defer stop()
			client := &http.Client{Transport: &http.Transport{
				DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(), nil },
			}}
			defer client.CloseIdleConnections()
			var sending sync.WaitGroup
			defer sending.Wait()
			sending.Go(func() { h.doUnchecked("POST", "/v1/push", large) }) // has the only place
			synctest.Wait()
			s := openStream(t, client, "http://localhost")
			sending.Go(func() { _, _ = io.WriteString(s.body, large+"\n") })
			synctest.Wait()
			begun, message, after := time.Now(), "as many large requests", httpapi.DefaultConfig().Timeout
			if end {
				h.api.EndStreams()
				message, after = "open another one", 0
			}
			s.wantEnd(503, "unavailable", message)
			if took := time.Since(begun); took > after+time.Second {
				t.Errorf("the stream ended after %s, want %s", took, after)
			}
			close(leave)
			_ = s.body.Close()
		})
	}
}

// TestStreamUnreadResults checks that the server stops reading from a caller that does not read its
// results. So the memory for the caller is bounded. Later the stream is aborted.
func TestStreamUnreadResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, httpapi.Config{}, nil)
		ended := make(chan struct{})
		dial, stop := pipeServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(ended)
			h.handler.ServeHTTP(w, r)
		}))
		defer stop()
		conn := dial()
		begun := time.Now()
		line := `{"user":"alice","body_text":"` + strings.Repeat("x", 1000) + `"}` + "\n"
		fmt.Fprintf(conn, "POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", 1_000_000*len(line))
		header := make([]byte, 10)
		_, _ = conn.Read(header) // The header is flushed only once all of it is read.
		go func() { _, _ = io.CopyN(io.Discard, conn, 100) }()
		written := 0
		for range 1_000_000 {
			n, err := io.WriteString(conn, line)
			if written += n; err != nil {
				break
			}
		}
		<-ended
		if took := time.Since(begun); took != 30*time.Second && took != 30500*time.Millisecond {
			t.Errorf("the stream ended after %s", took)
		}
		if written > 2<<20 {
			t.Errorf("%d bytes were taken of a caller that does not read", written)
		}
		if n := len(h.service.pushes); n > 600 {
			t.Errorf("%d pushes without a result", n)
		}
		_ = conn.Close()
	})
}

// TestStreamUnreadEnd checks that the connection ends of a caller that reads all results, and not the end of the answer.
func TestStreamUnreadEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := pipeServer(t, newHarness(t, httpapi.Config{}, nil).handler)
		defer stop()
		conn := dial()
		defer conn.Close() //nolint:errcheck // a pipe
		line := `{"user":"alice","body":1}` + "\n"
		fmt.Fprintf(conn, "POST /v1/push/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
		for r, last := bufio.NewReader(conn), ""; !strings.Contains(last, `"status":202`); {
			var err error
			if last, err = r.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(31 * time.Second)
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("the server still writes %q, %v", rest, err)
		}
	})
}

// TestStreamMemory checks that a long stream needs no more memory than a short one.
func TestStreamMemory(t *testing.T) {
	service := &fakeService{}
	service.push = func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
		service.mu.Lock()
		service.pushes, service.calls = nil, nil
		service.mu.Unlock()
		return &logic.PushResult{}, nil
	}
	_, address := startServer(t, newHarness(t, httpapi.Config{}, service).handler, nil)
	s := openStream(t, &http.Client{Transport: &http.Transport{}}, "http://"+address)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	pad := strings.Repeat("x", 2000)
	push := func(from, to int) {
		go func() {
			for n := from; n < to; n++ {
				fmt.Fprintf(s.body, `{"user":"user-%d","body_text":"%s"}`+"\n", n, pad)
			}
		}()
		for n := from; n < to; n++ {
			s.want(202)
		}
	}
	push(0, 2000)
	before := heap()
	push(2000, 10_000)
	if after := heap(); after > before+4<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	s.finish()
}

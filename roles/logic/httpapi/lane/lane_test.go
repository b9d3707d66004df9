package lane_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"imgo/roles/logic/httpapi/lane"
)

const target = "/v1/push"

// server is what lane.Server and http.Server have in common.
type server interface {
	Serve(l net.Listener) error
	Shutdown(ctx context.Context) error
	Close() error
}

func newServer(h http.Handler) *lane.Server {
	return lane.New(&http.Server{
		Handler: h, ReadHeaderTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		ErrorLog: log.New(io.Discard, "", 0),
	}, target)
}

// listen runs a server until the test ends.
func listen(t testing.TB, s server) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error("close the server:", err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error("serve:", err)
		}
	})
	return l.Addr().String()
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// echo answers with all that a handler can see of a request.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("X-Lines", "one\r\ntwo")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, "%s %s %s %d %d host %q uri %q length %d body %q err %v\n", r.Method, r.URL, r.Proto, r.ProtoMajor, r.ProtoMinor,
		r.Host, r.RequestURI, r.ContentLength, body, err)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
	}
}

func inLane(w http.ResponseWriter) bool {
	_, flushes := w.(http.Flusher)
	return !flushes
}

// request is a push as callers write it.
func request(body string, fields ...string) string {
	head := "POST " + target + " HTTP/1.1\r\nHost: push.example:8080\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n" + body
}

// converse sends bytes in pieces of a size and gives out all answers, without
// their dates, until the server closes or has answered so many.
func converse(t testing.TB, address string, sent []byte, piece, answers int) string {
	t.Helper()
	conn := dial(t, address)
	defer conn.Close()
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for part := range slices.Chunk(sent, piece) {
			if _, err := conn.Write(part); err != nil {
				return // the server has refused and is gone
			}
		}
		if answers < 0 {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	var all strings.Builder
	r := bufio.NewReader(conn)
	for n := 0; n != answers; n++ {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			fmt.Fprintln(&all, "end")
			break
		}
		body, err := io.ReadAll(response.Body)
		// net/http sends a long answer in chunks where the lane knows its length.
		response.Header.Del("Date")
		response.Header.Del("Content-Length")
		fmt.Fprintln(&all, response.Status, response.Close, response.Header, string(body), err)
	}
	conn.Close()
	<-wrote
	return all.String()
}

// conversations are requests, and whether the lane answers the first.
var conversations = map[string]struct {
	sent    string
	answers int // 0: until the server closes
	lane    bool
}{
	"plain":                  {request(`{"user":"a"}`), 1, true},
	"no body":                {request(""), 1, true},
	"one after the other":    {request("a") + request("b") + request("cc"), 3, true},
	"a line end after it":    {request("a") + "\r\n" + request("b") + "\r\n\r\n" + request("c"), 3, true},
	"header stays":           {request("a", "X-Api-Key: k") + request("b", "X-Api-Key: k"), 2, true},
	"header changes":         {request("a", "X-Api-Key: k") + request("b", "X-Api-Key: other"), 2, true},
	"header grows":           {request("a") + request("b", "X-Api-Key: k", "Origin: x"), 2, true},
	"header shrinks":         {request("b", "X-Api-Key: k", "Origin: x") + request("a"), 2, true},
	"header moves":           {request("b", "X-Api-Key: k", "Origin: x") + request("a", "Origin: x", "X-Api-Key: k"), 2, true},
	"another host":           {request("a") + strings.Replace(request("b"), "push.example", "other.example", 1), 2, true},
	"lower case":             {"POST /v1/push HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\nx-api-key: k\r\n\r\nb", 1, true},
	"keep-alive":             {request("a", "Connection: Keep-Alive"), 1, true},
	"blanks":                 {request("a", "X-Blank: \t a \t b "), 1, true},
	"empty value":            {request("a", "X-Empty:"), 1, true},
	"no blank":               {request("a", "X-Tight:b"), 1, true},
	"then another path":      {request("a") + "GET /else HTTP/1.1\r\nHost: a\r\n\r\n" + request("b"), 3, true},
	"then closed":            {request("a") + request("b", "Connection: close") + request("c"), 0, true},
	"large":                  {request(strings.Repeat("x", 60_000)), 1, true},
	"too large for the lane": {request(strings.Repeat("x", 70_000)), 1, false},
	"close":                  {request("a", "Connection: close"), 0, false},
	"twice":                  {request("a", "X-Twice: 1", "x-twice: 2"), 1, false},
	"two lengths":            {request("a", "Content-Length: 1"), 1, false},
	"contradicting lengths":  {request("a", "Content-Length: 2"), 0, false},
	"two hosts":              {request("a", "Host: other"), 0, false},
	"no host":                {"POST /v1/push HTTP/1.1\r\nContent-Length: 1\r\n\r\na", 0, false},
	"strange host":           {"POST /v1/push HTTP/1.1\r\nHost: a b\r\nContent-Length: 1\r\n\r\na", 0, false},
	"no length":              {"POST /v1/push HTTP/1.1\r\nHost: a\r\n\r\n", 1, false},
	"signed length":          {"POST /v1/push HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", 0, false},
	"empty length":           {"POST /v1/push HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na", 0, false},
	"chunked":                {"POST /v1/push HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 1, false},
	"chunked with a length":  {request("1\r\na\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 0, false},
	"expects":                {request("a", "Expect: 100-continue"), 1, false},
	"old":                    {strings.Replace(request("a"), "HTTP/1.1", "HTTP/1.0", 1), 0, false},
	"query":                  {strings.Replace(request("a"), "push ", "push?a=b ", 1), 1, false},
	"absolute":               {strings.Replace(request("a"), "/v1", "http://a/v1", 1), 1, false},
	"another method":         {strings.Replace(request("a"), "POST", "PUT", 1), 1, false},
	"no method":              {strings.Replace(request("a"), "POST ", "", 1), 0, false},
	"folded":                 {request("a", "X-Folded: a", " b"), 1, false},
	"blank before the colon": {request("a", "X-Blank : b"), 0, false},
	"no colon":               {request("a", "nonsense"), 0, false},
	"no name":                {request("a", ": b"), 0, false},
	"strange name":           {request("a", "X(Y): b"), 0, false},
	"control byte":           {request("a", "X-A: b\x01"), 0, false},
	"zero byte":              {request("a", "X-A: b\x00"), 0, false},
	"not ASCII":              {request("a", "X-A: ä"), 1, false},
	"bare line feeds":        {"POST /v1/push HTTP/1.1\nHost: a\nContent-Length: 6\n\na\r\n\r\nb", 1, false},
	"a bare line feed":       {"POST /v1/push HTTP/1.1\r\nHost: a\nContent-Length: 6\r\n\r\na\r\n\r\nb", 1, false},
	"bare carriage return":   {request("a", "X-A: b\rX-B: c"), 0, false},
	"many fields":            {request("a", manyFields(50)...), 1, false},
	"pragma":                 {request("a", "Pragma: no-cache"), 1, false},
	"preface of HTTP/2":      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, false},
	"TLS":                    {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, false},
}

func manyFields(n int) (fields []string) {
	for i := range n {
		fields = append(fields, fmt.Sprintf("X-Field-%d: %d", i, i))
	}
	return fields
}

// TestAsNetHTTP: whatever is sent, in whatever pieces, is answered as net/http
// does; and the lane answers what it is for.
func TestAsNetHTTP(t *testing.T) {
	lanes := make(chan bool, 1000)
	here := listen(t, newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lanes <- inLane(w)
		echo(w, r)
	})))
	there := listen(t, newServer(http.HandlerFunc(echo)).HTTP)
	for name, c := range conversations {
		for _, piece := range []int{1 << 20, 1000, 1} {
			if len(c.sent) > 10_000 && piece == 1 || c.answers == 0 && piece < len(c.sent) {
				continue // too slow; who sends on after a refusal may be reset before it is read
			}
			t.Run(fmt.Sprint(name, " in pieces of ", piece), func(t *testing.T) {
				want := converse(t, there, []byte(c.sent), piece, c.answers-btoi(c.answers == 0))
				got := converse(t, here, []byte(c.sent), piece, c.answers-btoi(c.answers == 0))
				if got != want {
					t.Errorf("answered\n%s\nnet/http answers\n%s", got, want)
				}
				first, called := false, false
				for len(lanes) > 0 {
					if lane := <-lanes; !called {
						first, called = lane, true
					}
				}
				if first != c.lane {
					t.Errorf("answered in the lane: %v, want %v", first, c.lane)
				}
			})
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// FuzzAsNetHTTP: no bytes are understood in another way than net/http does.
func FuzzAsNetHTTP(f *testing.F) {
	for _, c := range conversations {
		if len(c.sent) < 10_000 {
			f.Add([]byte(c.sent))
			f.Add([]byte(c.sent + "0"))
		}
	}
	here := listen(f, newServer(http.HandlerFunc(echo)))
	there := listen(f, newServer(http.HandlerFunc(echo)).HTTP)
	f.Fuzz(func(t *testing.T, sent []byte) {
		if len(sent) > 4000 {
			t.Skip() // what net/http has not read when it refuses, it resets
		}
		if bytes.Contains(sent, []byte("100-continue")) {
			t.Skip() // http.ReadResponse takes the 100 for the answer
		}
		size := len(sent) + 1
		want, got := converse(t, there, sent, size, -1), converse(t, here, sent, size, -1)
		if got != want {
			t.Errorf("answered\n%s\nnet/http answers\n%s", got, want)
		}
	})
}

// TestShutdown: who waits is let go at once, whose request is under way gets
// its answer, and hears that it is the last.
func TestShutdown(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	s := newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) == "slow" {
			close(arrived)
			<-answer
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	address := listen(t, s)
	untouched, used, slow := dial(t, address), dial(t, address), dial(t, address)
	if _, err := io.WriteString(used, request("quick")); err != nil {
		t.Fatal(err)
	}
	if r, err := http.ReadResponse(bufio.NewReader(used), nil); err != nil || r.StatusCode != http.StatusAccepted || r.Close {
		t.Fatalf("answered %v, %v", r, err)
	}
	if _, err := io.WriteString(slow, request("slow")); err != nil {
		t.Fatal(err)
	}
	<-arrived
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(t.Context()) }()
	for name, conn := range map[string]net.Conn{"untouched": untouched, "used": used} {
		if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: read %d bytes, %v; want the end", name, n, err)
		}
	}
	select {
	case err := <-down:
		t.Fatal("did not wait for the request under way:", err)
	default:
	}
	close(answer)
	if r, err := http.ReadResponse(bufio.NewReader(slow), nil); err != nil || r.StatusCode != http.StatusAccepted || !r.Close {
		t.Errorf("answered %v, %v", r, err)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// TestClose: requests under way end with their contexts.
func TestClose(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	s := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	}))
	conn := dial(t, listen(t, s))
	if _, err := io.WriteString(conn, request("a")); err != nil {
		t.Fatal(err)
	}
	<-arrived
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Shutdown(short); !errors.Is(err, context.Canceled) {
		t.Errorf("shut down: %v, want what its context says", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-ended
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes of a connection that was closed", n)
	}
}

// TestPanic: a handler that panics costs its connection and nothing else.
func TestPanic(t *testing.T) {
	address := listen(t, newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch body, _ := io.ReadAll(r.Body); string(body) {
		case "panic":
			panic("on purpose")
		case "abort":
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusAccepted)
	})))
	for _, body := range []string{"panic", "abort"} {
		if got := converse(t, address, []byte(request(body)), 1000, -1); got != "end\n" {
			t.Errorf("%s: answered %s", body, got)
		}
	}
	if got := converse(t, address, []byte(request("a")), 1000, 1); !strings.HasPrefix(got, "202") {
		t.Errorf("the next caller was answered %s", got)
	}
}

// TestIdle: a caller that says nothing more is let go, and one that stops in
// the middle of a request as soon as net/http would.
func TestIdle(t *testing.T) {
	s := newServer(http.HandlerFunc(echo))
	s.HTTP.IdleTimeout, s.HTTP.ReadHeaderTimeout = 50*time.Millisecond, 50*time.Millisecond
	address := listen(t, s)
	for name, sent := range map[string]string{"nothing": "", "a request": request("a")} {
		conn := dial(t, address)
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
}

// TestManyCallers: connections share nothing that a request could leave there.
func TestManyCallers(t *testing.T) {
	address := listen(t, newServer(http.HandlerFunc(echo)))
	done := make(chan string)
	const callers = 8
	for caller := range callers {
		go func() {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				done <- err.Error()
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			for n := range 200 {
				body := strings.Repeat(fmt.Sprint(caller), n+1)
				if _, err := io.WriteString(conn, request(body, fmt.Sprintf("X-Api-Key: %d-%d", caller, n))); err != nil {
					done <- err.Error()
					return
				}
				response, err := http.ReadResponse(r, nil)
				if err != nil {
					done <- err.Error()
					return
				}
				text, err := io.ReadAll(response.Body)
				if err != nil || !strings.Contains(string(text), fmt.Sprintf("body %q", body)) ||
					!strings.Contains(string(text), fmt.Sprintf(`X-Api-Key: ["%d-%d"]`, caller, n)) {
					done <- fmt.Sprintf("caller %d was answered %s, %v", caller, text, err)
					return
				}
			}
			done <- ""
		}()
	}
	for range callers {
		if why := <-done; why != "" {
			t.Error(why)
		}
	}
}

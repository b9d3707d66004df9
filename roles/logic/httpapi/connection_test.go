package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"imgo/roles/logic"
	"imgo/roles/logic/httpapi"
)

// startServer serves h with the server of NewServer until the test ends.
// change, if not nil, changes the server before it serves.
func startServer(t *testing.T, h http.Handler, change func(*http.Server)) (server *http.Server, address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = httpapi.NewServer(h, zerolog.Nop())
	if change != nil {
		change(server)
	}
	if server.TLSConfig != nil {
		listener = tls.NewListener(listener, server.TLSConfig)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error("stop the server:", err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error("serve:", err)
		}
	})
	return server, listener.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
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

// pushOf returns the body of a valid push whose message is a JSON string.
func pushOf(message string) string {
	return `{"user":"a","kept":false,"body":"` + message + `"}`
}

// rawPush returns an HTTP/1.1 request for a push, as callers write it.
func rawPush(body string, fields ...string) string {
	head := "POST /v1/push HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	for _, f := range fields {
		head += f + "\r\n"
	}
	return head + "\r\n" + body
}

// exchange sends the bytes in pieces of the given size. It returns the statuses of the answers, at
// most count of them. If the server closes the connection earlier, the list ends with "end".
func exchange(t *testing.T, address, sent string, piece, count int) (statuses []string) {
	t.Helper()
	conn := dial(t, address)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for part := range slices.Chunk([]byte(sent), piece) {
			if _, err := conn.Write(part); err != nil {
				return // The server has refused the request and closed the connection.
			}
		}
	}()
	r := bufio.NewReader(conn)
	for range count {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			statuses = append(statuses, "end")
			break
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil {
			t.Error("read an answer's body:", err)
		}
		statuses = append(statuses, strconv.Itoa(response.StatusCode))
	}
	conn.Close()
	<-wrote
	return statuses
}

// TestRawRequests sends requests byte by byte, in larger pieces and in one piece. Valid requests are
// pipelined. A malformed request is refused, has no effect, and is never read as two requests.
func TestRawRequests(t *testing.T) {
	a, b := pushOf("a"), pushOf("b")
	pushes := func(messages ...string) []string { return messages }
	for _, tt := range []struct {
		name, sent string
		statuses   []string
		pushed     []string // without their quotes
	}{
		{"plain", rawPush(a), []string{"202"}, pushes("a")},
		{"no body", rawPush(""), []string{"400"}, nil},
		{"pipelined", rawPush(a) + rawPush(b) + rawPush(a), []string{"202", "202", "202"}, pushes("a", "b", "a")},
		{"line ends after a body", rawPush(a) + "\r\n" + rawPush(b) + "\r\n\r\n" + rawPush(a),
			[]string{"202", "202", "202"}, pushes("a", "b", "a")},
		{"header changes", rawPush(a, "X-Api-Key: k") + rawPush(b, "X-Api-Key: other"), []string{"202", "202"}, pushes("a", "b")},
		{"lower case", "POST /v1/push HTTP/1.1\r\nhost: localhost\r\ncontent-length: " + strconv.Itoa(len(a)) + "\r\n\r\n" + a,
			[]string{"202"}, pushes("a")},
		{"then another path", rawPush(a) + "GET /else HTTP/1.1\r\nHost: localhost\r\n\r\n" + rawPush(b), []string{"202", "404", "202"},
			pushes("a", "b")},
		{"then closed", rawPush(a) + rawPush(b, "Connection: close") + rawPush(a), []string{"202", "202", "end"}, pushes("a", "b")},
		{"a refused push between", rawPush(a) + rawPush("{}") + rawPush(b), []string{"202", "400", "202"}, pushes("a", "b")},
		{"large", rawPush(pushOf(strings.Repeat("x", 60_000))), []string{"202"}, pushes(strings.Repeat("x", 60_000))},
		{"HTTP/1.0", strings.Replace(rawPush(a), "HTTP/1.1", "HTTP/1.0", 1), []string{"403", "end"}, nil},
		{"chunked", "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strconv.FormatInt(int64(len(a)), 16) + "\r\n" + a + "\r\n0\r\n\r\n", []string{"202"}, pushes("a")},
		{"query", strings.Replace(rawPush(a), "push ", "push?a=b ", 1), []string{"400"}, nil},
		{"another method", strings.Replace(rawPush(a), "POST", "PUT", 1), []string{"405"}, nil},
		{"the same length twice", rawPush(a, "Content-Length: "+strconv.Itoa(len(a))), []string{"202"}, pushes("a")},

		{"contradicting lengths", rawPush(a, "Content-Length: 2"), []string{"400", "end"}, nil},
		{"two hosts", rawPush(a, "Host: other"), []string{"400", "end"}, nil},
		{"no host", "POST /v1/push HTTP/1.1\r\nContent-Length: 1\r\n\r\na", []string{"400", "end"}, nil},
		{"host with a space", "POST /v1/push HTTP/1.1\r\nHost: a b\r\nContent-Length: 1\r\n\r\na", []string{"400", "end"}, nil},
		{"no length", "POST /v1/push HTTP/1.1\r\nHost: localhost\r\n\r\n", []string{"400"}, nil},
		{"signed length", "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na", []string{"400", "end"}, nil},
		{"empty length", "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Length:\r\n\r\na", []string{"400", "end"}, nil},
		{"no method", strings.Replace(rawPush(a), "POST ", "", 1), []string{"400", "end"}, nil},
		{"space before a colon", rawPush(a, "X-Blank : b"), []string{"400", "end"}, nil},
		{"no colon", rawPush(a, "nonsense"), []string{"400", "end"}, nil},
		{"no field name", rawPush(a, ": b"), []string{"400", "end"}, nil},
		{"invalid field name", rawPush(a, "X(Y): b"), []string{"400", "end"}, nil},
		{"control byte", rawPush(a, "X-A: b\x01"), []string{"400", "end"}, nil},
		{"zero byte", rawPush(a, "X-A: b\x00"), []string{"400", "end"}, nil},
		{"bare carriage return", rawPush(a, "X-A: b\rX-B: c"), []string{"400", "end"}, nil},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []string{"400", "end"}, nil},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", []string{"400", "end"}, nil},
	} {
		for _, piece := range []int{1 << 20, 1000, 1} {
			if len(tt.sent) > 10_000 && piece == 1 || slices.Contains(tt.statuses, "end") && piece < len(tt.sent) {
				continue // This would be too slow, or the server would reset the connection when bytes follow its refusal.
			}
			t.Run(fmt.Sprint(tt.name, " in pieces of ", piece), func(t *testing.T) {
				h := newHarness(t, httpapi.Config{}, nil)
				_, address := startServer(t, h.handler, nil)
				if got := exchange(t, address, tt.sent, piece, len(tt.statuses)); !slices.Equal(got, tt.statuses) {
					t.Errorf("answered %q, want %q", got, tt.statuses)
				}
				var pushed []string
				for _, cmd := range h.service.pushes {
					pushed = append(pushed, strings.Trim(string(cmd.Body), `"`))
				}
				if !slices.Equal(pushed, tt.pushed) {
					t.Errorf("pushed %.100q, want %.100q", pushed, tt.pushed)
				}
			})
		}
	}
}

// TestShutdownWaitsForPushes checks that a stopping server closes idle connections at once. A push in
// progress is answered, and its answer says that the connection closes.
func TestShutdownWaitsForPushes(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	service := &fakeService{push: func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
		if string(cmd.Body) == `"slow"` {
			close(arrived)
			<-answer
		}
		return &logic.PushResult{}, nil
	}}
	server, address := startServer(t, newHarness(t, httpapi.Config{}, service).handler, nil)
	idle, slow := dial(t, address), dial(t, address)
	if _, err := io.WriteString(idle, rawPush(pushOf("quick"))); err != nil {
		t.Fatal(err)
	}
	idleReader := bufio.NewReader(idle)
	if r, err := http.ReadResponse(idleReader, nil); err != nil || r.StatusCode != http.StatusAccepted || r.Close {
		t.Fatalf("answered %v, %v", r, err)
	} else if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(slow, rawPush(pushOf("slow"))); err != nil {
		t.Fatal(err)
	}
	<-arrived
	down := make(chan error, 1)
	go func() { down <- server.Shutdown(t.Context()) }()
	if n, err := idleReader.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes of an idle connection, %v; want the end", n, err)
	}
	select {
	case err := <-down:
		t.Fatal("did not wait for the push under way:", err)
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
		t.Error("the server still listens")
	}
}

// TestPushEndsWithItsConnection checks that the context of a push ends when its caller disconnects,
// and when the server closes.
func TestPushEndsWithItsConnection(t *testing.T) {
	for _, cause := range []string{"caller", "server"} {
		t.Run(cause, func(t *testing.T) {
			arrived, ended := make(chan struct{}), make(chan struct{})
			service := &fakeService{push: func(ctx context.Context, _ *logic.PushCommand) (*logic.PushResult, error) {
				close(arrived)
				<-ctx.Done()
				close(ended)
				return nil, ctx.Err()
			}}
			server, address := startServer(t, newHarness(t, httpapi.Config{}, service).handler, nil)
			conn := dial(t, address)
			if _, err := io.WriteString(conn, rawPush(pushOf("a"))); err != nil {
				t.Fatal(err)
			}
			<-arrived
			var err error
			if cause == "caller" {
				err = conn.Close()
			} else {
				err = server.Close()
			}
			if err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
}

// TestIdleConnectionsEnd checks that a connection without a request ends at the server's deadlines,
// both before the first request and after it.
func TestIdleConnectionsEnd(t *testing.T) {
	_, address := startServer(t, newHarness(t, httpapi.Config{}, nil).handler, func(s *http.Server) {
		s.IdleTimeout, s.ReadHeaderTimeout = 50*time.Millisecond, 50*time.Millisecond
	})
	for name, sent := range map[string]string{"nothing": "", "half a request": rawPush(pushOf("a"))[:30], "a request": rawPush(pushOf("a"))} {
		conn := dial(t, address)
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
}

// TestManyCallers checks that a push leaves no state that a concurrent connection could see.
func TestManyCallers(t *testing.T) {
	const callers, pushes = 8, 200
	service := &fakeService{push: func(_ context.Context, cmd *logic.PushCommand) (*logic.PushResult, error) {
		return &logic.PushResult{Users: []logic.UserResult{{User: strings.Trim(string(cmd.Body), `"`)}}}, nil
	}}
	_, address := startServer(t, newHarness(t, httpapi.Config{}, service).handler, nil)
	failed := make(chan error, callers)
	for caller := range callers {
		go func() { failed <- pushInTurn(address, caller, pushes) }()
	}
	for range callers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

// pushInTurn sends pushes over one connection, one after another. It returns an error if an answer
// belongs to another push.
func pushInTurn(address string, caller, pushes int) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	for n := range pushes {
		message := strings.Repeat(strconv.Itoa(caller), n+1)
		if _, err := io.WriteString(conn, rawPush(pushOf(message))); err != nil {
			return err
		}
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(response.Body)
		if err != nil || !strings.Contains(string(text), `"`+message+`"`) {
			return fmt.Errorf("caller %d was answered %s, %w", caller, text, err)
		}
	}
	return nil
}

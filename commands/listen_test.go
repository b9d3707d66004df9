package commands_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"imgo/commands"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/transport"
)

// comet is a scripted comet on TCP. It sends the remaining messages to every connection and records
// the acknowledgements.
type comet struct {
	t        *testing.T
	listener net.Listener

	mu       sync.Mutex
	auths    []map[string]any
	acked    int
	messages [][]byte // packets to send to the next connection
	refuse   string   // the body of the disconnect packet (op 6) for the next connections; empty means none
	http     bool     // answer as the API does
	dropOnce bool     // the first connection ends after its messages
	done     sync.WaitGroup
}

func newComet(t *testing.T, messages ...[]byte) *comet {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &comet{t: t, listener: listener, messages: messages}
	c.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.done.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() { listener.Close(); c.done.Wait() })
	return c
}

func (c *comet) serve(conn net.Conn) {
	defer conn.Close()
	c.mu.Lock()
	http := c.http
	c.mu.Unlock()
	if http {
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"))
		return
	}
	r := bufio.NewReader(conn)
	var header [protocol.HeaderV2]byte
	write := func(op, seq int32, id uint64, body []byte) {
		// An error means that the client has gone, which the read below notices.
		_, _ = conn.Write(transport.AppendPacket(nil, 2, protocol.HeaderV2, op, seq, id, body))
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return
		}
		p, err := transport.ReadPacket(r, &header, 1<<20)
		if err != nil {
			return
		}
		switch p.Op {
		case protocol.OpAuth:
			auth := map[string]any{}
			if err := json.Unmarshal(p.Body, &auth); err != nil {
				c.t.Error(err)
			}
			c.mu.Lock()
			c.auths = append(c.auths, auth)
			refuse, messages, drop := c.refuse, c.messages, c.dropOnce
			c.messages, c.dropOnce = nil, false
			c.mu.Unlock()
			if refuse != "" {
				write(protocol.OpDisconnect, 0, 0, []byte(refuse))
				return
			}
			write(protocol.OpAuthReply, p.Seq, 0, []byte(`{"session":"s","heartbeat":60,"pending":2}`))
			for _, m := range messages {
				_, _ = conn.Write(m)
			}
			if drop {
				c.mu.Lock()
				c.messages = messages
				c.mu.Unlock()
				return
			}
		case protocol.OpAck:
			c.mu.Lock()
			c.acked += len(p.Body) / 8
			c.mu.Unlock()
			if p.Seq != 0 {
				write(protocol.OpAckReply, p.Seq, 0, nil)
			}
		}
	}
}

func (c *comet) state() (acked int, auths []map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.acked, c.auths
}

func message(id uint64, body string) []byte {
	return transport.AppendPacket(nil, 2, protocol.HeaderV2, protocol.OpMessage, 0, id, []byte(body))
}

// apiFor returns a fake API that makes tokens and lists a node with the address of c.
func apiFor(t *testing.T, c *comet) *server {
	return newServer(t, map[string]answer{
		"GET /v1/nodes":          {200, `{"nodes":[{"name":"n","clients":{"tcp":"` + c.listener.Addr().String() + `"}}]}`},
		"POST /v1/tokens":        {201, `{"token":"own","user":"123","expires_ms":99999999999999}`},
		"POST /v1/tokens/revoke": {200, `{"revoked":1}`},
	})
}

func TestListenAsAUser(t *testing.T) {
	c := newComet(t, message(1, `{"test":1}`), message(2, "plain"), message(0, "\xff"))
	s := apiFor(t, c)
	r := imgo(t, s, "", "listen", "--user", "123", "--count", "3", "--device", "phone", "--room", "lobby", "--op", "1000")
	r.want(t, 0, "{\"test\":1}\nplain\nbase64:/w==\n")
	if !strings.Contains(r.stderr, "connected to "+c.listener.Addr().String()) || !strings.Contains(r.stderr, "2 messages waiting") {
		t.Errorf("stderr %q", r.stderr)
	}
	acked, auths := c.state()
	if acked != 2 {
		t.Errorf("%d messages acknowledged, want 2", acked)
	}
	want := []map[string]any{{"token": "own", "device": "phone", "platform": "cli", "ack": true, "rooms": []any{"lobby"},
		"accepts": []any{1000.0}}}
	if diff := cmp.Diff(want, auths); diff != "" {
		t.Errorf("auth: %s", diff)
	}
	last := s.requests[len(s.requests)-1]
	if diff := cmp.Diff(map[string]any{"token": "own", "close": false}, last.Body); diff != "" || last.Path != "/v1/tokens/revoke" {
		t.Errorf("its token was not revoked: %v", last)
	}
}

func TestListenAsJSON(t *testing.T) {
	c := newComet(t, message(281474976710657, `{"a": 1}`), message(2, "plain"), message(0, "\xff"), message(0, "\"\xff\""))
	imgo(t, apiFor(t, c), "", "listen", "--token", "t", "--count", "4", "--json").want(t, 0,
		`{"id":"281474976710657","op":5,"body":{"a":1}}`+"\n"+`{"id":"2","op":5,"body":"plain"}`+"\n"+`{"op":5,"body":{"base64":"/w=="}}`+"\n"+
			`{"op":5,"body":{"base64":"Iv8i"}}`+"\n")
}

// TestListenOnAScreen checks that a message cannot control the terminal that shows it.
func TestListenOnAScreen(t *testing.T) {
	for _, screen := range []bool{true, false} {
		c := newComet(t, message(1, "\x1b]0;owned\x07red \x1b[31mé\ttab\u009b2J"))
		var stdout bytes.Buffer
		err := commands.Run(t.Context(), commands.Options{
			Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: io.Discard, Screen: screen,
			Serve: func(*cli.Context) error { return nil },
		}, []string{"imgo", "listen", "--token", "t", "--count", "1", "--connect", c.listener.Addr().String()})
		want := "\x1b]0;owned\x07red \x1b[31mé\ttab\u009b2J\n"
		if screen {
			want = `\x1b]0;owned\ared \x1b[31mé` + "\t" + `tab\u009b2J` + "\n"
		}
		if err != nil || stdout.String() != want {
			t.Errorf("screen %v: %q, %v", screen, stdout.String(), err)
		}
	}
}

// TestListenAtTheAPI checks the message for somebody who took the port of the API for that of clients.
func TestListenAtTheAPI(t *testing.T) {
	c := newComet(t)
	c.mu.Lock()
	c.http = true
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr lockedBuffer
	done := make(chan error, 1)
	go func() {
		done <- commands.Run(ctx, commands.Options{
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr, Serve: func(*cli.Context) error { return nil },
		}, []string{"imgo", "listen", "--token", "t", "--connect", c.listener.Addr().String()})
	}()
	for end := time.Now().Add(time.Minute); !strings.Contains(stderr.String(), "answers in HTTP"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("stderr %q", stderr.String())
		}
	}
	cancel()
	<-done
}

// lockedBuffer is a bytes.Buffer that is safe for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestListenReconnectsAndPrintsOnce(t *testing.T) {
	c := newComet(t, message(1, "one"), message(2, "two"))
	c.dropOnce = true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out, err := io.Pipe()
	var stderr bytes.Buffer
	result := make(chan error, 1)
	go func() {
		result <- commands.Run(ctx, commands.Options{
			Stdin: strings.NewReader(""), Stdout: err, Stderr: &stderr, Serve: func(*cli.Context) error { return nil },
		}, []string{"imgo", "listen", "--token", "t", "--connect", c.listener.Addr().String()})
	}()
	lines := bufio.NewScanner(out)
	for _, want := range []string{"one", "two"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q", lines.Text(), want)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if acked, auths := c.state(); len(auths) == 2 && acked >= 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it did not come back and acknowledge")
		}
	}
	cancel() // as Ctrl-C does
	if err := <-result; commands.ExitCode(err) != 0 {
		t.Errorf("interrupted: %v", err)
	}
	err.Close()
	if lines.Scan() {
		t.Errorf("printed again: %q", lines.Text())
	}
	if text := stderr.String(); !strings.Contains(text, "trying again in") || strings.Count(text, "connected to") != 2 {
		t.Errorf("stderr %q", text)
	}
}

func TestListenNoAck(t *testing.T) {
	c := newComet(t, message(1, "one"))
	imgo(t, apiFor(t, c), "", "listen", "--token", "t", "--no-ack", "--count", "1").want(t, 0, "one\n")
	if acked, _ := c.state(); acked != 0 {
		t.Errorf("%d messages acknowledged", acked)
	}
}

func TestListenRefused(t *testing.T) {
	c := newComet(t)
	c.refuse = `{"code":3501,"reason":"the token is not known","reconnect":false}`
	imgo(t, apiFor(t, c), "", "listen", "--token", "t").
		wantError(t, 1, "the token is not known (3501)", "imgo token new")
}

func TestListenWithoutAnAPI(t *testing.T) {
	closed := waittest.FreeAddress(t)
	imgo(t, nil, "", "listen", "--user", "123", "--server", closed).wantError(t, 1, "is imgo running?")
	// With --token and --connect the command needs no API.
	c := newComet(t, message(1, "one"))
	imgo(t, nil, "", "listen", "--token", "t", "--count", "1", "--server", closed, "--connect", c.listener.Addr().String()).want(t, 0, "one\n")
}

func TestListenAddresses(t *testing.T) {
	// If a listen address means every interface, the client uses the host of the server.
	c := newComet(t, message(1, "one"))
	_, port, err := net.SplitHostPort(c.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := apiFor(t, c)
	for _, address := range []string{":" + port, "0.0.0.0:" + port, "[::]:" + port, "tcp://:" + port} {
		c.mu.Lock()
		c.messages = [][]byte{message(1, "one")}
		c.mu.Unlock()
		s.answers["GET /v1/nodes"] = answer{200, `{"nodes":[{"name":"l"},{"name":"n","clients":{"tcp":"` + address + `"}}]}`}
		imgo(t, s, "", "listen", "--token", "t", "--count", "1").want(t, 0, "one\n")
	}
	s.answers["GET /v1/nodes"] = answer{200, `{"nodes":[]}`}
	imgo(t, s, "", "listen", "--token", "t").wantError(t, 1, "--connect")
}

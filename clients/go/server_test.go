package imgoclient_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	imgoclient "imgo/clients/go"
	"imgo/clients/go/raw"
)

// TestMain fails if goroutines are left when all tests are over.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leaked(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines are left:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // the tests are a program of their own
}

// leaked waits until the goroutines of the tests have ended. It returns the stacks of those that do not.
func leaked() string {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for deadline := time.Now().Add(testTimeout); ; runtime.Gosched() {
		buf := make([]byte, 1<<20)
		var left []string
		for _, stack := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")[1:] {
			if !strings.Contains(stack, "os/signal.") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// diff returns "" if the values are equal, and else both.
func diff(want, got any) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return fmt.Sprintf("got %+v, want %+v", got, want)
}

// testTimeout bounds every wait of these tests. It is far longer than any correct step takes.
const testTimeout = time.Minute

// server is a scripted server. Each test acts as the comet on the connections that it accepts.
type server struct {
	t        *testing.T
	address  string
	accepted chan *peer
}

// peer is the server side of one connection.
type peer struct {
	t     *testing.T
	read  func() (raw.Packet, error)
	write func([]byte) error
	close func()
	// closeWith sends a close frame (WebSocket only).
	closeWith func(code int, reason string)
	auth      auth
}

// auth is the body of an auth packet.
type auth struct {
	Token    string   `json:"token"`
	Device   string   `json:"device"`
	Key      string   `json:"key"`
	Platform string   `json:"platform"`
	Ack      bool     `json:"ack"`
	Rooms    []string `json:"rooms"`
	Accepts  []int32  `json:"accepts"`
}

// newServer starts a server for "tcp" or "ws".
func newServer(t *testing.T, network string) *server {
	t.Helper()
	s := &server{t: t, accepted: make(chan *peer, 16)}
	if network == "ws" {
		s.serveWS()
		return s
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			r := bufio.NewReader(conn)
			s.accepted <- &peer{
				t: t,
				read: func() (raw.Packet, error) {
					if err := conn.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
						return raw.Packet{}, err
					}
					return raw.ReadPacket(r, 1<<20)
				},
				write: func(b []byte) error { _, err := conn.Write(b); return err },
				close: func() { conn.Close() },
			}
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return s
}

func (s *server) serveWS() {
	ctx, cancel := context.WithCancel(context.Background())
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/sub" {
			http.NotFound(w, r)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			s.t.Error(err)
			return
		}
		over := make(chan struct{})
		var once sync.Once
		end := func() { once.Do(func() { close(over) }) }
		s.accepted <- &peer{
			t: s.t,
			read: func() (raw.Packet, error) {
				ctx, cancel := context.WithTimeout(ctx, testTimeout)
				defer cancel()
				_, data, err := conn.Read(ctx)
				if err != nil {
					return raw.Packet{}, err
				}
				p, _, err := raw.DecodePacket(data, 1<<20)
				return p, err
			},
			write: func(b []byte) error { return conn.Write(ctx, websocket.MessageBinary, b) },
			close: func() { conn.CloseNow(); end() },
			closeWith: func(code int, reason string) {
				if err := conn.Close(websocket.StatusCode(code), reason); err != nil {
					s.t.Logf("server: close: %v", err)
				}
				end()
			},
		}
		select {
		case <-over:
		case <-ctx.Done():
			conn.CloseNow()
		}
	}))
	s.address = strings.Replace(web.URL, "http://", "ws://", 1)
	s.t.Cleanup(func() { cancel(); web.Close() })
}

// accept waits for the next connection and its auth packet.
func (s *server) accept() *peer {
	s.t.Helper()
	select {
	case p := <-s.accepted:
		packet := p.expect(raw.OpAuth)
		if packet.Version != 2 {
			s.t.Errorf("the auth packet has version %d", packet.Version)
		}
		if err := json.Unmarshal(packet.Body, &p.auth); err != nil {
			s.t.Fatalf("auth body %q: %v", packet.Body, err)
		}
		return p
	case <-time.After(testTimeout):
		s.t.Fatal("nobody connected")
		return nil
	}
}

// welcome accepts the next connection and sends the auth reply.
func (s *server) welcome() *peer {
	s.t.Helper()
	p := s.accept()
	p.send(raw.OpAuthReply, 1, 0, `{"session":"test-1","heartbeat":60,"pending":3}`)
	return p
}

// none checks that no client connects within the time.
func (s *server) none(within time.Duration) {
	s.t.Helper()
	select {
	case <-s.accepted:
		s.t.Error("the client came back")
	case <-time.After(within):
	}
}

func (p *peer) send(op, seq int32, id uint64, body string) {
	p.t.Helper()
	if err := p.write(raw.AppendPacket(nil, raw.Packet{Long: true, Op: op, Seq: seq, ID: id, Body: []byte(body)})); err != nil {
		p.t.Fatalf("server: send op %d: %v", op, err)
	}
}

// push sends kept messages. The body of each is its id.
func (p *peer) push(ids ...uint64) {
	p.t.Helper()
	for _, id := range ids {
		p.send(raw.OpMessage, 0, id, fmt.Sprint(id))
	}
}

// expect reads packets until one has the operation op. It ignores heartbeats.
func (p *peer) expect(op int32) raw.Packet {
	p.t.Helper()
	for {
		packet, err := p.read()
		if err != nil {
			p.t.Fatalf("server: wait for op %d: %v", op, err)
		}
		if packet.Op == op {
			return packet
		}
		if packet.Op != raw.OpHeartbeat {
			p.t.Fatalf("server: got op %d, want %d", packet.Op, op)
		}
	}
}

// expectAcks reads ack packets until it has n ids. It replies to packets that ask for a reply.
func (p *peer) expectAcks(n int) []uint64 {
	p.t.Helper()
	var ids []uint64
	for len(ids) < n {
		packet := p.expect(raw.OpAck)
		if len(packet.Body)%8 != 0 {
			p.t.Fatalf("server: ack body of %d bytes", len(packet.Body))
		}
		for b := packet.Body; len(b) > 0; b = b[8:] {
			ids = append(ids, binary.BigEndian.Uint64(b))
		}
		if packet.Seq != 0 {
			p.send(raw.OpAckReply, packet.Seq, 0, "")
		}
	}
	return ids
}

// running is a client whose Run is active.
type running struct {
	*imgoclient.Client
	t        *testing.T
	messages chan imgoclient.Message
	lost     chan error
	live     chan imgoclient.Session
	outbox   chan imgoclient.Published
	cancel   context.CancelFunc
	result   chan error
}

// start runs a client against s. change, if not nil, may change its configuration.
func start(t *testing.T, s *server, change func(*imgoclient.Config)) *running {
	t.Helper()
	r := &running{
		t: t, messages: make(chan imgoclient.Message, 1000), lost: make(chan error, 100),
		live: make(chan imgoclient.Session, 100), outbox: make(chan imgoclient.Published, 2000), result: make(chan error, 1),
	}
	cfg := imgoclient.Config{
		Address:    s.address,
		Token:      "secret",
		MinBackoff: time.Millisecond,
		MaxBackoff: 10 * time.Millisecond,
		AckDelay:   time.Millisecond,
		OnMessage: func(_ context.Context, m imgoclient.Message) error {
			r.messages <- m
			return nil
		},
		OnPublished: func(p imgoclient.Published) { r.outbox <- p },
		OnState: func(to imgoclient.StateChange) {
			switch to.State {
			case imgoclient.Live:
				r.live <- to.Session
			case imgoclient.Waiting:
				r.lost <- to.Err
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	client, err := imgoclient.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Client = client
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.result <- client.Run(ctx) }()
	t.Cleanup(cancel)
	return r
}

func (r *running) expect(ids ...uint64) {
	r.t.Helper()
	for _, id := range ids {
		select {
		case m := <-r.messages:
			if m.ID != id || m.Kept() && string(m.Body) != fmt.Sprint(id) {
				r.t.Fatalf("got message %d %q, want %d", m.ID, m.Body, id)
			}
		case <-time.After(testTimeout):
			r.t.Fatalf("message %d did not come", id)
		}
	}
}

// publish publishes a message and returns its number.
func (r *running) publish(op int32, body string) uint64 {
	r.t.Helper()
	number, err := r.Publish(context.Background(), op, []byte(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return number
}

// gone waits until a message has left the outbox.
func (r *running) gone() imgoclient.Published {
	r.t.Helper()
	select {
	case p := <-r.outbox:
		return p
	case <-time.After(testTimeout):
		r.t.Fatal("no message has left the outbox")
		return imgoclient.Published{}
	}
}

func (r *running) nothing() {
	r.t.Helper()
	select {
	case m := <-r.messages:
		r.t.Errorf("message %d came", m.ID)
	default:
	}
}

// wait returns the result of Run.
func (r *running) wait() error {
	r.t.Helper()
	select {
	case err := <-r.result:
		return err
	case <-time.After(testTimeout):
		r.t.Fatal("Run did not return")
		return nil
	}
}

// stop cancels the context of the client and waits for Run.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err := r.wait(); err != nil {
		r.t.Errorf("Run: %v", err)
	}
}

var errHandling = errors.New("cannot handle this now")

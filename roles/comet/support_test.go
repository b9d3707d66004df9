package comet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"imgo/envelope"
	"imgo/internal/wait/waittest"
	"imgo/protocol"
	"imgo/roles/comet"
	"imgo/transport"
	"imgo/transport/pipe"
	"imgo/transport/tcp"
	"imgo/transport/transporttest"
	"imgo/transport/ws"
)

// goroutines runs all tests with one goroutine for each connection. make test runs them with epoll,
// make race without it.
var goroutines = flag.Bool("goroutines", false, "no epoll")

// single runs all tests with one system call for each write. make race does that.
var single = flag.Bool("single", false, "no io_uring")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

var nopLog = zerolog.Nop()

// fakeLogic is a Logic that admits every client whose token is not "bad". The token is
// the name of the user. fakeLogic records its calls. A test may replace its functions.
type fakeLogic struct {
	connect  func(*envelope.ConnectRequest) (*envelope.ConnectReply, error)
	catchUp  func(*envelope.CatchUpRequest) error
	ack      func(*envelope.AckRequest) error
	parts    func(context.Context, []string) *envelope.PartsReply // of Ack and Detach about users
	ackParts func(*envelope.AckRequest) *envelope.PartsReply      // of Ack, in place of parts
	announce func(*envelope.AnnounceRequest) (*envelope.AnnounceReply, error)
	opened   func(context.Context, *envelope.RoomOpened) error
	join     func(*envelope.JoinRequest) (*envelope.JoinReply, error)
	refresh  func(*envelope.RefreshRequest) (*envelope.RefreshReply, error)
	read     func(*envelope.ReadRequest) (*envelope.ReadReply, error)
	upstream func(context.Context, *envelope.UpstreamRequest) (*envelope.UpstreamReply, error)

	mu        sync.Mutex
	connects  []*envelope.ConnectRequest
	catchUps  []*envelope.CatchUpRequest
	acks      []*envelope.Ack
	ackCalls  int
	detached  []*envelope.Detached
	announced []*envelope.AnnounceRequest
}

func (l *fakeLogic) Connect(_ context.Context, r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	l.mu.Lock()
	l.connects = append(l.connects, r)
	l.mu.Unlock()
	if l.connect != nil {
		return l.connect(r)
	}
	return admit(r)
}

// admit is the answer of fakeLogic to Connect, unless a test replaces it.
func admit(r *envelope.ConnectRequest) (*envelope.ConnectReply, error) {
	if r.Token == "bad" {
		return nil, envelope.Errorf(envelope.CodeUnauthorized, "the token is not known")
	}
	user := r.Token
	if user == "" {
		user = r.Mid
	}
	return &envelope.ConnectReply{User: user, Device: r.GetSession().GetDevice(), Partition: 7}, nil
}

func (l *fakeLogic) CatchUp(_ context.Context, r *envelope.CatchUpRequest) error {
	l.mu.Lock()
	l.catchUps = append(l.catchUps, r)
	l.mu.Unlock()
	if l.catchUp != nil {
		return l.catchUp(r)
	}
	return nil
}

func (l *fakeLogic) Ack(ctx context.Context, r *envelope.AckRequest) (*envelope.PartsReply, error) {
	if l.ack != nil {
		if err := l.ack(r); err != nil {
			return nil, err
		}
	}
	reply := l.failed(ctx, usersOf(r.Acks))
	if l.ackParts != nil {
		reply = l.ackParts(r)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ackCalls++
	for _, a := range r.Acks {
		if !failedFor(reply, a.User) {
			l.acks = append(l.acks, a)
		}
	}
	return reply, nil
}

func (l *fakeLogic) Detach(ctx context.Context, r *envelope.DetachRequest) (*envelope.PartsReply, error) {
	reply := l.failed(ctx, usersOf(r.Sessions))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range r.Sessions {
		if !failedFor(reply, d.User) {
			l.detached = append(l.detached, d)
		}
	}
	return reply, nil
}

// failed returns the answer to a call about users.
func (l *fakeLogic) failed(ctx context.Context, users []string) *envelope.PartsReply {
	if l.parts == nil {
		return &envelope.PartsReply{}
	}
	return l.parts(ctx, users)
}

func usersOf[T interface{ GetUser() string }](items []T) (users []string) {
	for _, item := range items {
		users = append(users, item.GetUser())
	}
	return users
}

// failedFor reports whether a call failed for a user.
func failedFor(reply *envelope.PartsReply, user string) bool {
	return len(reply.GetFailed()) > 0 && slices.Contains(reply.Failed, envelope.Partition(user, int(reply.Partitions)))
}

func (l *fakeLogic) Announce(_ context.Context, r *envelope.AnnounceRequest) (*envelope.AnnounceReply, error) {
	l.mu.Lock()
	l.announced = append(l.announced, proto.Clone(r).(*envelope.AnnounceRequest))
	l.mu.Unlock()
	if l.announce != nil {
		return l.announce(r)
	}
	return &envelope.AnnounceReply{}, nil
}

func (l *fakeLogic) RoomOpened(ctx context.Context, r *envelope.RoomOpened) error {
	if l.opened != nil {
		return l.opened(ctx, r)
	}
	return nil
}

func (l *fakeLogic) Join(_ context.Context, r *envelope.JoinRequest) (*envelope.JoinReply, error) {
	if l.join != nil {
		return l.join(r)
	}
	return &envelope.JoinReply{}, nil
}

func (l *fakeLogic) Read(_ context.Context, r *envelope.ReadRequest) (*envelope.ReadReply, error) {
	if l.read != nil {
		return l.read(r)
	}
	return &envelope.ReadReply{}, nil
}

// Refresh takes the name of the session's user for a good token, as Connect does.
func (l *fakeLogic) Refresh(_ context.Context, r *envelope.RefreshRequest) (*envelope.RefreshReply, error) {
	if l.refresh != nil {
		return l.refresh(r)
	}
	if r.GetToken() != r.GetSession().GetUser() {
		return nil, envelope.Errorf(envelope.CodeForbidden, "the new token is another user's or device's than the session's")
	}
	return &envelope.RefreshReply{}, nil
}

func (l *fakeLogic) Upstream(ctx context.Context, r *envelope.UpstreamRequest) (*envelope.UpstreamReply, error) {
	l.mu.Lock()
	upstream := l.upstream
	l.mu.Unlock()
	if upstream != nil {
		return upstream(ctx, r)
	}
	return &envelope.UpstreamReply{}, nil
}

// connected returns the request of session number n, counted from 0.
func (l *fakeLogic) connected(n int) *envelope.ConnectRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connects[n]
}

// ackCount counts the calls of Ack that succeeded.
func (l *fakeLogic) ackCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ackCalls
}

// firstAck returns the first acknowledgement.
func (l *fakeLogic) firstAck() *envelope.Ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks[0]
}

// session returns the id of session number n, counted from 0.
func (l *fakeLogic) session(n int) uint64 {
	return l.connected(n).Session.Address.Session
}

func (l *fakeLogic) asked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.catchUps)
}

func (l *fakeLogic) lastAsked() *envelope.CatchUpRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.catchUps[len(l.catchUps)-1]
}

// acked lists the acknowledged ids in order.
func (l *fakeLogic) acked() []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []uint64
	for _, a := range l.acks {
		ids = append(ids, a.Ids...)
	}
	return ids
}

// ackedBy returns how many ids each user has acknowledged.
func (l *fakeLogic) ackedBy() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]int)
	for _, a := range l.acks {
		counts[a.User] += len(a.Ids)
	}
	return counts
}

func (l *fakeLogic) gone() []*envelope.Detached {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*envelope.Detached(nil), l.detached...)
}

// server is a running Comet.
type server struct {
	*comet.Comet
	t       *testing.T
	logic   *fakeLogic
	metrics *prometheus.Registry
	stop    func() error // May be called twice. It returns the result of Run.
}

// start runs a comet until the test ends. change may be nil.
func start(t *testing.T, logic *fakeLogic, change func(*comet.Config)) *server {
	t.Helper()
	cfg := comet.DefaultConfig()
	cfg.Name = "c1"
	cfg.AckInterval = 5 * time.Millisecond
	cfg.AnnounceInterval = 10 * time.Millisecond
	cfg.Epoll, cfg.IOUring = !*goroutines, !*single
	if change != nil {
		change(&cfg)
	}
	s := &server{t: t, logic: logic, metrics: prometheus.NewRegistry()}
	var err error
	if s.Comet, err = comet.New(cfg, logic, nopLog, s.metrics); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	eventually(t, "the comet runs", func() bool { return s.Ready() == nil })
	return s
}

// listening configures both listeners.
func listening(cfg *comet.Config) { listenOn(cfg, "127.0.0.1:0", "127.0.0.1:0") }

func listenOn(cfg *comet.Config, tcpAddr, wsAddr string) {
	cfg.Listen = []transport.ListenFunc{overTCP(tcpAddr), overWS(wsAddr)}
}

func overTCP(addr string) transport.ListenFunc {
	return func(cfg transport.ListenConfig) (transport.Listener, error) {
		cfg.Addr = addr
		return tcp.Listen(cfg)
	}
}

func overWS(addr string, origins ...string) transport.ListenFunc {
	return func(cfg transport.ListenConfig) (transport.Listener, error) {
		cfg.Addr = addr
		return ws.Listen(ws.Config{ListenConfig: cfg, Origins: origins})
	}
}

// metric sums a counter or gauge over the labels that match, "name=value".
func (s *server) metric(name string, labels ...string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			have := map[string]bool{}
			for _, l := range m.GetLabel() {
				have[l.GetName()+"="+l.GetValue()] = true
			}
			for _, want := range labels {
				if !have[want] {
					continue metrics
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// push pushes deliveries in one call.
func (s *server) push(deliveries ...*envelope.Delivery) {
	s.t.Helper()
	if _, err := s.Push(context.Background(), &envelope.PushRequest{Deliveries: deliveries}); err != nil {
		s.t.Fatal(err)
	}
}

// kept makes a kept message for session number n.
func (s *server) kept(n int, id, prev uint64) *envelope.Delivery {
	return &envelope.Delivery{
		Id: id, Op: protocol.OpMessage, Body: fmt.Appendf(nil, `"k%d"`, id), TimeMs: time.Now().UnixMilli(),
		To: []*envelope.Target{{Session: s.logic.session(n), Prev: prev}},
	}
}

// live makes a message for session number n that is not kept.
func (s *server) live(n int, op int32, body string) *envelope.Delivery {
	return &envelope.Delivery{Op: op, Body: []byte(body), To: []*envelope.Target{{Session: s.logic.session(n)}}}
}

// backlog makes the answer to a catch-up of session number n.
func (s *server) backlog(n int, after, upTo uint64, more bool, ids ...uint64) *envelope.Delivery {
	b := &envelope.Backlog{To: &envelope.Address{Comet: "c1", Session: s.logic.session(n)}, After: after, UpTo: upTo, More: more}
	for _, id := range ids {
		b.Messages = append(b.Messages, &envelope.Kept{Id: id, Op: protocol.OpMessage, Body: fmt.Appendf(nil, `"k%d"`, id)})
	}
	return &envelope.Delivery{Backlog: b}
}

func (s *server) nudge(n int, newest uint64) *envelope.Delivery {
	return &envelope.Delivery{Nudge: &envelope.Nudge{To: []*envelope.NudgeTarget{
		{To: &envelope.Address{Comet: "c1", Session: s.logic.session(n)}, Newest: newest},
	}}}
}

func (s *server) kick(n int, code protocol.CloseCode, reason string) *envelope.Delivery {
	return &envelope.Delivery{Kick: &envelope.Kick{
		To: []*envelope.Address{{Comet: "c1", Session: s.logic.session(n)}}, Code: int32(code), Reason: reason,
	}}
}

// client is a raw client.
type client struct {
	transporttest.Client
	t    *testing.T
	text bool
	pipe *pipe.Client // nil without a pipe
	v2   bool         // it has sent an auth packet of version 2
}

// dialPipe connects in memory.
func (s *server) dialPipe(o pipe.Options) *client {
	s.t.Helper()
	end, conn := pipe.New(o)
	s.Serve(conn)
	s.t.Cleanup(func() { _ = end.Close() })
	return &client{Client: &transporttest.Pipe{Client: end, Text: o.Text}, t: s.t, text: o.Text, pipe: end}
}

func (s *server) dialTCP() *client {
	s.t.Helper()
	return &client{Client: &transporttest.Stream{Conn: dial(s.t, s.Addr(tcp.Scheme))}, t: s.t}
}

func (s *server) dialWS(text bool) *client {
	s.t.Helper()
	upgraded, resp, err := transporttest.Upgrade(dial(s.t, s.Addr(ws.Scheme)), "/sub")
	if err != nil {
		s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 101 {
		s.t.Fatalf("upgrade answered %s", resp.Status)
	}
	upgraded.Text = text
	return &client{Client: upgraded, t: s.t, text: text}
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr.String(), transporttest.WaitLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func stream(conn net.Conn) transporttest.Client { return &transporttest.Stream{Conn: conn} }

// dialHost connects to addr's port on another host. It returns nil if that fails.
func dialHost(t *testing.T, host string, addr net.Addr) net.Conn {
	t.Helper()
	port := fmt.Sprint(addr.(*net.TCPAddr).Port)
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, port), transporttest.WaitLimit)
	if err != nil {
		return nil
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wire puts a packet together from hex digits, spaces ignored, and a body.
func wire(header, body string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(header, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b) + body
}

// put sends one frame: a binary packet or a JSON object.
func (c *client) put(frame string) {
	c.t.Helper()
	if err := c.Send(c.Frame([]byte(frame))); err != nil {
		c.t.Fatalf("sending %q: %v", frame, err)
	}
}

// want reads one frame and compares its bytes.
func (c *client) want(frame string) {
	c.t.Helper()
	b, err := c.Next()
	if err != nil {
		c.t.Fatalf("waiting for %q: %v", frame, err)
	}
	if !bytes.Equal(b, []byte(frame)) {
		c.t.Fatalf("got  %q\nwant %q", b, frame)
	}
}

// wantEnd expects nothing but the end of the connection. A WebSocket or a pipe must
// end with this code, if it ends with one.
func (c *client) wantEnd(code protocol.CloseCode) {
	c.t.Helper()
	b, err := c.Next()
	var closed *transporttest.Closed
	switch {
	case err == nil:
		c.t.Fatalf("got %q, want the end of the connection", b)
	case errors.As(err, &closed):
		if closed.Code != code {
			c.t.Fatalf("closed with %d %q, want %d", closed.Code, closed.Reason, code)
		}
	case !errors.Is(err, io.EOF):
		c.t.Fatalf("the connection ended with %v", err)
	}
}

// send sends a packet in the client's form. The body of a text frame is JSON.
func (c *client) send(version int16, op, seq int32, body string) {
	c.t.Helper()
	c.v2 = c.v2 || version == protocol.Version2 && op == protocol.OpAuth
	if !c.text {
		c.put(string(transport.AppendPacket(nil, version, protocol.HeaderV1, op, seq, 0, []byte(body))))
		return
	}
	frame := fmt.Sprintf(`{"ver":%d,"op":%d,"seq":%d`, version, op, seq)
	if body != "" {
		frame += `,"body":` + body
	}
	c.put(frame + "}")
}

// receive reads one packet. Of a text frame the body is its JSON.
func (c *client) receive() transport.Packet {
	c.t.Helper()
	p, err := c.next()
	if err != nil {
		c.t.Fatalf("waiting for a packet: %v", err)
	}
	return p
}

func (c *client) next() (transport.Packet, error) {
	b, err := c.Next()
	if err != nil {
		return transport.Packet{}, err
	}
	if c.text {
		return parseFrame(b)
	}
	p, rest, err := transport.DecodePacket(b, 1<<30)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes after a packet", len(rest))
	}
	return p, err
}

// parseFrame reads a server's text frame of one object.
func parseFrame(b []byte) (transport.Packet, error) {
	b = bytes.TrimSuffix(bytes.TrimPrefix(bytes.TrimSpace(b), []byte("[")), []byte("]"))
	return transport.ParseJSON(b, protocol.DefaultMaxBody)
}

// expect reads one packet and checks its operation, id and body.
func (c *client) expect(op int32, id uint64, body string) transport.Packet {
	c.t.Helper()
	p := c.receive()
	if p.Op != op || p.ID != id || string(p.Body) != body {
		c.t.Fatalf("got op %d id %d body %.80q, want op %d id %d body %.80q", p.Op, p.ID, p.Body, op, id, body)
	}
	return p
}

// closedWith reads the end of the connection. A client of version 2 gets op 6 before.
func (c *client) closedWith(code protocol.CloseCode) {
	c.t.Helper()
	if !c.v2 {
		c.wantEnd(code)
		return
	}
	p := c.receive()
	prefix := fmt.Sprintf(`{"code":%d,"reason":"`, code)
	suffix := fmt.Sprintf(`","reconnect":%t}`, code < 3500)
	if p.Op != protocol.OpDisconnect || !strings.HasPrefix(string(p.Body), prefix) || !strings.HasSuffix(string(p.Body), suffix) {
		c.t.Fatalf("got op %d body %q, want op 6 with code %d", p.Op, p.Body, code)
	}
	c.wantEnd(code)
}

// login authenticates a version-2 client. more has additional members of the auth object, each after a
// comma.
func (c *client) login(user, more string) {
	c.t.Helper()
	c.send(2, protocol.OpAuth, 1, fmt.Sprintf(`{"token":%q%s}`, user, more))
	if p := c.receive(); p.Op != protocol.OpAuthReply || p.Version != 2 {
		c.t.Fatalf("auth was answered with %+v %s", p, p.Body)
	}
}

// connected connects a version-2 client that acknowledges, over a pipe, as session
// number n. The session has all kept messages up to id upTo.
func (s *server) connected(n int, user string, upTo uint64) *client {
	s.t.Helper()
	c := s.dialPipe(pipe.Options{})
	c.login(user, `,"ack":true`)
	s.push(s.backlog(n, 0, upTo, false))
	return c
}

var eventually = waittest.Eventually

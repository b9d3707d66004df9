// Package admission brings client connections from accept to their session.
//
// It owns a connection until the client is admitted. It counts it against the limits of connections, reads up to the
// auth packet, and lets the client wait for its turn. Then one callback, Config.Admit, decides. It may leave the rest,
// PendingConnect.Finish, to a worker, so that this delays no other client. The package also has the workers that run
// whatever may wait, and frees connections that ended.
//
// It guarantees that clients are tried in the order in which they came, at no
// more than the connect rate, and no more at a time than logic answers soon. A
// client waits at most Config.MaxWait, and is refused at once if the connect
// rate alone makes it wait for longer. While logic gives no answer a few clients
// are tried about once a second, and the others wait. Clients that logic cannot decide about
// are tried again without delaying those that it does admit.
//
// Nothing in it waits on the goroutine that polls all connections. The package
// does not know what is in an auth packet, what a refused client is told, or
// what a session does.
package admission

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/transport"
)

// Reasons for which a client is not admitted, as PendingConnect.Err has them.
// Beside these it has the error of the connection, when the client left or sent
// something that is no auth packet (*transport.ProtocolError).
var (
	ErrMaxConnections   = errors.New("too many connections")
	ErrMaxPerAddress    = errors.New("too many connections from one address")
	ErrHandshakeTimeout = errors.New("no auth packet in time")
	ErrRate             = errors.New("too many clients connect at a time")
	ErrPacketBytes      = errors.New("the auth packets of the clients that wait take too much memory")
	ErrWait             = errors.New("no slot in time")
	ErrStopping         = errors.New("the server is stopping")
)

// PendingConnect is a client connection that is to be admitted or refused.
type PendingConnect struct {
	Conn transport.Conn
	// Packet is the auth packet. If the client is refused before it has sent one,
	// it is the last packet that it sent, without the body.
	Packet transport.Packet
	// Ignored is how many packets came before the auth packet.
	Ignored int
	// Header is that of the client's handshake. Admit sets it, for its later tries.
	Header map[string][]string
	// Started is when the auth packet was complete.
	Started time.Time
	// Arrival numbers the clients of a Controller in the order in which their auth packets came. It wraps around.
	Arrival uint32
	// Err is nil if the client is to be admitted. Otherwise it is the reason why
	// the client is to be refused.
	Err error
	// Answered says that logic has decided about the client. Admit sets it. A client that leaves, or whose auth packet
	// cannot be read, says nothing about logic.
	Answered bool
	// Session reads the connection from now on. Admit sets it, also for a session
	// that it refuses but that has still to say goodbye, and finds it when it is
	// called again after an error. If it is nil, the connection ends.
	Session Task
	// Finish, if it is not nil, is what is to be done before the session reads. A worker runs it. It may wait: the client
	// has no slot any more. Admit sets it when it returns nil.
	Finish Task
}

// Config configures a Controller. All fields are required but Rate and Burst.
type Config struct {
	// Admit makes a session of p, or refuses it. An error says that logic could
	// not decide, so p is to be tried again. If p.Err is set Admit returns nil and
	// must not wait, because the poller's goroutine may call it. Otherwise it may
	// wait until ctx is done.
	Admit func(ctx context.Context, p *PendingConnect) error
	// Context is the parent of the contexts that Admit gets.
	Context context.Context
	// CallTimeout bounds one call of Admit. An answer that takes longer than a
	// fifth of it counts as slow.
	CallTimeout time.Duration
	// HandshakeTimeout bounds the time from accept to a complete auth packet.
	HandshakeTimeout time.Duration
	// MaxWait bounds the time from a complete auth packet to the beginning of the
	// last try.
	MaxWait time.Duration
	// Rate is how many clients are admitted a second, with bursts of Burst. 0 or
	// less: no bound.
	Rate  float64
	Burst int

	Metrics Metrics
	Log     zerolog.Logger
}

// Metrics is what a Controller counts.
type Metrics struct {
	Connections  *prometheus.GaugeVec // open connections, by scheme
	Waiting      prometheus.Gauge     // clients in the queue
	AuthPackets  prometheus.Counter   // auth packets that came in time
	EarlyPackets prometheus.Counter   // packets before auth
}

// Controller admits clients. It is safe for concurrent use. Make it with New.
type Controller struct {
	cfg       Config
	limiter   *AcceptLimiter
	workers   *Workers
	queue     *queue
	deadlines *transport.SharedDeadline // for the auth packets

	mu     sync.Mutex
	closed bool           // no connection is taken any more
	open   sync.WaitGroup // connections

	callMu sync.Mutex
	call   context.Context // of the calls of Admit that begin before renewAt
	cancel context.CancelFunc
	// renewAt is when a new call context is due.
	renewAt time.Time
}

// New makes a Controller, which counts connections with limiter and runs what
// may wait on workers.
func New(cfg Config, limiter *AcceptLimiter, workers *Workers) *Controller {
	c := &Controller{cfg: cfg, limiter: limiter, workers: workers, deadlines: transport.NewSharedDeadline(cfg.HandshakeTimeout)}
	c.queue = newQueue(&c.cfg, workers)
	return c
}

// Serve takes conn over and returns at once.
func (c *Controller) Serve(conn transport.Conn) {
	if h := c.begin(conn); h != nil {
		go h.start()
	}
}

// Handle takes conn over. It returns at once if conn needs no goroutine, and
// otherwise when the connection has ended.
func (c *Controller) Handle(conn transport.Conn) {
	if h := c.begin(conn); h != nil {
		h.start()
	}
}

// begin counts a connection that Wait is to wait for. It returns nil if it
// refused conn, because the Controller is closed.
func (c *Controller) begin(conn transport.Conn) *handshake {
	h := &handshake{PendingConnect: PendingConnect{Conn: conn}, controller: c}
	h.poll, _ = conn.(transport.Pollable)
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.open.Add(1)
	}
	c.mu.Unlock()
	if closed {
		h.Err = ErrStopping
		_ = c.cfg.Admit(c.cfg.Context, &h.PendingConnect)
		return nil
	}
	c.cfg.Metrics.Connections.WithLabelValues(conn.Traits().Scheme).Inc()
	return h
}

// Release is the last call for a connection: it closes conn, if nobody has, and
// frees it. It never waits.
func (c *Controller) Release(conn transport.Conn) {
	_ = conn.Close(0, "")
	c.limiter.removeOpen(conn.Remote().Addr())
	c.cfg.Metrics.Connections.WithLabelValues(conn.Traits().Scheme).Dec()
	poll, ok := conn.(transport.Pollable)
	if !ok || poll.TryRelease() {
		c.open.Done()
		return
	}
	go func() { // because it may wait for the client to take note
		defer c.open.Done()
		poll.Release()
	}()
}

// Close refuses the clients that have no session yet, and those that come later.
func (c *Controller) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.deadlines.Stop()
	c.queue.close()
}

// Wait waits until every connection that was taken over is released. Call Close
// first.
func (c *Controller) Wait() {
	c.open.Wait()
	c.callMu.Lock()
	defer c.callMu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}

func (c *Controller) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// callContext returns a context for one call of Admit, which has at least seven
// eighths of CallTimeout. Calls share contexts, because one of its own costs
// each call a timer and five allocations.
func (c *Controller) callContext(now time.Time) context.Context {
	c.callMu.Lock()
	defer c.callMu.Unlock()
	if now.After(c.renewAt) {
		// The context before ends by its deadline: other calls may still use it.
		c.call, c.cancel = context.WithTimeout(c.cfg.Context, c.cfg.CallTimeout)
		c.renewAt = now.Add(c.cfg.CallTimeout / 8)
	}
	return c.call
}

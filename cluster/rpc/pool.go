package rpc

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"imgo/envelope"
)

const (
	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = 5 * time.Second
	// connectTime bounds one attempt to connect.
	connectTime = 3 * time.Second
	// dropTime is what calls have to end once their node is dropped.
	dropTime = 5 * time.Second
)

// PoolOptions are what a Pool is made of.
type PoolOptions struct {
	Security Security
	Log      zerolog.Logger
	// Metrics is where the metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// MaxMessage bounds one request or reply, in bytes; 0: 64 MiB.
	MaxMessage int
	// Dial makes connections; nil: TCP. For tests.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Pool has the connections to other nodes. Its methods are safe for concurrent
// use.
type Pool struct {
	log     zerolog.Logger
	metrics *metrics
	options []grpc.DialOption

	mu      sync.Mutex
	closed  bool
	peers   map[string]*Peer
	closing sync.WaitGroup // of peers that were dropped
	hurry   chan struct{}  // closed by Close: calls that run are cut off
}

// NewPool makes a pool without connections. An error is one of the security's
// files or of the registration of the metrics.
func NewPool(o PoolOptions) (*Pool, error) {
	p := &Pool{log: o.Log.With().Str("part", "rpc").Logger(), peers: make(map[string]*Peer), hurry: make(chan struct{})}
	creds, err := o.Security.client(p.log)
	if err != nil {
		return nil, err
	}
	if p.metrics, err = newMetrics(o.Metrics, "client"); err != nil {
		return nil, fmt.Errorf("register rpc's metrics: %w", err)
	}
	p.options = dialOptions(o, creds)
	return p, nil
}

func dialOptions(o PoolOptions, creds credentials.TransportCredentials) []grpc.DialOption {
	dial := o.Dial
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	limit := o.MaxMessage
	if limit <= 0 {
		limit = defaultMaxMessage
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // the caller knows better: perhaps another node is asked
		grpc.WithIdleTimeout(0), // the pool says when a connection goes
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTime,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(limit)),
	}
}

// Node is the node at addr (host:port): the same Peer every time until Keep
// drops it. It connects at the first call.
func (p *Pool) Node(addr string) *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if peer := p.peers[addr]; peer != nil {
		return peer
	}
	peer := newPeer(p, addr)
	if p.closed {
		peer.drop()
		return peer
	}
	p.peers[addr] = peer
	return peer
}

// Keep drops the nodes that are not at one of addrs. A call that runs may end
// (within 5 s); a new one by the old Peer fails with envelope.ErrUnavailable.
func (p *Pool) Keep(addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, peer := range p.peers {
		if slices.Contains(addrs, addr) {
			continue
		}
		delete(p.peers, addr)
		p.close(peer)
	}
}

// Close drops every node at once and returns when that is done. Later calls
// fail with envelope.ErrUnavailable.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.hurry)
		for _, peer := range p.peers {
			p.close(peer)
		}
		clear(p.peers)
	}
	p.mu.Unlock()
	p.closing.Wait()
}

// close ends a peer in the background; the caller holds mu.
func (p *Pool) close(peer *Peer) {
	conn, idle := peer.drop()
	if conn == nil {
		return
	}
	p.closing.Go(func() {
		bound := time.NewTimer(dropTime)
		defer bound.Stop()
		select {
		case <-idle:
		case <-bound.C:
		case <-p.hurry:
		}
		if err := conn.Close(); err != nil {
			p.log.Warn().Err(err).Str("node", peer.addr).Msg("connection to another node not closed cleanly")
		}
		peer.together.end()
	})
}

// Peer is another node. It and what its methods return can be compared: the
// same node is the same value. Safe for concurrent use.
type Peer struct {
	pool   *Pool
	addr   string
	logic  remoteLogic
	comet  remoteComet
	status remoteStatus

	together together

	mu      sync.Mutex
	conn    *grpc.ClientConn // nil until the first call
	dropped bool
	running int
	idle    chan struct{} // closed when dropped and nothing runs
}

func newPeer(pool *Pool, addr string) *Peer {
	p := &Peer{pool: pool, addr: addr, idle: make(chan struct{})}
	p.logic.peer, p.comet.peer, p.status.peer, p.together.peer = p, p, p, p
	return p
}

// Addr is where the node is called, host:port.
func (p *Peer) Addr() string { return p.addr }

// Router is the node's router; whether it has one shows when it is called.
func (p *Peer) Router() Router { return p.RouterOf(0) }

// RouterOf is the node's router as long as it is of a generation of the kept
// topic: calls to one of another fail with envelope.ErrUnavailable.
func (p *Peer) RouterOf(generation uint16) Router { return remoteRouter{p, generation} }

// Logic is the node's logic.
func (p *Peer) Logic() Logic { return &p.logic }

// Comet is the node's comet.
func (p *Peer) Comet() Comet { return &p.comet }

// Status is the node's status.
func (p *Peer) Status() Status { return &p.status }

// begin is the connection for one call, which must end by end.
func (p *Peer) begin() (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped {
		return nil, envelope.Errorf(envelope.CodeUnavailable, "call of %s: the node has left the cluster", p.addr)
	}
	if p.conn == nil {
		// passthrough: the address is for our dialer, not for gRPC's resolver.
		conn, err := grpc.NewClient("passthrough:///"+p.addr, p.pool.options...)
		if err != nil {
			return nil, envelope.Errorf(envelope.CodeUnavailable, "connect to %s: %v", p.addr, err)
		}
		p.conn = conn
	}
	p.running++
	return p.conn, nil
}

func (p *Peer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	if p.dropped && p.running == 0 {
		close(p.idle)
	}
}

// drop lets no call begin any more. conn is nil when there is none to close.
func (p *Peer) drop() (conn *grpc.ClientConn, idle <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dropped {
		p.dropped = true
		if p.running == 0 {
			close(p.idle)
		}
	}
	return p.conn, p.idle
}

// call makes one call by itself.
func (p *Peer) call(ctx context.Context, method string, req, rep message) error {
	return p.calling(ctx, method, func(ctx context.Context, conn *grpc.ClientConn) error {
		return p.invoke(ctx, conn, method, req, rep)
	})
}

// callTogether makes one call together with others, where the node knows that;
// generation is the one of the kept topic that it is of, 0: any.
func (p *Peer) callTogether(ctx context.Context, method string, generation uint16, req, rep message) error {
	return p.calling(ctx, method, func(ctx context.Context, conn *grpc.ClientConn) error {
		if goesTogether(req) {
			if err := p.together.call(ctx, conn, method, generation, req, rep); err != errSingly {
				return err
			}
		}
		return p.invoke(ofGeneration(ctx, generation), conn, method, req, rep)
	})
}

// calling has do make a call, which is counted and has a deadline.
func (p *Peer) calling(ctx context.Context, method string, do func(context.Context, *grpc.ClientConn) error) (err error) {
	began := time.Now()
	defer func() { p.pool.metrics.called(method, began, err) }()
	conn, err := p.begin()
	if err != nil {
		return err
	}
	defer p.end()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	return do(ctx, conn)
}

func (p *Peer) invoke(ctx context.Context, conn *grpc.ClientConn, method string, req, rep message) error {
	if err := conn.Invoke(ctx, method, req, rep); err != nil {
		return fromStatus(ctx, p.addr, method, err)
	}
	return nil
}

package rpc

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = 5 * time.Second
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 3 * time.Second
	// dropTimeout bounds the calls that are under way when their node is dropped.
	dropTimeout = 5 * time.Second
)

// PoolOptions are the options of NewPool.
type PoolOptions struct {
	Security Security
	Log      zerolog.Logger
	// Metrics registers the metrics. If it is nil, nothing is registered.
	Metrics prometheus.Registerer
	// MaxMessage bounds one request or reply, in bytes. 0 means 64 MiB.
	MaxMessage int
	// Faults are for tests.
	Faults Faults
}

// Pool has the connections to the other nodes. Its methods are safe for
// concurrent use.
type Pool struct {
	log        zerolog.Logger
	metrics    *metrics
	options    []grpc.DialOption
	maxMessage int // of one request or reply, in bytes

	mu       sync.Mutex
	closed   bool
	peers    map[string]*Peer
	starts   map[string]int64 // by address, as Keep was told last
	dropping sync.WaitGroup   // goroutines that close dropped peers
	cutOff   chan struct{}    // closed by Close: calls under way do not end by themselves
}

// NewPool makes a pool without connections. It returns an error if the files of
// the security cannot be used or the metrics cannot be registered.
func NewPool(o PoolOptions) (*Pool, error) {
	p := &Pool{
		log: o.Log.With().Str("part", "rpc").Logger(), maxMessage: cmp.Or(o.MaxMessage, defaultMaxMessage),
		peers: make(map[string]*Peer), cutOff: make(chan struct{}),
	}
	creds, err := o.Security.credentials(p.log, true)
	if err != nil {
		return nil, err
	}
	if p.metrics, err = newMetrics(o.Metrics, "client"); err != nil {
		return nil, fmt.Errorf("register rpc's metrics: %w", err)
	}
	p.options = dialOptions(o.Faults.Dial, creds)
	return p, nil
}

func dialOptions(dial func(context.Context, string) (net.Conn, error), creds credentials.TransportCredentials) []grpc.DialOption {
	if dial == nil {
		dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		}
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(dial),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // the caller may prefer another node
		grpc.WithIdleTimeout(0), // only the pool closes connections
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
	}
}

// Node returns the node at addr (host:port). It is the same Peer every time until
// Keep drops it. It connects at the first call.
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

// Keep drops the nodes whose address is not in starts, and those that have another start there than at the last Keep:
// another process is at the address, and the connection may wait long for its next try to connect. Calls under way may end,
// for at most 5 s. New calls of a dropped Peer fail with envelope.ErrUnavailable.
func (p *Pool) Keep(starts map[string]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.starts
	p.starts = maps.Clone(starts)
	for addr, peer := range p.peers {
		start, kept := starts[addr]
		last, known := before[addr]
		if kept && (!known || start == last) {
			continue
		}
		delete(p.peers, addr)
		p.closeLocked(peer)
	}
}

// Close drops every node, cuts calls under way off, and returns when that is done.
// Later calls fail with envelope.ErrUnavailable.
func (p *Pool) Close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.cutOff)
		for _, peer := range p.peers {
			p.closeLocked(peer)
		}
		clear(p.peers)
	}
	p.mu.Unlock()
	p.dropping.Wait()
}

// closeLocked drops a peer, and closes its connection in the background.
func (p *Pool) closeLocked(peer *Peer) {
	conn, idle := peer.drop()
	if conn == nil {
		return
	}
	p.dropping.Go(func() {
		timer := time.NewTimer(dropTimeout)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
		case <-p.cutOff:
		}
		if err := conn.Close(); err != nil {
			p.log.Warn().Err(err).Str("node", peer.addr).Msg("connection to another node not closed cleanly")
		}
		peer.streams.Wait()
	})
}

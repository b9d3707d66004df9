package rpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"imgo/envelope"
)

// Peer is another node. A Peer, and the roles that it returns, can be compared: the
// same node is the same value, until it is started again. Its methods are safe for concurrent use.
type Peer struct {
	pool *Pool
	addr string

	mu      sync.Mutex
	conn    *grpc.ClientConn // nil before the first call
	stream  *clientStream    // nil if the next call has to open one
	streams sync.WaitGroup   // goroutines that run streams
	dropped bool
	running int           // calls under way
	idle    chan struct{} // closed once the peer is dropped and no call is under way
}

func newPeer(pool *Pool, addr string) *Peer {
	return &Peer{pool: pool, addr: addr, idle: make(chan struct{})}
}

// Addr returns where the node is called, host:port.
func (p *Peer) Addr() string { return p.addr }

// Router returns the node's router. Calls of it fail with envelope.ErrUnavailable if
// the node has none.
func (p *Peer) Router() Router { return p.RouterOf(0) }

// RouterOf returns the node's router for one generation of the kept topic. Calls of
// it fail with envelope.ErrUnavailable if the node's router serves another one.
func (p *Peer) RouterOf(generation uint16) Router { return remoteRouter{stub{p, generation}} }

// Logic returns the node's logic.
func (p *Peer) Logic() Logic { return remoteLogic{stub{to: p}} }

// Comet returns the node's comet.
func (p *Peer) Comet() Comet { return remoteComet{stub{to: p}} }

// Status returns the node's status service.
func (p *Peer) Status() Status { return remoteStatus{stub{to: p}} }

// call makes one call, counted, with a deadline. generation is the one of the kept
// topic that the call is for. 0 means any.
func (p *Peer) call(ctx context.Context, method string, generation uint16, req, rep message) (err error) {
	began := time.Now()
	defer func() { p.pool.metrics.called(method, began, err) }()
	if size := req.SizeVT(); size > p.pool.maxMessage {
		return errTooLarge(fmt.Sprintf("call %s of %s: the request has %d bytes, more than %d", method, p.addr, size, p.pool.maxMessage))
	}
	data, err := marshal(req)
	if err != nil {
		return err
	}
	stream, err := p.begin()
	if err != nil {
		return err
	}
	defer p.end()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	reply, err := stream.call(ctx, newClientCall(method, generation, data))
	if err != nil {
		return err
	}
	if err := rep.UnmarshalVT(reply); err != nil {
		return fmt.Errorf("unmarshal %T: %w", rep, err)
	}
	return nil
}

// begin returns the stream for one call, which must be followed by end.
func (p *Peer) begin() (*clientStream, error) {
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
	if p.stream == nil {
		stream, conn := newClientStream(p.addr, p.pool.maxMessage), p.conn
		p.stream = stream
		p.streams.Go(func() {
			err := stream.run(conn)
			p.mu.Lock()
			p.stream = nil // the next call opens another one
			p.mu.Unlock()
			stream.end(err)
		})
	}
	p.running++
	return p.stream, nil
}

func (p *Peer) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	if p.dropped && p.running == 0 {
		close(p.idle)
	}
}

// drop lets no call begin any more. conn is nil if there is none to close.
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

package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// Reasons for which a connection is refused before it reaches its handler, as
// ListenConfig.Refused is told them.
const (
	RefusedAdmit  = "admit"  // Admit said no
	RefusedTLS    = "tls"    // the TLS handshake failed or took too long
	RefusedSocket = "socket" // the socket broke while it was set up
)

// keepAlive finds peers that vanished without a word; heartbeats find them
// sooner where a client sends any.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 20 * time.Second, Count: 4}

// Defaults of transport.ListenConfig.
const (
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultGrace            = 10 * time.Second
	DefaultLinger           = time.Second
)

// Acceptor is a bound port: it accepts sockets and knows those that are open.
type Acceptor struct {
	cfg transport.ListenConfig
	ln  *net.TCPListener

	flats  sync.Pool // *[]byte of about flatSize
	inputs sync.Pool // *input, borrowed

	polling

	mu    sync.Mutex
	count int                  // open sockets
	open  map[*Socket]struct{} // those that are not polled
	none  *sync.Cond           // count became 0
}

// Listen binds cfg.Addr on IPv4 and IPv6 alike (an address without a host
// means both) and fills in cfg's defaults.
func Listen(cfg transport.ListenConfig) (*Acceptor, error) {
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = protocol.DefaultMaxBody
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Linger <= 0 {
		cfg.Linger = DefaultLinger
	}
	if cfg.Refused == nil {
		cfg.Refused = func(string) {}
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	a := &Acceptor{cfg: cfg, ln: ln.(*net.TCPListener), open: map[*Socket]struct{}{}}
	a.none = sync.NewCond(&a.mu)
	if err := a.poll(); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	return a, nil
}

// Config is the configuration with its defaults filled in.
func (a *Acceptor) Config() transport.ListenConfig { return a.cfg }

// Addr is the bound address.
func (a *Acceptor) Addr() net.Addr { return a.ln.Addr() }

// Close stops accepting; sockets stay open. An Acceptor whose Drain is never
// called is to be given up with Discard.
func (a *Acceptor) Close() error {
	a.closePort()
	return a.ln.Close()
}

// Discard is Close for an Acceptor of which Drain is not called, unless
// somebody accepts from it after all: then Drain has the rest.
func (a *Acceptor) Discard() error {
	err := a.Close()
	a.mu.Lock()
	unused := a.count == 0
	a.mu.Unlock()
	if unused {
		a.stop()
	}
	return err
}

// Next waits for the next socket that Admit lets in. It outlives every error
// of accept (a process out of file descriptors, above all), logging it and
// waiting a moment, and fails only when ctx is done or the port was closed.
// The socket counts as open until Done.
func (a *Acceptor) Next(ctx context.Context) (*Socket, error) {
	retry := a.retry()
	for {
		tcp, err := a.ln.AcceptTCP()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = tcp.Close()
			}
			return nil, ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return nil, err
		case err != nil:
			if err := retry.failed(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		retry.worked()
		if s := a.admit(tcp); s != nil {
			return s, nil
		}
	}
}

// retry paces an accept that fails.
type retry struct {
	a     *Acceptor
	pause time.Duration
}

const firstPause, maxPause = 5 * time.Millisecond, time.Second

func (a *Acceptor) retry() *retry { return &retry{a, firstPause} }

func (r *retry) worked() { r.pause = firstPause }

// failed logs err and waits a moment; its error is ctx's.
func (r *retry) failed(ctx context.Context, err error) error {
	r.a.cfg.Log.Warn().Err(err).Stringer("addr", r.a.Addr()).Dur("pause", r.pause).Msg("cannot accept a connection, trying again")
	if err := sleep(ctx, r.pause); err != nil {
		return err
	}
	r.pause = min(2*r.pause, maxPause)
	return nil
}

// admit makes a socket of an accepted connection, or refuses it.
func (a *Acceptor) admit(tcp *net.TCPConn) *Socket {
	s := newSocket(tcp, a)
	if !a.admitted(s.remote) {
		_ = tcp.Close()
		return nil
	}
	if a.cfg.WriteBuffer > 0 {
		_ = tcp.SetWriteBuffer(a.cfg.WriteBuffer)
	}
	a.mu.Lock()
	a.open[s] = struct{}{}
	a.count++
	a.mu.Unlock()
	return s
}

// admitted says whether a connection from remote may stay.
func (a *Acceptor) admitted(remote netip.AddrPort) bool {
	if !remote.IsValid() { // gone before we looked
		a.cfg.Refused(RefusedSocket)
		return false
	}
	if a.cfg.Admit == nil {
		return true
	}
	if err := a.cfg.Admit(remote.Addr()); err != nil {
		a.cfg.Log.Debug().Err(err).Stringer("remote", remote).Msg("connection refused")
		a.cfg.Refused(RefusedAdmit)
		return false
	}
	return true
}

// Done says, once, that the goroutine that ran s is at its end. Drain returns
// only after Released has heard of it.
func (a *Acceptor) Done(s *Socket) {
	a.mu.Lock()
	delete(a.open, s)
	a.mu.Unlock()
	a.done(s.remote.Addr())
}

// done counts the end of a socket.
func (a *Acceptor) done(remote netip.Addr) {
	if a.cfg.Released != nil {
		a.cfg.Released(remote)
	}
	a.mu.Lock()
	if a.count--; a.count == 0 {
		a.none.Broadcast()
	}
	a.mu.Unlock()
}

// Drain waits until no socket is open, and resets those that still are after
// the grace period. Call it when Next has returned for good.
func (a *Acceptor) Drain() {
	timer := time.AfterFunc(a.cfg.Grace, func() {
		a.mu.Lock()
		if a.count > 0 {
			a.cfg.Log.Warn().Int("connections", a.count).Dur("grace", a.cfg.Grace).Msg("connections are still open after the grace period, resetting them")
		}
		for s := range a.open {
			s.Abort()
		}
		a.mu.Unlock()
		a.abort()
	})
	defer timer.Stop()
	a.mu.Lock()
	for a.count > 0 {
		a.none.Wait()
	}
	a.mu.Unlock()
	a.stop()
}

func (a *Acceptor) flat() *[]byte {
	if b, ok := a.flats.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, flatSize+64)
	return &b
}

func (a *Acceptor) putFlat(b *[]byte) {
	if cap(*b) <= 2*flatSize { // one that grew is not kept
		a.flats.Put(b)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package socket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Reasons for which a connection is refused before it reaches its handler, as
// Config.Refused is told them.
const (
	RefusedAdmit  = "admit"  // Admit said no
	RefusedTLS    = "tls"    // the TLS handshake failed or took too long
	RefusedSocket = "socket" // the socket broke while it was set up
)

// Config is what every listener over TCP needs; see tcp.Config and ws.Config.
type Config struct {
	Addr             string
	TLS              *tls.Config
	Admit            func(netip.Addr) error
	Released         func(netip.Addr)
	Refused          func(reason string)
	HandshakeTimeout time.Duration
	WriteBuffer      int
	Grace            time.Duration
	Linger           time.Duration
	Log              zerolog.Logger
}

// Defaults of Config.
const (
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultGrace            = 10 * time.Second
	DefaultLinger           = time.Second
)

// Acceptor is a bound port: it accepts sockets and knows those that are open.
type Acceptor struct {
	cfg Config
	ln  *net.TCPListener

	flats sync.Pool // *[]byte of about flatSize

	mu   sync.Mutex
	open map[*Socket]struct{}
	none *sync.Cond // open became empty
}

// Listen binds cfg.Addr on IPv4 and IPv6 alike (an address without a host
// means both) and fills in cfg's defaults.
func Listen(cfg Config) (*Acceptor, error) {
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
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{
		// Finds peers that vanished without a word; heartbeats find them
		// sooner where a client sends any.
		Enable: true, Idle: time.Minute, Interval: 20 * time.Second, Count: 4,
	}}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	a := &Acceptor{cfg: cfg, ln: ln.(*net.TCPListener), open: map[*Socket]struct{}{}}
	a.none = sync.NewCond(&a.mu)
	return a, nil
}

// Config is the configuration with its defaults filled in.
func (a *Acceptor) Config() Config { return a.cfg }

// Addr is the bound address.
func (a *Acceptor) Addr() net.Addr { return a.ln.Addr() }

// Close stops accepting; sockets stay open.
func (a *Acceptor) Close() error { return a.ln.Close() }

// Next waits for the next socket that Admit lets in. It outlives every error
// of accept (a process out of file descriptors, above all), logging it and
// waiting a moment, and fails only when ctx is done or the port was closed.
// The socket counts as open until Done.
func (a *Acceptor) Next(ctx context.Context) (*Socket, error) {
	const firstPause, maxPause = 5 * time.Millisecond, time.Second
	pause := firstPause
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
			a.cfg.Log.Warn().Err(err).Stringer("addr", a.Addr()).Dur("pause", pause).Msg("cannot accept a connection, trying again")
			if err := sleep(ctx, pause); err != nil {
				return nil, err
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = firstPause
		if s := a.admit(tcp); s != nil {
			return s, nil
		}
	}
}

// admit makes a socket of an accepted connection, or refuses it.
func (a *Acceptor) admit(tcp *net.TCPConn) *Socket {
	s := newSocket(tcp, a)
	if !s.remote.IsValid() { // gone before we looked
		a.cfg.Refused(RefusedSocket)
		_ = tcp.Close()
		return nil
	}
	if a.cfg.Admit != nil {
		if err := a.cfg.Admit(s.remote.Addr()); err != nil {
			a.cfg.Log.Debug().Err(err).Stringer("remote", s.remote).Msg("connection refused")
			a.cfg.Refused(RefusedAdmit)
			_ = tcp.Close()
			return nil
		}
	}
	if a.cfg.WriteBuffer > 0 {
		_ = tcp.SetWriteBuffer(a.cfg.WriteBuffer)
	}
	a.mu.Lock()
	a.open[s] = struct{}{}
	a.mu.Unlock()
	return s
}

// Done says, once, that the goroutine that ran s is at its end. Drain returns
// only after Released has heard of it.
func (a *Acceptor) Done(s *Socket) {
	if a.cfg.Released != nil {
		a.cfg.Released(s.remote.Addr())
	}
	a.mu.Lock()
	delete(a.open, s)
	if len(a.open) == 0 {
		a.none.Broadcast()
	}
	a.mu.Unlock()
}

// Drain waits until no socket is open, and resets those that still are after
// the grace period. Call it when Next has returned for good.
func (a *Acceptor) Drain() {
	timer := time.AfterFunc(a.cfg.Grace, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.open) > 0 {
			a.cfg.Log.Warn().Int("connections", len(a.open)).Dur("grace", a.cfg.Grace).Msg("connections are still open after the grace period, resetting them")
		}
		for s := range a.open {
			s.Abort()
		}
	})
	defer timer.Stop()
	a.mu.Lock()
	for len(a.open) > 0 {
		a.none.Wait()
	}
	a.mu.Unlock()
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

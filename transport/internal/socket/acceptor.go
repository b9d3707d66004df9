package socket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"imgo/internal/wait"
	"imgo/protocol"
	"imgo/transport"
)

// The reasons that ListenConfig.Refused is called with: why a connection did not
// reach its handler.
const (
	RefusedAdmit  = "admit"  // Admit returned an error
	RefusedTLS    = "tls"    // the TLS handshake failed or took too long
	RefusedSocket = "socket" // the socket broke while it was set up
)

// keepAlive finds peers that vanished. Heartbeats find them sooner, if the client
// sends any.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 20 * time.Second, Count: 4}

// Defaults of transport.ListenConfig.
const (
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultGrace            = 10 * time.Second
	DefaultLinger           = time.Second
)

// Acceptor is a bound port. It accepts sockets and knows the open ones.
type Acceptor struct {
	cfg transport.ListenConfig
	ln  *net.TCPListener
	// epoch is the start of a clock that no step of the wall clock moves.
	epoch time.Time
	// handshakes bounds what comes before the handler of a connection.
	handshakes *transport.SharedDeadline

	flats  sync.Pool // *[]byte of about flatSize
	inputs sync.Pool // *input, borrowed

	polling

	warnProxy sync.Once // about headers of the PROXY protocol

	mu    sync.Mutex
	count int                  // open sockets
	open  map[*Socket]struct{} // those that are not polled
	none  *sync.Cond           // signals that count became 0
}

// Listen binds cfg.Addr and fills in the defaults of cfg. An address without a
// host means IPv4 and IPv6.
func Listen(cfg transport.ListenConfig) (*Acceptor, error) {
	cfg.MaxBody = cmp.Or(cfg.MaxBody, protocol.DefaultMaxBody)
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, DefaultHandshakeTimeout)
	cfg.Grace = cmp.Or(cfg.Grace, DefaultGrace)
	cfg.Linger = cmp.Or(cfg.Linger, DefaultLinger)
	if cfg.Refused == nil {
		cfg.Refused = func(string) {}
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Addr, err)
	}
	a := &Acceptor{
		cfg: cfg, ln: ln.(*net.TCPListener), epoch: time.Now(), open: map[*Socket]struct{}{},
		handshakes: transport.NewSharedDeadline(cfg.HandshakeTimeout),
	}
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

// Run calls next until ctx is done or next fails, and then waits until no connection is
// open. It returns nil if ctx was done, else the error of next.
func (a *Acceptor) Run(ctx context.Context, next func() error) error {
	stop := context.AfterFunc(ctx, func() {
		_ = a.Close()
		a.handshakes.Stop() // no handler knows these connections yet
	})
	defer stop()
	var err error
	for err == nil {
		err = next()
	}
	a.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Close stops accepting. Sockets stay open until Wait has ended. Without a call of Wait,
// CloseUnused is needed in place of Close.
func (a *Acceptor) Close() error {
	a.closePort()
	return a.ln.Close()
}

// CloseUnused is Close for an Acceptor whose Wait is not called. If it has open
// sockets all the same, Wait does the rest.
func (a *Acceptor) CloseUnused() error {
	err := a.Close()
	a.mu.Lock()
	unused := a.count == 0
	a.mu.Unlock()
	if unused {
		a.stop()
	}
	return err
}

// Next waits for the next socket that Admit lets in. After an error of accept,
// such as a process without free descriptors, it logs, waits and tries again. It
// returns an error only if ctx is done or the port was closed. The socket counts
// as open until Ended is called.
func (a *Acceptor) Next(ctx context.Context) (*Socket, error) {
	backoff := newBackoff()
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
			if err := a.failed(ctx, &backoff, err); err != nil {
				return nil, err
			}
			continue
		}
		backoff.Reset()
		if s := a.admit(tcp); s != nil {
			return s, nil
		}
	}
}

// newBackoff returns the pauses after an accept that fails.
func newBackoff() wait.Backoff { return wait.Backoff{Min: 5 * time.Millisecond, Max: time.Second} }

// failed logs the error of an accept and waits. It returns ctx's error if ctx is done.
func (a *Acceptor) failed(ctx context.Context, backoff *wait.Backoff, err error) error {
	pause := backoff.Next()
	a.cfg.Log.Warn().Err(err).Stringer("addr", a.Addr()).Dur("pause", pause).Msg("cannot accept a connection, trying again")
	return wait.Sleep(ctx, pause)
}

// NextSocket calls serve for the next socket, on a goroutine of its own, once Begin has
// succeeded.
func (a *Acceptor) NextSocket(ctx context.Context, serve func(*Socket)) error {
	s, err := a.Next(ctx)
	if err != nil {
		return err
	}
	go func() {
		defer a.Ended(s)
		if s.Begin(ctx) {
			defer s.Release()
			serve(s)
		}
	}()
	return nil
}

// admit makes a socket of an accepted connection. It returns nil if the
// connection is refused.
func (a *Acceptor) admit(tcp *net.TCPConn) *Socket {
	s := newSocket(tcp, a)
	if !a.admitted(s.Remote()) {
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

// admitted reports whether a connection from remote may stay.
func (a *Acceptor) admitted(remote netip.AddrPort) bool {
	if !remote.IsValid() { // the client has gone already
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

// Ended is called once, when the goroutine that ran s ends. Wait returns only
// after Released was called for s.
func (a *Acceptor) Ended(s *Socket) {
	a.mu.Lock()
	delete(a.open, s)
	a.mu.Unlock()
	a.countEnd(s.addr)
}

// countEnd counts the end of a socket.
func (a *Acceptor) countEnd(remote netip.Addr) {
	if a.cfg.Released != nil {
		a.cfg.Released(remote)
	}
	a.mu.Lock()
	if a.count--; a.count == 0 {
		a.none.Broadcast()
	}
	a.mu.Unlock()
}

// Wait waits until no socket is open, and resets those that are open after the
// grace period. It is called after the last Next.
func (a *Acceptor) Wait() {
	timer := time.AfterFunc(a.cfg.Grace, func() {
		a.mu.Lock()
		if a.count > 0 {
			a.cfg.Log.Warn().Int("connections", a.count).Dur("grace", a.cfg.Grace).
				Msg("connections are still open after the grace period, resetting them")
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
	if cap(*b) <= 2*flatSize { // a buffer that has grown is not kept
		a.flats.Put(b)
	}
}

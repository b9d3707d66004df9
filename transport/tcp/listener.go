// Package tcp brings clients that speak binary packets over plain TCP or TLS.
// It owns the port and the accept loop; what the packets mean is the handler's.
//
// Where there is epoll, connections without TLS are transport.Pollable: one that
// idles costs neither a goroutine nor a buffer. Everywhere else, and with TLS,
// each has its goroutine, and no buffer while it idles. Listen chooses.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// Config configures a Listener. Only Addr is required.
type Config struct {
	// Addr is what to listen on: "host:port"; without a host, all addresses of
	// IPv4 and IPv6.
	Addr string
	// MaxBody bounds a client's packet body, in bytes; 0 is 64 KiB.
	MaxBody int
	// TLS, if set, makes every connection speak TLS; see transport.ReloadingTLS.
	TLS *tls.Config
	// Admit, if set, is asked once for every accepted connection, before TLS,
	// from the accept loop: it must not block. An error closes the connection.
	Admit func(netip.Addr) error
	// Released, if set, hears of the end of every connection that Admit let in,
	// whether it reached the handler or not. Safe for concurrent use; it must
	// not block.
	Released func(netip.Addr)
	// Refused, if set, hears why a connection did not reach the handler
	// ("admit", "tls", "socket"): for a counter. Safe for concurrent use.
	Refused func(reason string)
	// HandshakeTimeout bounds the TLS handshake; 0 is 5 s. How long a client
	// may take to authenticate is the handler's business.
	HandshakeTimeout time.Duration
	// WriteBuffer is the kernel's send buffer for a connection, in bytes; 0
	// leaves it to the kernel.
	WriteBuffer int
	// Grace is how long after Run's context is done handlers may take; then
	// what is open is reset. 0 is 10 s.
	Grace time.Duration
	// Linger is how long a closed connection waits for the client to close its
	// side too, so that the last packets are not lost to a reset. 0 is 1 s.
	Linger time.Duration
	// Inline says that Run's handle waits for nothing where the connection is a
	// Pollable: it is called there by a goroutine that all connections share.
	Inline bool
	// Goroutines leaves epoll unused where it could be used.
	Goroutines bool
	Log        zerolog.Logger
}

// Listener accepts connections on one port.
type Listener struct {
	acceptor *socket.Acceptor
	maxBody  int
}

// Listen binds the port. Nothing is accepted before Run.
func Listen(cfg Config) (*Listener, error) {
	a, err := socket.Listen(socket.Config{
		Addr: cfg.Addr, TLS: cfg.TLS, Admit: cfg.Admit, Released: cfg.Released, Refused: cfg.Refused,
		HandshakeTimeout: cfg.HandshakeTimeout, WriteBuffer: cfg.WriteBuffer,
		Grace: cfg.Grace, Linger: cfg.Linger, Inline: cfg.Inline, Goroutines: cfg.Goroutines, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	l := &Listener{acceptor: a, maxBody: cfg.MaxBody}
	if l.maxBody <= 0 {
		l.maxBody = protocol.DefaultMaxBody
	}
	return l, nil
}

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back; only for a Listener that is not Run.
func (l *Listener) Close() error { return l.acceptor.Discard() }

// Run accepts connections until ctx is done and calls handle for each in a
// goroutine of its own, or see Config.Inline; the connection ends when handle
// returns, but for a Pollable that was attached. After ctx is done it is the handlers' part to
// close their connections (they know what to tell the client), but after
// Config.Grace Run resets what is left. It returns when every connection has
// ended: nil after ctx, else why the port failed.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.acceptor.Close() })
	defer stop()
	var err error
	for err == nil {
		err = l.next(ctx, handle)
	}
	l.acceptor.Drain()
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, net.ErrClosed)) {
		return nil
	}
	return err
}

// serve runs one connection from the TLS handshake to its end.
func (l *Listener) serve(ctx context.Context, s *socket.Socket, handle func(transport.Conn)) {
	defer l.acceptor.Done(s)
	cfg := l.acceptor.Config()
	if cfg.TLS != nil {
		ctx, cancel := context.WithTimeout(ctx, cfg.HandshakeTimeout)
		err := s.Handshake(ctx)
		cancel()
		if err != nil {
			cfg.Refused(socket.RefusedTLS)
			cfg.Log.Debug().Err(err).Stringer("remote", s.Remote()).Msg("connection refused")
			s.Abort()
			return
		}
	}
	defer s.Finish(cfg.Linger)
	handle(newConn(s, l.maxBody))
}

// nextSocket brings the next connection to handle, in a goroutine of its own.
func (l *Listener) nextSocket(ctx context.Context, handle func(transport.Conn)) error {
	s, err := l.acceptor.Next(ctx)
	if err == nil {
		go l.serve(ctx, s, handle)
	}
	return err
}

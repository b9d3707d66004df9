// Package tcp brings clients that speak binary packets over plain TCP or TLS.
// It owns the port, the accept loop and each connection's goroutine; what the
// packets mean is the handler's. A connection that idles holds no buffer.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"

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
	Log    zerolog.Logger
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
		Grace: cfg.Grace, Linger: cfg.Linger, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	l := &Listener{acceptor: a, maxBody: cfg.MaxBody}
	if l.maxBody <= 0 {
		l.maxBody = transport.DefaultMaxBody
	}
	return l, nil
}

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back; only for a Listener that is not Run.
func (l *Listener) Close() error { return l.acceptor.Close() }

// Run accepts connections until ctx is done and calls handle for each in a
// goroutine of its own; the connection ends when handle returns. After ctx is
// done it is the handlers' part to close their connections (they know what to
// tell the client), but after Config.Grace Run resets what is left. It returns
// when every handler has: nil after ctx, else why the port failed.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.acceptor.Close() })
	defer stop()
	var err error
	for {
		var s *socket.Socket
		if s, err = l.acceptor.Next(ctx); err != nil {
			break
		}
		go l.serve(ctx, s, handle)
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

// Package ws brings clients that speak WebSocket: browsers above all, with
// JSON in text messages or binary packets in binary ones.
//
// It owns the port, the HTTP upgrade and the frames, and has two ways to run a
// connection, of which Listen chooses one; one suite of tests holds both.
//
// With TLS, and where there is no epoll, a connection has a goroutine, and the
// library github.com/coder/websocket does the handshake and reads: frames,
// masks, fragments, control frames. Writing is done here, beside it, because a
// message for many connections is encoded once and only needs a header of a
// few bytes (docs/adr/0002-websocket-library.md). Nothing of net/http stays
// with a connection after the upgrade, and one that idles holds only a read
// buffer of a few hundred bytes.
//
// Elsewhere it is a transport.Pollable: one that idles costs neither a goroutine
// nor a buffer, and the handshake and the frames of a client are read here too
// (docs/adr/0006-fan-out.md).
package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"imgo/protocol"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// DefaultPath is where clients of imgo and goim look for the socket.
const DefaultPath = "/sub"

// maxHeader bounds the upgrade request, in bytes.
const maxHeader = 8 << 10

// Config configures a Listener. Only Addr is required.
type Config struct {
	// Addr is what to listen on: "host:port"; without a host, all addresses of
	// IPv4 and IPv6.
	Addr string
	// Path is the only path served; "" is "/sub".
	Path string
	// Origins are the origins that browsers may connect from; empty means any.
	// An entry is a host ("chat.example.com"), or scheme and host
	// ("https://*.example.com"), a * standing for anything but a slash; a port
	// is part of the host. A request without an Origin comes from no browser
	// and is let in.
	Origins []string
	// MaxBody bounds a client's packet body, in bytes; 0 is 64 KiB. A text
	// message may be 2 × MaxBody + 1 KiB long.
	MaxBody int
	// TLS, if set, makes every connection speak TLS; see transport.ReloadingTLS.
	TLS *tls.Config
	// Admit, if set, is asked once for every accepted connection, before TLS
	// and HTTP, from the accept loop: it must not block. An error closes the
	// connection.
	Admit func(netip.Addr) error
	// Released, if set, hears of the end of every connection that Admit let in,
	// whether it reached the handler or not. Safe for concurrent use; it must
	// not block.
	Released func(netip.Addr)
	// Refused, if set, hears why a connection did not reach the handler
	// ("admit", "socket", "origin", "path", "method", "upgrade", "http"): for a
	// counter. Safe for concurrent use.
	Refused func(reason string)
	// HandshakeTimeout bounds everything from the accepted connection to the
	// upgraded one; 0 is 5 s.
	HandshakeTimeout time.Duration
	// WriteBuffer is the kernel's send buffer for a connection, in bytes; 0
	// leaves it to the kernel.
	WriteBuffer int
	// Grace is how long after Run's context is done handlers may take; then
	// what is open is reset. 0 is 10 s.
	Grace time.Duration
	// Linger is how long a closed connection waits for the client to close its
	// side too, so that the close frame is not lost to a reset. 0 is 1 s.
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
	origins  origins
	path     string
	maxBody  int
}

// Listen binds the port. Nothing is accepted before Run. An entry of
// Config.Origins that is no pattern is an error.
func Listen(cfg Config) (*Listener, error) {
	allowed, err := parseOrigins(cfg.Origins)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade of this kind
	}
	a, err := socket.Listen(socket.Config{
		Addr: cfg.Addr, TLS: cfg.TLS, Admit: cfg.Admit, Released: cfg.Released, Refused: cfg.Refused,
		HandshakeTimeout: cfg.HandshakeTimeout, WriteBuffer: cfg.WriteBuffer,
		Grace: cfg.Grace, Linger: cfg.Linger, Inline: cfg.Inline, Goroutines: cfg.Goroutines, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	l := &Listener{acceptor: a, origins: allowed, path: cfg.Path, maxBody: cfg.MaxBody}
	if l.path == "" {
		l.path = DefaultPath
	}
	if l.maxBody <= 0 {
		l.maxBody = protocol.DefaultMaxBody
	}
	return l, nil
}

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back; only for a Listener that is not Run.
func (l *Listener) Close() error { return l.acceptor.Discard() }

// Run upgrades connections until ctx is done and calls handle for each in a
// goroutine of its own, or see Config.Inline; the connection ends when handle
// returns, but for a Pollable that was attached. After ctx is done it is the handlers' part to
// close their connections (they know what to tell the client), but after
// Config.Grace Run resets what is left. It returns when every connection has
// ended: nil after ctx, else why the port failed.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	err := l.run(ctx, handle)
	l.acceptor.Drain()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("accept WebSocket connections: %w", err)
}

// runHTTP has net/http read the requests.
func (l *Listener) runHTTP(ctx context.Context, handle func(transport.Conn)) error {
	cfg := l.acceptor.Config()
	srv := &http.Server{
		Handler:           &upgrader{Listener: l, handle: handle},
		ReadTimeout:       cfg.HandshakeTimeout,
		ReadHeaderTimeout: cfg.HandshakeTimeout,
		WriteTimeout:      cfg.HandshakeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(httpLog{cfg.Log}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, pendingKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state != http.StateClosed { // those that were upgraded end elsewhere
				return
			}
			p := c.(*pendingConn)
			if !p.asked.Load() {
				cfg.Refused(refusedHTTP)
			}
			l.acceptor.Done(p.Socket)
		},
	}
	srv.SetKeepAlivesEnabled(false) // one request a connection
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	return srv.Serve(&netListener{acceptor: l.acceptor, ctx: ctx})
}

// netListener gives net/http sockets.
type netListener struct {
	acceptor *socket.Acceptor
	ctx      context.Context // net/http's Accept has none
}

func (n *netListener) Accept() (net.Conn, error) {
	s, err := n.acceptor.Next(n.ctx)
	if err != nil {
		return nil, err
	}
	return &pendingConn{Socket: s}, nil
}

func (n *netListener) Close() error   { return n.acceptor.Close() }
func (n *netListener) Addr() net.Addr { return n.acceptor.Addr() }

// pendingConn is a connection as net/http sees it, until the upgrade.
type pendingConn struct {
	*socket.Socket
	asked atomic.Bool // a request arrived
}

// pendingKey is the key of a request's *pendingConn in its context.
type pendingKey struct{}

// httpLog takes net/http's lines. What clients send wrong is counted by
// Refused and worth no more than a debug line; a panic is worth an error.
type httpLog struct{ zerolog.Logger }

func (l httpLog) Write(line []byte) (int, error) {
	level := zerolog.DebugLevel
	if bytes.Contains(line, []byte("panic")) {
		level = zerolog.ErrorLevel
	}
	l.WithLevel(level).Str("from", "net/http").Msg(string(bytes.TrimSpace(line)))
	return len(line), nil
}

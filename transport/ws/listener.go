// Package ws is the transport of clients that speak WebSocket, browsers above
// all: JSON in text messages, or binary packets in binary ones. It owns the port,
// the HTTP upgrade and the frames. It does not know the meaning of the packets.
//
// There are two ways to run a connection. Listen chooses one, and the same tests
// hold both. net/http parses the request of the handshake either way, and
// checkRequest judges it.
//
// With TLS, and on systems other than Linux, a connection has a goroutine, and
// the library github.com/coder/websocket reads the client's frames. This package
// writes beside the library, because a message for many connections is encoded
// once and needs only a header of a few bytes (docs/adr/0002-websocket-library.md).
// Nothing of net/http stays with a connection after the upgrade. An idle
// connection holds a read buffer of a few hundred bytes.
//
// Otherwise a connection is a transport.Pollable: an idle one holds neither a
// goroutine nor a buffer, and this package reads the client's frames
// (docs/adr/0006-fan-out.md).
package ws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/rs/zerolog"

	"imgo/transport"
	"imgo/transport/internal/socket"
)

// DefaultPath is the path that clients of imgo and goim connect to.
const DefaultPath = "/sub"

// maxHeader bounds the upgrade request, in bytes, and httpSlop is how much more
// than http.Server.MaxHeaderBytes net/http reads.
const (
	maxHeader = 8 << 10
	httpSlop  = 4 << 10
)

// Scheme names this transport.
const Scheme = "ws"

// Config configures a Listener. Only Addr is required.
type Config struct {
	transport.ListenConfig
	// Path is the only path served. Empty is DefaultPath.
	Path string
	// Origins are the origins that browsers may connect from. Empty means any.
	// An entry is a host ("chat.example.com") or scheme and host
	// ("https://*.example.com"), where * stands for anything but a slash. A port
	// is part of the host. A request without an Origin does not come from a
	// browser and is let in.
	Origins []string
	// Local refuses what does not come straight from this machine: requests that a
	// proxy forwards, and those of pages whose origin is neither loopback nor one of
	// Origins. It is for clients that are believed who they are.
	Local bool
}

// Listener accepts connections on one port.
type Listener struct {
	acceptor *socket.Acceptor
	origins  origins
	local    bool
	path     string
	maxBody  int
	heads    headReaders
}

var _ transport.Listener = (*Listener)(nil)

// Listen binds the port. Nothing is accepted before Run. It returns an error if an
// entry of Config.Origins is not a pattern.
func Listen(cfg Config) (*Listener, error) {
	allowed, err := parseOrigins(cfg.Origins)
	if err != nil {
		return nil, err
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade of this kind
	}
	a, err := socket.Listen(cfg.ListenConfig)
	if err != nil {
		return nil, err
	}
	l := &Listener{acceptor: a, origins: allowed, local: cfg.Local, path: cfg.Path, maxBody: a.Config().MaxBody}
	if l.path == "" {
		l.path = DefaultPath
	}
	return l, nil
}

// Scheme names the transport.
func (l *Listener) Scheme() string { return Scheme }

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back. It is only for a Listener that is never Run.
func (l *Listener) Close() error { return l.acceptor.Discard() }

// Run upgrades connections until ctx is done; see transport.Listener.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	err := l.run(ctx, handle)
	l.acceptor.Drain()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("accept WebSocket connections: %w", err)
}

// runHTTP accepts connections whose requests net/http reads.
func (l *Listener) runHTTP(ctx context.Context, handle func(transport.Conn)) error {
	cfg := l.acceptor.Config()
	srv := &http.Server{
		Handler:           &upgrader{Listener: l, handle: handle},
		ReadTimeout:       cfg.HandshakeTimeout,
		ReadHeaderTimeout: cfg.HandshakeTimeout,
		WriteTimeout:      cfg.HandshakeTimeout,
		MaxHeaderBytes:    maxHeader - httpSlop,
		ErrorLog:          log.New(httpLog{cfg.Log}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, pendingKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state != http.StateClosed { // an upgraded connection ends elsewhere
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

// netListener is the Acceptor as net/http sees it.
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
	asked atomic.Bool // its request has arrived
}

// pendingKey is the key of a request's *pendingConn in its context.
type pendingKey struct{}

// httpLog receives the log lines of net/http. Mistakes of clients are counted by
// Refused and are logged at the level debug. A panic is logged as an error.
type httpLog struct{ zerolog.Logger }

func (l httpLog) Write(line []byte) (int, error) {
	level := zerolog.DebugLevel
	if bytes.Contains(line, []byte("panic")) {
		level = zerolog.ErrorLevel
	}
	l.WithLevel(level).Str("from", "net/http").Msg(string(bytes.TrimSpace(line)))
	return len(line), nil
}

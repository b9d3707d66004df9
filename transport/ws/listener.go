// Package ws is the transport of clients that speak WebSocket, browsers above
// all: JSON in text messages, or binary packets in binary ones. It owns the port,
// the HTTP upgrade and the frames. It does not know the meaning of the packets.
//
// There are two ways to run a connection, and Listen chooses one. With TLS, with
// ListenConfig.Goroutines, and on systems other than Linux, a connection has a
// goroutine. Otherwise it is a
// transport.Pollable: an idle one holds neither a goroutine nor a buffer. Both
// read requests and frames by the same code, and the same tests hold both.
// net/http parses the request, and checkRequest judges it.
package ws

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"time"

	"imgo/internal/weborigin"
	"imgo/transport"
	"imgo/transport/internal/socket"
)

// DefaultPath is the path that clients of imgo and goim connect to.
const DefaultPath = "/sub"

// DefaultRequestSize is the default of Config.RequestSize. Browsers send all
// cookies of the domain, for which proxies allow 32 KiB.
const DefaultRequestSize = 32 << 10

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
	// Local refuses each request that a program of this machine did not send itself. It
	// refuses a request that a proxy forwards, and that of a page whose origin is neither
	// loopback nor one of Origins. Set it where clients connect without authentication.
	Local bool
	// ClientHeader is the request header in which ListenConfig.TrustedProxies tell the
	// client's address: HeaderXForwardedFor or HeaderForwarded. Empty is the former.
	ClientHeader string
	// KeepHeader keeps the header of the handshake until it is taken (transport.Headed).
	KeepHeader bool
	// RequestSize bounds the upgrade request, in bytes. A longer one is refused with
	// 431. 0 is DefaultRequestSize.
	RequestSize int
}

// Listener accepts connections on one port.
type Listener struct {
	acceptor   *socket.Acceptor
	origins    weborigin.List
	local      bool
	keepHeader bool
	path       string
	maxSize    int // of a request
	// clientHeader is the header that tells a client's address.
	clientHeader string
	heads        headReaders
}

var _ transport.Listener = (*Listener)(nil)

// Listen binds the port. Nothing is accepted before Run. It returns an error if an
// entry of Config.Origins is not a pattern.
func Listen(cfg Config) (*Listener, error) {
	allowed, err := weborigin.Parse(cfg.Origins)
	if err != nil {
		return nil, fmt.Errorf("listen for WebSockets: %w", err)
	}
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade of this kind
	}
	a, err := socket.Listen(cfg.ListenConfig)
	if err != nil {
		return nil, err
	}
	return &Listener{
		acceptor: a, origins: allowed, local: cfg.Local, keepHeader: cfg.KeepHeader,
		path: cmp.Or(cfg.Path, DefaultPath), maxSize: cmp.Or(cfg.RequestSize, DefaultRequestSize),
		clientHeader: cmp.Or(cfg.ClientHeader, HeaderXForwardedFor),
	}, nil
}

// Scheme names the transport.
func (l *Listener) Scheme() string { return Scheme }

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back. It is only for a Listener that is never Run.
func (l *Listener) Close() error { return l.acceptor.CloseUnused() }

// Run upgrades connections until ctx is done; see transport.Listener.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	if err := l.acceptor.Run(ctx, func() error { return l.next(ctx, handle) }); err != nil {
		return fmt.Errorf("accept WebSocket connections: %w", err)
	}
	return nil
}

// nextSocket runs the next connection on a goroutine of its own.
func (l *Listener) nextSocket(ctx context.Context, handle func(transport.Conn)) error {
	return l.acceptor.NextSocket(ctx, func(s *socket.Socket) {
		c := &conn{Socket: s}
		timeout := l.acceptor.Config().HandshakeTimeout
		h := handshake{l: l, in: s, messages: &c.messages, write: func(b []byte) error {
			return s.Send(time.Now().Add(timeout), [][]byte{b}, nil)
		}}
		if s.Open(h.upgrade) {
			handle(c)
			_ = c.Close(0, "")
		}
	})
}

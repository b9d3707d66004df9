// Package tcp is the transport of clients that speak binary packets over TCP,
// plain or with TLS. It owns the port and the accept loop. It does not know the
// meaning of the packets.
//
// On Linux, connections without TLS are transport.Pollable: an idle one holds
// neither a goroutine nor a buffer. With TLS, with ListenConfig.Goroutines, and on
// other systems, each connection has a goroutine, and no buffer while it is idle.
// Listen chooses.
package tcp

import (
	"context"
	"net"

	"imgo/transport"
	"imgo/transport/internal/socket"
)

// Scheme names this transport.
const Scheme = "tcp"

// Listener accepts connections on one port.
type Listener struct{ acceptor *socket.Acceptor }

var _ transport.Listener = (*Listener)(nil)

// Listen binds the port. Nothing is accepted before Run.
func Listen(cfg transport.ListenConfig) (*Listener, error) {
	a, err := socket.Listen(cfg)
	if err != nil {
		return nil, err
	}
	return &Listener{a}, nil
}

// Scheme names the transport.
func (l *Listener) Scheme() string { return Scheme }

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.acceptor.Addr() }

// Close gives the port back. It is only for a Listener that is never Run.
func (l *Listener) Close() error { return l.acceptor.CloseUnused() }

// Run accepts connections until ctx is done; see transport.Listener.
func (l *Listener) Run(ctx context.Context, handle func(transport.Conn)) error {
	return l.acceptor.Run(ctx, func() error { return l.next(ctx, handle) })
}

// nextSocket calls handle for the next connection, on a goroutine of its own.
func (l *Listener) nextSocket(ctx context.Context, handle func(transport.Conn)) error {
	return l.acceptor.NextSocket(ctx, func(s *socket.Socket) { handle(&conn{s}) })
}

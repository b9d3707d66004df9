package transport

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/rs/zerolog"
)

// Listener accepts the clients of one transport on one bound address.
type Listener interface {
	// Scheme names the transport, as Traits.Scheme of its connections does.
	Scheme() string
	// Addr is the bound address.
	Addr() net.Addr
	// Run accepts connections until ctx is done and calls handle for each, on a
	// goroutine of its own unless ListenConfig.Inline says otherwise. The
	// connection ends when handle returns, unless it is a Pollable that was
	// attached. After ctx is done the handlers close their connections, since
	// they know what to tell the client. Run resets what is still open after
	// ListenConfig.Grace. It returns when every connection has ended: nil if
	// ctx was done, else the reason why the port failed.
	Run(ctx context.Context, handle func(Conn)) error
	// Close gives the port back. It is only for a Listener that is never Run.
	Close() error
}

// ListenFunc binds a Listener. The caller of Run, such as comet, fills in its
// own part of the configuration; the function adds the address, the certificate
// and what else is particular to the transport.
type ListenFunc func(ListenConfig) (Listener, error)

// ListenConfig is the part of a listener's configuration that all transports
// have. Only Addr is required.
type ListenConfig struct {
	// Addr is the address to bind, host:port. Without a host it means all
	// addresses of IPv4 and IPv6.
	Addr string
	// MaxBody bounds the body of a client's packet, in bytes. 0 is 64 KiB.
	MaxBody int
	// TLS, if set, makes every connection speak TLS; see ReloadingTLS.
	TLS *tls.Config
	// TrustedProxies are the networks whose proxies are believed when they tell a
	// client's address.
	TrustedProxies []netip.Prefix
	// ProxyProtocol says that connections from TrustedProxies begin with a header of
	// the PROXY protocol, version 1 or 2. One without it is closed.
	ProxyProtocol bool
	// Admit, if set, is called for every accepted connection, before any handshake,
	// and again if a trusted proxy tells another address. It must not block. An error
	// closes the connection.
	Admit func(netip.Addr) error
	// Released, if set, is called once for every nil that Admit returned. That is at the end
	// of the connection, whether it reached the handler or not, or after Admit was called
	// for another address of it. It must be safe for concurrent use and must not block.
	Released func(netip.Addr)
	// Refused, if set, is called for every connection that did not reach the
	// handler, with a short constant reason for a counter. It must be safe for
	// concurrent use.
	Refused func(reason string)
	// Unauthenticated, if set, bounds the memory that incomplete requests and
	// packets take before Conn.Authenticated.
	Unauthenticated *InputBudget
	// HandshakeTimeout bounds everything between accept and handle, such as the
	// TLS handshake and the WebSocket upgrade. 0 is 5 s. The handler itself
	// bounds the time until the client has authenticated.
	HandshakeTimeout time.Duration
	// WriteBuffer is the kernel's send buffer of a connection, in bytes. 0
	// leaves it to the kernel.
	WriteBuffer int
	// Grace bounds how long handlers may take after Run's context is done. Then
	// open connections are reset. 0 is 10 s.
	Grace time.Duration
	// Linger is how long a closed connection waits until the client has closed
	// its side too, so that a reset does not destroy the last packets. 0 is 1 s.
	Linger time.Duration
	// Inline says that the handler does not block where the connection is a
	// Pollable. The handler is then called on the goroutine that accepts, on that of
	// the poller, or on one of the connection's own. On the first two it holds up
	// other connections.
	Inline bool
	// Goroutines gives every connection a goroutine, also where epoll could
	// watch it.
	Goroutines bool
	// Log receives what goes wrong on the port.
	Log zerolog.Logger
}

package bus

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"imgo/internal/openconns"
)

// ioTimeout bounds reads and writes for which kafka-go sets no deadline, such as
// those of SASL.
const ioTimeout = 10 * time.Second

// dialer makes connections and can close all of them. When kafka-go gives up waiting
// for an answer, it keeps the connection open. The dialer also makes the TLS handshake,
// because kafka-go has one configuration for all connections, and certificates change.
type dialer struct {
	tls  func() *tls.Config // nil without TLS
	open openconns.Set
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := (&net.Dialer{Timeout: hostTimeout}).DialContext(ctx, network, address)
	if err == nil {
		nc, err = d.open.Add(nc)
	}
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc}
	if d.tls == nil {
		return c, nil
	}
	return secured(ctx, c, address, d.tls().Clone())
}

// secured makes the TLS handshake with the host of an address.
func secured(ctx context.Context, c net.Conn, address string, config *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		config.ServerName = host
		sc := tls.Client(c, config)
		if err = sc.HandshakeContext(ctx); err == nil {
			return sc, nil
		}
	}
	_ = c.Close()
	return nil, err
}

// close closes every connection. Later dials fail.
func (d *dialer) close() { d.open.Close() }

// conn is a connection on which no read or write takes for ever.
type conn struct {
	net.Conn

	hasReadDeadline, hasWriteDeadline atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	if !c.hasReadDeadline.Load() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(ioTimeout))
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if !c.hasWriteDeadline.Load() {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(ioTimeout))
	}
	return c.Conn.Write(p)
}

func (c *conn) SetDeadline(t time.Time) error {
	c.hasReadDeadline.Store(!t.IsZero())
	c.hasWriteDeadline.Store(!t.IsZero())
	return c.Conn.SetDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.hasReadDeadline.Store(!t.IsZero())
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.hasWriteDeadline.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

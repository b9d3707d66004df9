package bus

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ioTimeout bounds reads and writes for which kafka-go sets no deadline, such as
// those of SASL.
const ioTimeout = 10 * time.Second

// dialer makes connections and can close all of them. When kafka-go gives up waiting
// for an answer, it keeps the connection open.
type dialer struct {
	dialer net.Dialer

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

func newDialer() *dialer {
	return &dialer{dialer: net.Dialer{Timeout: hostTimeout}, conns: map[*conn]struct{}{}}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := d.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, dialer: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// close closes every connection. Later dials fail.
func (d *dialer) close() {
	d.mu.Lock()
	conns := d.conns
	d.conns, d.closed = nil, true
	d.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// conn is a connection on which no read or write takes for ever.
type conn struct {
	net.Conn
	dialer                            *dialer
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

func (c *conn) Close() error {
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

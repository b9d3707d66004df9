package bus

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ioTimeout bounds reads and writes for which kafka-go sets no deadline, such
// as those of SASL.
const ioTimeout = 10 * time.Second

// dialer makes the connections and remembers them: kafka-go gives up waiting
// for an answer, but not the connection on which it is to come.
type dialer struct {
	host net.Dialer

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

func newDialer() *dialer {
	return &dialer{host: net.Dialer{Timeout: hostTimeout}, conns: map[*conn]struct{}{}}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nc, err := d.host.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, of: d}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	d.conns[c] = struct{}{}
	return c, nil
}

// close cuts every connection, and makes no more.
func (d *dialer) close() {
	d.mu.Lock()
	conns := d.conns
	d.conns, d.closed = nil, true
	d.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}

// conn is a connection on which nothing takes for ever.
type conn struct {
	net.Conn
	of            *dialer
	reads, writes atomic.Bool // whether there is a deadline
}

func (c *conn) Read(p []byte) (int, error) {
	if !c.reads.Load() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(ioTimeout))
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if !c.writes.Load() {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(ioTimeout))
	}
	return c.Conn.Write(p)
}

func (c *conn) SetDeadline(t time.Time) error {
	c.reads.Store(!t.IsZero())
	c.writes.Store(!t.IsZero())
	return c.Conn.SetDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.reads.Store(!t.IsZero())
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writes.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

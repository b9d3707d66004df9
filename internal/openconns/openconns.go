// Package openconns keeps the open connections of their owner, which can close all of them. A Set owns
// connections until they are closed. It does not wait for their users.
package openconns

import (
	"net"
	"sync"
)

// Set is a set of open connections. The zero value is empty. It is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

// conn leaves its Set when it is closed.
type conn struct {
	net.Conn
	set *Set
}

// Add adds a connection. Its owner must use and close the connection that Add returns. After Close,
// Add closes the connection and returns net.ErrClosed.
func (s *Set) Add(nc net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = nc.Close()
		return nil, net.ErrClosed
	}
	if s.conns == nil {
		s.conns = make(map[*conn]struct{})
	}
	c := &conn{nc, s}
	s.conns[c] = struct{}{}
	return c, nil
}

// Cut closes all connections.
func (s *Set) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Conn.Close()
	}
	clear(s.conns)
}

// Close is Cut, and lets no connection be added any more.
func (s *Set) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Cut()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.set.mu.Lock()
	delete(c.set.conns, c)
	c.set.mu.Unlock()
	return c.Conn.Close()
}

// Package peer is a scripted server for the tests of client libraries. It accepts connections over TCP, TLS and
// WebSocket. A script decides about every byte that it sends.
package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Limit bounds every wait of a script. It is far longer than any step of a working client takes. A test of the judge
// itself sets it before any server is made.
var Limit = 30 * time.Second

// The transports of a server.
const (
	TCP = "tcp"
	TLS = "tls"
	WS  = "ws"
	WSS = "wss"
)

// Server accepts the connections of clients.
type Server struct {
	listener  *net.TCPListener
	transport string
	tls       *tls.Config
	slow      bool

	mu    sync.Mutex
	conns []*Conn
}

// Listen starts a server on 127.0.0.1. address is "" for any port, or the Address of an earlier server. config is
// for TLS and WSS.
func Listen(transport, address string, config *tls.Config) (*Server, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Server{listener: l.(*net.TCPListener), transport: transport, tls: config}, nil
}

// Slow makes later connections read at slowRate bytes a second, like a slow network.
func (s *Server) Slow() error {
	s.slow = true
	return smallSegments(s.listener)
}

// Address returns the address as host:port.
func (s *Server) Address() string { return s.listener.Addr().String() }

// URL returns the address with the scheme, and with the default path of a WebSocket.
func (s *Server) URL() string {
	url := s.transport + "://" + s.Address()
	if s.webSocket() {
		url += "/sub"
	}
	return url
}

func (s *Server) webSocket() bool { return s.transport == WS || s.transport == WSS }

// AcceptRaw waits for a connection at most for a time. It does no handshake. The error is os.ErrDeadlineExceeded if
// none has come.
func (s *Server) AcceptRaw(within time.Duration) (*Conn, error) {
	if err := s.listener.SetDeadline(time.Now().Add(within)); err != nil {
		return nil, err
	}
	socket, err := s.listener.AcceptTCP()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = os.ErrDeadlineExceeded
		}
		return nil, err
	}
	c := newConn(socket, s.slow)
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	return c, nil
}

// Accept waits for a connection and does the handshakes of TLS and WebSocket.
func (s *Server) Accept() (*Conn, error) {
	c, err := s.AcceptRaw(Limit)
	if err != nil {
		return nil, fmt.Errorf("accept a connection: %w", err)
	}
	return c, s.Handshake(c)
}

// Handshake does the handshakes of TLS and WebSocket, if the transport has them.
func (s *Server) Handshake(c *Conn) error {
	if s.tls != nil {
		if err := c.startTLS(s.tls); err != nil {
			return fmt.Errorf("TLS handshake: %w", err)
		}
	}
	if s.webSocket() {
		if err := c.startWebSocket(); err != nil {
			return fmt.Errorf("WebSocket handshake: %w", err)
		}
	}
	return nil
}

// Close stops listening and ends all connections.
func (s *Server) Close() {
	s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

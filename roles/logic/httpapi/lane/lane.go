package lane

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is an http.Server with a lane. Its methods are those of http.Server
// and may be called by many goroutines at once.
type Server struct {
	// HTTP has the handler and the deadlines of both. Nothing of it may be
	// changed once Serve was called. Its handler must not change a request's
	// header, nor keep the request or its body, after it has returned.
	HTTP *http.Server

	target string // of the requests that the lane takes
	handed *handed
	ctx    context.Context
	cancel context.CancelFunc

	closing atomic.Bool // set under mu
	mu      sync.Mutex
	conns   map[*conn]struct{}
	drained chan struct{} // closed when closing and there are no conns
	serving sync.WaitGroup
}

// New makes a server whose lane takes POST requests for a target, which is a
// path without a query.
func New(h *http.Server, target string) *Server {
	s := &Server{
		HTTP: h, target: target, handed: newHanded(),
		conns: make(map[*conn]struct{}), drained: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections until Shutdown or Close is called; then it waits
// for the requests that are in the lane and returns http.ErrServerClosed. It
// may be called once.
func (s *Server) Serve(l net.Listener) error {
	s.handed.addr = l.Addr()
	second := make(chan error, 1)
	go func() { second <- s.HTTP.Serve(s.handed) }()
	err := s.HTTP.Serve(front{l, s})
	if !errors.Is(err, http.ErrServerClosed) {
		_ = s.handed.Close()
		s.end(true)
	}
	<-second
	s.serving.Wait()
	return err
}

// Shutdown stops accepting, closes the connections that wait for a request and
// waits for the others' answers. When ctx is done first it returns its error,
// and Close is to be called.
func (s *Server) Shutdown(ctx context.Context) error {
	s.end(false)
	err := s.HTTP.Shutdown(ctx)
	select {
	case <-s.drained:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops accepting, closes all connections and ends the contexts of their
// requests.
func (s *Server) Close() error {
	s.end(true)
	return s.HTTP.Close()
}

// end lets no connection in any more and closes those that wait, or all.
func (s *Server) end(all bool) {
	if all {
		s.cancel()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing.Swap(true) && len(s.conns) == 0 {
		close(s.drained)
	}
	for c := range s.conns {
		if c.state.CompareAndSwap(waiting, closed) || all {
			_ = c.tcp.Close()
		}
	}
}

// enter puts a connection into the lane.
func (s *Server) enter(tcp *net.TCPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		_ = tcp.Close()
		return
	}
	c := newConn(s, tcp)
	s.conns[c] = struct{}{}
	s.serving.Go(c.serve)
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.closing.Load() && len(s.conns) == 0 {
		close(s.drained)
	}
}

// front is the listener as net/http sees it: it keeps what the lane can serve.
type front struct {
	net.Listener
	s *Server
}

// Accept gives net/http what is not for the lane, and every error: which ones
// pass, and how long to wait then, it knows.
func (f front) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, plain := conn.(*net.TCPConn)
		if !plain {
			return conn, nil
		}
		f.s.enter(tcp)
	}
}

// handed is a listener of the connections that leave the lane for net/http.
type handed struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHanded() *handed {
	return &handed{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept waits for a connection.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; net/http calls it, perhaps more than once.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is the address of the listener that the connections come from.
func (h *handed) Addr() net.Addr { return h.addr }

// take gives net/http a connection and what was read of it.
func (h *handed) take(tcp *net.TCPConn, read []byte) {
	_ = tcp.SetDeadline(time.Time{}) // net/http has its own; an error comes again there
	select {
	case h.conns <- &handedConn{TCPConn: tcp, read: read}:
	case <-h.done:
		_ = tcp.Close()
	}
}

// handedConn is a connection of which something was read before.
type handedConn struct {
	*net.TCPConn
	read []byte
}

// Read gives what was read before, then what comes.
func (c *handedConn) Read(p []byte) (int, error) {
	if len(c.read) == 0 {
		return c.TCPConn.Read(p)
	}
	n := copy(p, c.read)
	if c.read = c.read[n:]; len(c.read) == 0 {
		c.read = nil
	}
	return n, nil
}

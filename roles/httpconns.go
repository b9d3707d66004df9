package roles

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// httpConns bounds the connections of the HTTP port, so that they leave the descriptors of the process
// to clients. A connection above the bound takes the place of the one that has waited longest for a
// request. If each one has a request under way, the new connection is closed. Safe for concurrent use.
//
// It also closes the connections on which no request has arrived yet when the node stops. The
// connection pools of callers open them in reserve. http.Server.Shutdown would wait seconds for them,
// and meanwhile no caller could push.
type httpConns struct {
	max    int
	closed prometheus.Counter

	mu      sync.Mutex
	conns   map[net.Conn]*httpConn
	waiting *list.List // of *httpConn without a request, the one that waits longest first
	ended   bool
}

// httpConn is one connection of the HTTP port.
type httpConn struct {
	net.Conn
	fresh   bool          // no request has arrived yet
	waiting *list.Element // nil: a request is under way
}

func newHTTPConns(most int, reg prometheus.Registerer) *httpConns {
	h := &httpConns{max: most, conns: make(map[net.Conn]*httpConn), waiting: list.New()}
	h.closed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "imgo_node_http_connections_closed_total",
		Help: "Connections of the HTTP port that were closed because there were more than http.max_connections.",
	})
	reg.MustRegister(h.closed)
	return h
}

// track is the ConnState function of an http.Server.
func (h *httpConns) track(conn net.Conn, state http.ConnState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if state == http.StateNew {
		h.addLocked(conn)
		return
	}
	c := h.conns[conn]
	if c == nil {
		return // It was closed here.
	}
	if c.waiting != nil {
		h.waiting.Remove(c.waiting)
		c.waiting = nil
	}
	c.fresh = false
	switch state {
	case http.StateIdle:
		c.waiting = h.waiting.PushBack(c)
	case http.StateClosed, http.StateHijacked:
		delete(h.conns, conn)
	}
}

func (h *httpConns) addLocked(conn net.Conn) {
	if h.ended { // It was accepted just before the server stopped listening.
		closeNow(conn)
		return
	}
	if len(h.conns) >= h.max {
		h.closed.Inc()
		longest := h.waiting.Front()
		if longest == nil {
			closeNow(conn)
			return
		}
		h.closeLocked(longest.Value.(*httpConn))
	}
	c := &httpConn{Conn: conn, fresh: true}
	c.waiting = h.waiting.PushBack(c)
	h.conns[conn] = c
}

// closeLocked closes a connection that has no request under way.
func (h *httpConns) closeLocked(c *httpConn) {
	h.waiting.Remove(c.waiting)
	delete(h.conns, c.Conn)
	closeNow(c.Conn)
}

// closeNow closes a connection without TLS's goodbye, which could wait for the caller.
func closeNow(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		conn = c.NetConn()
	}
	_ = conn.Close()
}

// end closes the connections without a request, and every later one that track gets.
func (h *httpConns) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for _, c := range h.conns {
		if c.fresh {
			h.closeLocked(c)
		}
	}
}

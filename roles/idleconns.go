package roles

import (
	"net"
	"net/http"
	"sync"
)

// idleConns tracks the connections to the API on which no request has arrived yet. The connection
// pools of callers open them in reserve. http.Server.Shutdown would wait seconds for them, and
// meanwhile no caller could push. Therefore close closes them. Safe for concurrent use.
type idleConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil after close
}

func newIdleConns() *idleConns { return &idleConns{conns: make(map[net.Conn]struct{})} }

// track is the ConnState function of an http.Server.
func (i *idleConns) track(conn net.Conn, state http.ConnState) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(i.conns, conn)
	case i.conns == nil:
		_ = conn.Close() // The connection was accepted just before the server stopped listening.
	default:
		i.conns[conn] = struct{}{}
	}
}

// close closes these connections, and every later one that track gets.
func (i *idleConns) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for conn := range i.conns {
		_ = conn.Close()
	}
	i.conns = nil
}

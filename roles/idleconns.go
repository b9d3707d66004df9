package roles

import (
	"net"
	"net/http"
	"sync"
)

// idleConns tracks the connections to the API on which no request has arrived yet.
// The pools of callers open such connections in reserve. http.Server.Shutdown waits
// seconds for them, and no caller could push meanwhile, so close closes them. Safe
// for concurrent use.
type idleConns struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil after close
}

func newIdleConns() *idleConns { return &idleConns{conns: make(map[net.Conn]struct{})} }

// note is the ConnState function of an http.Server.
func (i *idleConns) note(conn net.Conn, state http.ConnState) {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(i.conns, conn)
	case i.conns == nil:
		_ = conn.Close() // it was accepted just before the server stopped listening
	default:
		i.conns[conn] = struct{}{}
	}
}

// close closes these connections, and those that note still gets.
func (i *idleConns) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for conn := range i.conns {
		_ = conn.Close()
	}
	i.conns = nil
}

package roles

import (
	"net"
	"net/http"
	"sync"
)

// untouched are the API's connections on which nothing has arrived yet.
// Callers' pools open them in reserve, and http.Server.Shutdown waits seconds
// for each, during which nobody can push: end closes them. Safe for
// concurrent use.
type untouched struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil: ended
}

func newUntouched() *untouched { return &untouched{conns: make(map[net.Conn]struct{})} }

// note is an http.Server's ConnState.
func (u *untouched) note(conn net.Conn, state http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(u.conns, conn)
	case u.conns == nil:
		_ = conn.Close() // it came while the server was about to stop listening
	default:
		u.conns[conn] = struct{}{}
	}
}

// end closes them, and those that still come.
func (u *untouched) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn := range u.conns {
		_ = conn.Close()
	}
	u.conns = nil
}

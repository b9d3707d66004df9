package imgoclient

import (
	"net"
	"sync/atomic"
	"time"
)

// activity knows when bytes last arrived from the server, by the monotonic clock.
type activity struct {
	base time.Time
	last atomic.Int64 // nanoseconds since base
}

func newActivity() *activity { return &activity{base: time.Now()} }

func (a *activity) touch() { a.last.Store(int64(time.Since(a.base))) }

// after reports whether bytes have arrived since from.
func (a *activity) after(from time.Time) bool {
	return time.Duration(a.last.Load()) >= from.Sub(a.base)
}

// observedConn tells an activity of arriving bytes.
type observedConn struct {
	net.Conn
	activity *activity
}

func (c observedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.activity.touch()
	}
	return n, err
}

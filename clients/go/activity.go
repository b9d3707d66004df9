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

// writePiece is the number of bytes that the connection must take within RequestTimeout. It is at most a record of TLS.
const writePiece = 16 << 10

// observedConn tells an activity of arriving bytes, and bounds the time of writing by its progress.
type observedConn struct {
	net.Conn
	activity *activity
	timeout  time.Duration // for each piece of a write
}

// Write writes b in pieces, each with a deadline of its own. So a long packet may take long on a slow network.
func (c observedConn) Write(b []byte) (written int, err error) {
	for written < len(b) && err == nil {
		if err = c.SetWriteDeadline(time.Now().Add(c.timeout)); err == nil {
			var n int
			n, err = c.Conn.Write(b[written:min(written+writePiece, len(b))])
			written += n
		}
	}
	return written, err
}

func (c observedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.activity.touch()
	}
	return n, err
}

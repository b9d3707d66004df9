//go:build !unix

package socket

import (
	"net"
	"time"
)

// tryWrite waits a moment, because there is no portable way to write without
// waiting.
func tryWrite(c *net.TCPConn, b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	return c.Write(b)
}

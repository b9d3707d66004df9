//go:build !unix

package socket

import (
	"net"
	"time"
)

// tryWrite has no way here to ask the kernel without waiting, so it waits a
// moment.
func tryWrite(c *net.TCPConn, b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	return c.Write(b)
}

package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

const unackedKnown = true

// unacked returns the number of bytes in the kernel's send queue: those that were
// sent and not acknowledged, and those that were not sent yet.
func unacked(c *net.TCPConn) (int64, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var ioErr error
	if err := raw.Control(func(fd uintptr) { n, ioErr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
		return 0, err
	}
	return int64(n), ioErr
}

package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

const unackedKnown = true

// unacked asks the kernel for the bytes in the send queue: sent and not
// acknowledged, or not sent yet.
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

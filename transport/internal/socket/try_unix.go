//go:build unix

package socket

import (
	"net"

	"golang.org/x/sys/unix"
)

// tryWrite hands to the kernel what it takes of b at once. It returns 0 if that is
// nothing.
func tryWrite(c *net.TCPConn, b []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var wErr error
	err = raw.Write(func(fd uintptr) bool {
		for {
			if n, wErr = unix.Write(int(fd), b); wErr != unix.EINTR {
				return true // never wait for room
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case wErr == unix.EAGAIN:
		return 0, nil
	case wErr != nil:
		return 0, wErr
	}
	return n, nil
}

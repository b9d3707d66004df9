package peer

import (
	"net"
	"syscall"
)

// smallSegments makes the clients of a listener send small segments, so that their kernels hold few bytes.
func smallSegments(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		if failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536); failed == nil {
			failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10)
		}
	}); err != nil {
		return err
	}
	return failed
}

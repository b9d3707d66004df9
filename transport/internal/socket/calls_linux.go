package socket

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// This file has the system calls on clients' sockets that end within some
// microseconds, whatever the client does. None of them waits, and none wakes a
// process that the kernel would run in place of the caller. So Go's scheduler is
// not told of them (RawSyscall). Otherwise the first call after a time of rest
// would wake the scheduler's monitor thread, which then looks around every 20 µs
// until all is at rest again. For a client that connects alone that costs as
// much as the calls themselves. Sending is different, see output.send.

// readNow is read(2) of a socket that does not block.
func readNow(fd int32, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// acceptNow is accept4(2) of a socket that does not block.
func acceptNow(port uintptr, from *unix.RawSockaddrAny) (fd int, errno unix.Errno) {
	size := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, port, uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

// eventsNow is epoll_wait(2) without a wait.
func eventsNow(epoll uintptr, events []unix.EpollEvent) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, epoll,
			uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// watchNow is epoll_ctl(2).
func watchNow(epoll, op int, fd int32, events *unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(events)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// unackedNow is SIOCOUTQ: the bytes that the peer has not acknowledged.
func unackedNow(fd int32) (int64, bool) {
	var n int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int64(n), errno == 0
}

// closeNow is close(2) of a socket that does not linger.
func closeNow(fd int32) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

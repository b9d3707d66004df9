package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// polling is what an Acceptor has where epoll waits for its sockets.
type polling struct {
	poller *poller  // nil: a goroutine for each connection
	port   *os.File // the listening socket
	raw    syscall.RawConn
	arrival
}

// arrival is what accept4 says. It is in one place, and accept a function that
// is made once, so that accepting allocates nothing.
type arrival struct {
	accept func(port uintptr) bool
	fd     int
	from   unix.RawSockaddrAny
	err    error
}

// accept4 accepts a connection; false: there is none.
func (ar *arrival) accept4(port uintptr) bool {
	var errno unix.Errno
	ar.fd, errno = acceptNow(port, &ar.from)
	ar.err = nil
	if errno != 0 {
		ar.err = errno
	}
	return errno != unix.EAGAIN
}

// source is the peer's address.
func (ar *arrival) source() netip.AddrPort {
	switch ar.from.Addr.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&ar.from))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), portOf(&sa.Port))
	case unix.AF_INET6:
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&ar.from))
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), portOf(&sa.Port))
	}
	return netip.AddrPort{}
}

// portOf reads a port, which is in network order.
func portOf(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// poll prepares for polled sockets, if these are to be had: here, and without
// TLS, whose state is not ours to park.
func (a *Acceptor) poll() error {
	if a.cfg.TLS != nil || a.cfg.Goroutines {
		return nil
	}
	// A listener does not let others accept on its descriptor; a copy of that
	// does. What accepted sockets are to have they inherit.
	port, err := a.ln.File()
	if err != nil {
		return fmt.Errorf("copy a listening socket: %w", err)
	}
	raw, err := port.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle/time.Second)),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval/time.Second)),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAlive.Count),
			)
			if a.cfg.WriteBuffer > 0 {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, a.cfg.WriteBuffer))
			}
		})
		err = errors.Join(err, ctlErr)
	}
	if err != nil {
		_ = port.Close()
		return fmt.Errorf("set up a listening socket: %w", err)
	}
	po, err := newPoller()
	if err != nil {
		_ = port.Close()
		return err
	}
	po.start()
	a.poller, a.port, a.raw = po, port, raw
	a.accept = a.accept4
	return nil
}

// Polls says whether NextPolled is to be called in place of Next.
func (a *Acceptor) Polls() bool { return a.poller != nil }

// closePort ends NextPolled.
func (p *polling) closePort() {
	if p.port != nil {
		_ = p.port.Close()
	}
}

// stop ends the poller, when no socket is open.
func (p *polling) stop() {
	if p.poller != nil {
		p.poller.close()
	}
}

// abort resets every socket that is open.
func (p *polling) abort() {
	if p.poller != nil {
		for _, s := range p.poller.all() {
			s.Abort()
		}
	}
}

// NextPolled is Next for polled sockets, which Finish ends; for one goroutine.
// into says where the next one lives.
func (a *Acceptor) NextPolled(ctx context.Context, into func() *Polled) error {
	retry := a.retry()
	for {
		err := a.raw.Read(a.accept)
		acceptErr := a.arrival.err
		switch {
		case ctx.Err() != nil:
			if err == nil && acceptErr == nil {
				_ = unix.Close(a.fd)
			}
			return ctx.Err()
		case err != nil: // nothing else ends a wait
			return net.ErrClosed
		case acceptErr == unix.EINTR || acceptErr == unix.ECONNABORTED:
			continue
		case acceptErr != nil:
			if err := retry.failed(ctx, acceptErr); err != nil {
				return err
			}
			continue
		}
		retry.worked()
		if a.admitPolled(a.fd, a.source(), into) {
			return nil
		}
	}
}

// admitPolled makes a socket of an accepted descriptor, or refuses it.
func (a *Acceptor) admitPolled(fd int, remote netip.AddrPort, into func() *Polled) bool {
	if !a.admitted(remote) {
		_ = unix.Close(fd)
		return false
	}
	p := into()
	p.acceptor, p.remote, p.fd = a, remote, int32(fd)
	p.out.fd, p.out.final = p.fd, -1
	p.Sign()
	a.poller.enter(p)
	a.mu.Lock()
	a.count++
	a.mu.Unlock()
	return true
}

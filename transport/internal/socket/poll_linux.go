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

// polling is the part of an Acceptor whose sockets epoll watches.
type polling struct {
	poller *poller  // nil: each connection has a goroutine
	port   *os.File // the listening socket
	raw    syscall.RawConn
	accepted
}

// accepted is the result of accept4. It lives in one place, and accept is a
// function value that is made once, so accepting allocates nothing.
type accepted struct {
	accept func(port uintptr) bool
	fd     int
	from   unix.RawSockaddrAny
	err    error
}

// accept4 accepts a connection. It reports false if there is none.
func (r *accepted) accept4(port uintptr) bool {
	var errno unix.Errno
	r.fd, errno = acceptNow(port, &r.from)
	r.err = nil
	if errno != 0 {
		r.err = errno
	}
	return errno != unix.EAGAIN
}

// source is the peer's address.
func (r *accepted) source() netip.AddrPort {
	switch r.from.Addr.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.from))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), portOf(&sa.Port))
	case unix.AF_INET6:
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&r.from))
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), portOf(&sa.Port))
	}
	return netip.AddrPort{}
}

// portOf reads a port in network byte order.
func portOf(port *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(port))[:])
}

// poll prepares for polled sockets. It does nothing with TLS, which blocks in a
// goroutine, and with ListenConfig.Goroutines.
func (a *Acceptor) poll() error {
	if a.cfg.TLS != nil || a.cfg.Goroutines {
		return nil
	}
	// The net package does not let others accept on a listener's descriptor, but
	// on a copy of it. Accepted sockets inherit the options that are set here.
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
	po.wg.Go(po.run) // until stop closes the epoll
	a.poller, a.port, a.raw = po, port, raw
	a.accept = a.accept4
	return nil
}

// Polls reports whether NextPolled is to be called in place of Next.
func (a *Acceptor) Polls() bool { return a.poller != nil }

// closePort ends NextPolled.
func (p *polling) closePort() {
	if p.port != nil {
		_ = p.port.Close()
	}
}

// stop ends the poller. No socket is open any more.
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

// NextPolled is Next for polled sockets, which Release ends. It is for one
// goroutine. p, which is not in use yet, becomes the next socket.
func (a *Acceptor) NextPolled(ctx context.Context, p *Polled) error {
	backoff := newBackoff()
	for {
		err := a.raw.Read(a.accept)
		acceptErr := a.accepted.err
		switch {
		case ctx.Err() != nil:
			if err == nil && acceptErr == nil {
				_ = unix.Close(a.fd)
			}
			return ctx.Err()
		case err != nil: // the port was closed
			return net.ErrClosed
		case acceptErr == unix.EINTR || acceptErr == unix.ECONNABORTED:
			continue
		case acceptErr != nil:
			if err := a.failed(ctx, &backoff, acceptErr); err != nil {
				return err
			}
			continue
		}
		backoff.Reset()
		if a.admitPolled(a.fd, a.source(), p) {
			return nil
		}
	}
}

// admitPolled makes p the socket of an accepted descriptor. It reports false if the
// connection is refused.
func (a *Acceptor) admitPolled(fd int, remote netip.AddrPort, p *Polled) bool {
	if !a.admitted(remote) {
		_ = unix.Close(fd)
		return false
	}
	p.acceptor, p.addr, p.port, p.fd = a, remote.Addr(), remote.Port(), int32(fd)
	p.out.final = -1
	p.Sign()
	a.poller.enter(p)
	a.mu.Lock()
	a.count++
	a.mu.Unlock()
	return true
}

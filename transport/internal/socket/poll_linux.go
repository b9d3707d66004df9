package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// polling is what an Acceptor has where epoll waits for its sockets.
type polling struct {
	poller *poller  // nil: a goroutine for each connection
	port   *os.File // the listening socket
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
	if err := po.start(); err != nil {
		_ = port.Close()
		_ = po.file.Close()
		return err
	}
	a.poller, a.port = po, port
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

// NextPolled is Next for polled sockets, which Finish ends. into says where the
// next one lives.
func (a *Acceptor) NextPolled(ctx context.Context, into func() *Polled) error {
	raw, err := a.port.SyscallConn()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	retry := a.retry()
	for {
		var fd int
		var from unix.Sockaddr
		var acceptErr error
		err := raw.Read(func(port uintptr) bool {
			fd, from, acceptErr = unix.Accept4(int(port), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return acceptErr != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			if err == nil && acceptErr == nil {
				_ = unix.Close(fd)
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
		if a.admitPolled(fd, from, into) {
			return nil
		}
	}
}

// admitPolled makes a socket of an accepted descriptor, or refuses it.
func (a *Acceptor) admitPolled(fd int, from unix.Sockaddr, into func() *Polled) bool {
	remote := sourceOf(from)
	if !a.admitted(remote) {
		_ = unix.Close(fd)
		return false
	}
	p := into()
	p.acceptor, p.remote, p.fd, p.final = a, remote, int32(fd), -1
	p.Sign()
	a.poller.enter(p)
	a.mu.Lock()
	a.count++
	a.mu.Unlock()
	return true
}

// sourceOf is the peer's address as accept4 tells it.
func sourceOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Package socket is what the tcp and ws transports have in common below their
// framing: accepted TCP sockets with gathered writes, exact counts and an end
// that waits for nobody, and the accept loop that survives every error. It owns
// file descriptors and their deadlines; it knows no packets.
//
// There are two kinds. A Socket (plain or TLS, everywhere) blocks in a goroutine
// of whoever accepted it. A Polled (plain, on Linux) is watched by an epoll,
// whose one goroutine for each Acceptor is the only one that is started here;
// Drain waits for it. The Acceptor chooses when it binds its port.
package socket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// closeGrace bounds a write that is under way when the socket is to be
	// ended: what has not gone out by then is torn off.
	closeGrace = 250 * time.Millisecond
	// urgentTimeout bounds the write of urgent bytes that no Send carries.
	urgentTimeout = 5 * time.Second
	// lingerBytes bounds what is read and thrown away while a socket lingers.
	lingerBytes = 256 << 10
)

// Socket is one accepted connection. Read is for one goroutine at a time;
// everything else may be called from anywhere.
//
// Its end has two parts. CloseWith, which never blocks, says goodbye: last bytes,
// TLS close_notify, FIN, and wakes the reader and the writer. Finish, called
// by the goroutine that ran the connection, lets the peer read the goodbye (a
// close with unread input makes the kernel send a reset, which destroys bytes
// that the peer has not read yet) and frees the socket.
type Socket struct {
	tcp      *net.TCPConn
	tls      *tls.Conn // nil without TLS
	acceptor *Acceptor
	remote   netip.AddrPort

	written atomic.Int64 // bytes handed to the kernel
	final   atomic.Int64 // unacknowledged bytes at the end, -1 before it
	closing atomic.Bool  // CloseWith or Abort was called
	gone    atomic.Bool  // the peer ended or reset the stream
	pending atomic.Bool  // urgent, last or shut wait for the holder of wmu

	wmu  sync.Mutex // held by whoever writes
	torn bool       // part of a frame went out: nothing can follow. Under wmu.
	shut bool       // endLocked was called. Under wmu.

	pmu    sync.Mutex // guards what waits for the holder of wmu
	urgent []byte
	last   []byte
}

func newSocket(tcp *net.TCPConn, a *Acceptor) *Socket {
	s := &Socket{tcp: tcp, acceptor: a}
	if addr, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		s.remote = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	s.final.Store(-1)
	if a.cfg.TLS != nil {
		s.tls = tls.Server(wire{s}, a.cfg.TLS)
	}
	return s
}

// Remote is the peer's address; IPv4 as IPv4, never mapped into IPv6.
func (s *Socket) Remote() netip.AddrPort { return s.remote }

// Written counts the bytes handed to the kernel, TLS records and all.
func (s *Socket) Written() int64 { return s.written.Load() }

// Unacked counts the bytes handed to the kernel that the peer's TCP has not
// acknowledged; after the end, how many these were at the end. Read Written
// first: Written - Unacked then never claims too much.
func (s *Socket) Unacked() (int64, bool) {
	if n := s.final.Load(); n >= 0 {
		return n, unackedKnown
	}
	n, err := unacked(s.tcp)
	if f := s.final.Load(); f >= 0 { // ended meanwhile, FIN may be counted in
		return f, unackedKnown
	}
	return n, err == nil && unackedKnown
}

// Handshake runs the TLS handshake, if there is one to run, bounded by ctx.
func (s *Socket) Handshake(ctx context.Context) error {
	if s.tls == nil {
		return nil
	}
	if err := s.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	return nil
}

// Read reads like a net.Conn. The end of the stream is io.EOF, a reset or a
// broken TLS stream io.ErrUnexpectedEOF with its cause, the deadline
// os.ErrDeadlineExceeded, and our own end net.ErrClosed.
func (s *Socket) Read(b []byte) (n int, err error) {
	if s.tls != nil {
		n, err = s.tls.Read(b)
	} else {
		n, err = s.tcp.Read(b)
	}
	switch {
	case err == nil:
		return n, nil
	case s.closing.Load():
		return n, net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	}
	s.gone.Store(true)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

// SetReadDeadline bounds the Read under way and the following ones.
func (s *Socket) SetReadDeadline(t time.Time) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	err := s.tcp.SetReadDeadline(t)
	if s.closing.Load() { // CloseWith meanwhile: the reader must still wake
		_ = s.tcp.SetReadDeadline(past)
	}
	return err
}

// CloseWith ends the connection without blocking: last (may be nil) is sent if the
// kernel takes it at once, then TLS's close_notify and a FIN. A Write under
// way has closeGrace to finish and then says goodbye itself. A Read under way
// returns. Only the first call counts; it says whether this was it.
func (s *Socket) CloseWith(last []byte) bool {
	s.pmu.Lock()
	if s.closing.Load() {
		s.pmu.Unlock()
		return false
	}
	s.last = last
	s.closing.Store(true)
	s.pending.Store(true)
	s.pmu.Unlock()

	_ = s.tcp.SetReadDeadline(past)
	_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	if s.wmu.TryLock() {
		s.unlockWrite()
	}
	return true
}

// Finish frees the socket after its last use: it waits up to linger for the
// peer to end its side too, throwing away what it sends, unless the stream is
// torn or the peer gone. It shuts a socket that nobody has shut.
func (s *Socket) Release() {
	s.CloseWith(nil)
	// A writer may still be at it, for closeGrace at the most.
	s.wmu.Lock()
	torn := s.torn
	s.unlockWrite()
	if torn {
		s.Abort()
		return
	}
	if !s.gone.Load() {
		s.drain(time.Now().Add(s.acceptor.cfg.Linger))
	}
	_ = s.tcp.Close()
}

// drain reads and throws away until the peer ends, much was read, or deadline.
func (s *Socket) drain(deadline time.Time) {
	if s.tcp.SetReadDeadline(deadline) != nil {
		return
	}
	buf := s.acceptor.flat()
	defer s.acceptor.putFlat(buf)
	b := (*buf)[:cap(*buf)]
	for left := lingerBytes; left > 0; {
		n, err := s.tcp.Read(b)
		if err != nil {
			return
		}
		left -= n
	}
}

// Abort ends the connection at once with a reset, freeing what the kernel
// still holds for it. Reads and writes under way return.
func (s *Socket) Abort() {
	s.pmu.Lock()
	s.closing.Store(true)
	s.pmu.Unlock()
	s.keepFinal()
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}

// keepFinal remembers what was unacknowledged while the kernel still tells.
func (s *Socket) keepFinal() {
	if n, err := unacked(s.tcp); err == nil {
		s.final.CompareAndSwap(-1, n)
	} else {
		s.final.CompareAndSwap(-1, s.written.Load())
	}
}

// The rest of net.Conn, for net/http during an upgrade.

// Write writes b whole, bounded by the write deadline.
func (s *Socket) Write(b []byte) (int, error) {
	s.wmu.Lock()
	defer s.unlockWrite()
	return s.write(b)
}

// Close ends the connection without waiting for anything.
func (s *Socket) Close() error {
	s.CloseWith(nil)
	s.keepFinal()
	return s.tcp.Close()
}

// CloseWrite ends our side of the stream.
func (s *Socket) CloseWrite() error {
	if s.tls != nil {
		return s.tls.CloseWrite()
	}
	return s.tcp.CloseWrite()
}

// LocalAddr is our address.
func (s *Socket) LocalAddr() net.Addr { return s.tcp.LocalAddr() }

// RemoteAddr is the peer's address.
func (s *Socket) RemoteAddr() net.Addr { return s.tcp.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetWriteDeadline bounds Write; Send has a deadline of its own.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	err := s.tcp.SetWriteDeadline(t)
	if s.closing.Load() { // CloseWith meanwhile: a writer must still end
		_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	}
	return err
}

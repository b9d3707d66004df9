// Package socket has what the tcp and ws transports share below their framing:
// accepted TCP sockets and the accept loop. It owns file descriptors and their
// deadlines. It does not know packets.
//
// It guarantees that ending a connection never blocks, that the counts of bytes
// are exact, and that the accept loop goes on after every error.
//
// There are two kinds of sockets, and the Acceptor chooses when it binds its
// port. A Socket (plain or TLS, on every system) blocks in a goroutine of its
// user. A Polled (plain, on Linux) is watched by epoll. One goroutine for each
// Acceptor waits for the epoll, and Drain waits for that goroutine to end.
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
	// closeGrace bounds a write that is under way when the connection is closed.
	// What has not gone out by then is given up.
	closeGrace = 250 * time.Millisecond
	// urgentTimeout bounds the write of urgent bytes that no Send carries.
	urgentTimeout = 5 * time.Second
	// lingerBytes bounds what is read and discarded while a socket lingers.
	lingerBytes = 256 << 10
)

// Socket is one accepted connection. Read is for one goroutine at a time. All
// other methods may be called by any goroutine.
//
// Its end has two parts. CloseWith never blocks. It sends the last bytes, TLS's
// close_notify and FIN, and the reader and the writer return. Release is called
// by the goroutine that ran the connection. It lets the peer read the last bytes
// and frees the socket. Without that wait the kernel would send a reset if there
// is unread input, and a reset destroys bytes that the peer has not read yet.
type Socket struct {
	tcp      *net.TCPConn
	tls      *tls.Conn // nil without TLS
	acceptor *Acceptor
	remote   netip.AddrPort

	written atomic.Int64 // bytes handed to the kernel
	final   atomic.Int64 // unacknowledged bytes at the end, -1 before it
	closing atomic.Bool  // CloseWith or Abort was called
	gone    atomic.Bool  // the peer ended or reset the stream
	pending atomic.Bool  // urgent or last wait for the holder of wmu, or the end does

	wmu  sync.Mutex // held by the goroutine that writes
	torn bool       // a part of a frame went out: nothing can follow; guarded by wmu
	shut bool       // endLocked was called; guarded by wmu

	pmu    sync.Mutex // guards the two below, which wait for the holder of wmu
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

// Remote is the peer's address. IPv4 is IPv4, never mapped into IPv6.
func (s *Socket) Remote() netip.AddrPort { return s.remote }

// Written counts the bytes handed to the kernel, including TLS's own.
func (s *Socket) Written() int64 { return s.written.Load() }

// Unacked counts the bytes handed to the kernel that the peer's TCP has not
// acknowledged. After the end it is the count at the end. See transport.Conn.
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

// Handshake runs the TLS handshake, bounded by ctx. Without TLS it does nothing.
func (s *Socket) Handshake(ctx context.Context) error {
	if s.tls == nil {
		return nil
	}
	if err := s.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	return nil
}

// Read reads like a net.Conn. The error is io.EOF at the end of the stream,
// io.ErrUnexpectedEOF with its cause after a reset or a TLS error,
// os.ErrDeadlineExceeded after the deadline, and net.ErrClosed after CloseWith.
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
	if s.closing.Load() { // closed meanwhile: the reader must still return
		_ = s.tcp.SetReadDeadline(past)
	}
	return err
}

// CloseWith ends the connection without blocking. It sends last, which may be nil,
// if the kernel takes it at once, then TLS's close_notify and a FIN. A Write
// under way has closeGrace to finish, and sends these itself. A Read under way
// returns. Only the first call has an effect. It reports whether this was it.
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

// Release frees the socket after its last use, and closes it if it is open. It
// waits up to ListenConfig.Linger for the peer to end its side too, and discards
// what the peer sends, unless the stream is torn or the peer has gone.
func (s *Socket) Release() {
	s.CloseWith(nil)
	// A write may still be under way, for at most closeGrace.
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

// drain reads and discards until the peer ends the stream, lingerBytes were read,
// or the deadline has passed.
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

// Abort ends the connection at once with a reset, and frees the kernel's memory of
// it. Reads and writes under way return.
func (s *Socket) Abort() {
	s.pmu.Lock()
	s.closing.Store(true)
	s.pmu.Unlock()
	s.keepFinal()
	_ = s.tcp.SetLinger(0)
	_ = s.tcp.Close()
}

// keepFinal remembers what is unacknowledged while the kernel still knows.
func (s *Socket) keepFinal() {
	if n, err := unacked(s.tcp); err == nil {
		s.final.CompareAndSwap(-1, n)
	} else {
		s.final.CompareAndSwap(-1, s.written.Load())
	}
}

// The methods below complete net.Conn, for net/http during an upgrade.

// Write writes b whole, bounded by the write deadline.
func (s *Socket) Write(b []byte) (int, error) {
	s.wmu.Lock()
	defer s.unlockWrite()
	return s.writeLocked(b)
}

// Close ends the connection without waiting.
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

// LocalAddr is the local address.
func (s *Socket) LocalAddr() net.Addr { return s.tcp.LocalAddr() }

// RemoteAddr is the peer's address.
func (s *Socket) RemoteAddr() net.Addr { return s.tcp.RemoteAddr() }

// SetDeadline sets both deadlines.
func (s *Socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetWriteDeadline bounds Write. Send has a deadline of its own.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	err := s.tcp.SetWriteDeadline(t)
	if s.closing.Load() { // closed meanwhile: a write must still end
		_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	}
	return err
}

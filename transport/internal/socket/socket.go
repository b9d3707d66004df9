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
// Acceptor waits for the epoll, and Wait waits for that goroutine to end.
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

	"imgo/transport"
)

const (
	// closeGrace bounds a write that is under way when the connection is closed.
	// Bytes that have not gone out by then are given up.
	closeGrace = 250 * time.Millisecond
	// urgentTimeout bounds the write of urgent bytes that no Send carries.
	urgentTimeout = 5 * time.Second
	// lingerBytes bounds what is read and discarded while a socket lingers.
	lingerBytes = 256 << 10
)

// Input is what a transport reads packets from: a Socket, or a Polled. It is for
// one goroutine at a time, the reader.
type Input interface {
	// Buffered is what was read and not taken. The caller may change it.
	Buffered() []byte
	// Discard drops n bytes of Buffered, which is not to be used any more.
	Discard(n int)
	// Fill reads once, for a reader that wants Buffered to have need bytes. It need
	// not get all of them, because memory grows only as bytes arrive. Errors are
	// those of Socket.Read. A Polled returns transport.ErrIdle where a Socket waits.
	Fill(need int) error
	// Hold says that the reader itself holds n bytes of an incomplete message.
	Hold(n int)
	// Err returns why nothing more is to be taken, whatever is buffered.
	Err() error
	// Sign notes a sign of life.
	Sign()
	// Urgent sends a few bytes of framing, such as a pong. It does not wait for a
	// Send under way. A Socket blocks for up to urgentTimeout if the kernel has no
	// room. A Polled never blocks.
	Urgent(b []byte)
	// CloseWith ends the connection. last is sent if that needs no wait.
	CloseWith(last []byte) bool
	// MaxBody bounds the body of a client's packet, in bytes.
	MaxBody() int
	// Remote is the client's address.
	Remote() netip.AddrPort
	// SetRemote sets the client's address, when a trusted proxy has told it. It
	// returns an error if a client from there is not admitted. It is called before
	// the handler.
	SetRemote(client netip.AddrPort) error
}

var _ Input = (*Socket)(nil)

// idleInput is the size of the buffer of a Socket whose reader waits for a packet
// to begin, in bytes.
const idleInput = 256

// Socket is one accepted connection. Read and the methods of Input that say so
// are for one goroutine at a time. All other methods may be called by any
// goroutine.
//
// Its end has two parts. CloseWith never blocks. It sends the last bytes, TLS's
// close_notify and FIN, and the reader and the writer return. Release is called
// by the goroutine that ran the connection. It lets the peer read the last bytes
// and frees the socket. Without that wait the kernel would send a reset if there
// is unread input, and a reset destroys bytes that the peer has not read yet.
type Socket struct {
	peer
	tcp *net.TCPConn
	tls *tls.Conn // nil without TLS

	idle input // reader's: what in is while nothing is incomplete
	spot [idleInput]byte
	// Reader's: the TLS handshake is under way, and how many bytes it has read.
	securing bool
	hello    int
	early    []byte // read by Begin before the TLS handshake

	ending atomic.Bool // endLocked sends what comes last
	rest   []byte      // of that, what the kernel had no room for
	whole  bool        // nothing of that has gone out

	evicted atomic.Bool
	written atomic.Int64 // bytes handed to the kernel
	final   atomic.Int64 // unacknowledged bytes at the end, -1 before it
	closing atomic.Bool  // CloseWith or Abort was called
	gone    atomic.Bool  // the peer ended or reset the stream
	pending atomic.Bool  // urgent or last wait for the holder of wmu, or the end does

	wmu  sync.Mutex // held by the goroutine that writes
	torn bool       // a part of a frame went out: nothing can follow; guarded by wmu
	shut bool       // endLocked was called; guarded by wmu
	// Under TLS: a write is under way that has a deadline of its own. It is here for the struct's size; guarded by pmu.
	timed bool

	pmu    sync.Mutex // guards those below
	urgent []byte     // waits for the holder of wmu, as last does
	last   []byte
	// Under TLS: the read deadline, which is that of the reader's answers to key updates, too.
	answerBy time.Time
}

func newSocket(tcp *net.TCPConn, a *Acceptor) *Socket {
	s := &Socket{peer: peer{acceptor: a}, tcp: tcp}
	if addr, ok := tcp.RemoteAddr().(*net.TCPAddr); ok {
		ap := addr.AddrPort()
		s.addr, s.port = ap.Addr().Unmap(), ap.Port()
	}
	s.final.Store(-1)
	s.Sign()
	return s
}

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

// Begin reads what comes before the client's first byte, bounded by
// ListenConfig.HandshakeTimeout: the header of a trusted proxy, and the TLS
// handshake. It reports false if that failed, and has then ended the connection.
func (s *Socket) Begin(ctx context.Context) bool {
	a := s.acceptor
	ctx, cancel := context.WithTimeout(ctx, a.cfg.HandshakeTimeout)
	defer cancel()
	if a.expectsProxyHeader(s.Remote()) && !s.proxyHeader(ctx) {
		s.Abort()
		return false
	}
	if a.cfg.TLS == nil {
		return true
	}
	if s.in.b != nil { // behind the proxy's header
		s.early = append([]byte(nil), s.in.bytes()...)
		s.in.b = nil
	}
	s.tls = tls.Server(wire{s}, a.cfg.TLS)
	s.securing = true
	err := s.tls.HandshakeContext(ctx)
	s.securing = false
	s.count(s, 0)
	if err == nil {
		return true
	}
	a.cfg.Refused(RefusedTLS)
	a.cfg.Log.Debug().Err(err).Stringer("remote", s.Remote()).Msg("connection refused: the TLS handshake failed")
	s.Abort()
	return false
}

// proxyHeader reads the header of a trusted proxy.
func (s *Socket) proxyHeader(ctx context.Context) bool {
	stop := context.AfterFunc(ctx, func() { _ = s.SetReadDeadline(past) })
	defer stop()
	client, err := netip.AddrPort{}, transport.ErrPart
	for errors.Is(err, transport.ErrPart) {
		client, err = readProxyHeader(s)
	}
	if err != nil {
		s.acceptor.refuseProxy(s.Remote(), err)
		return false
	}
	return !client.IsValid() || s.SetRemote(client) == nil
}

// Open calls step until it is done or has failed, within ListenConfig.HandshakeTimeout.
// Until then step returns transport.ErrPart. Open reports whether step succeeded in time.
func (s *Socket) Open(step func() error) bool {
	var slot transport.DeadlineSlot
	s.acceptor.handshakes.Start(&slot, s)
	err := transport.ErrPart
	for errors.Is(err, transport.ErrPart) {
		err = step()
	}
	expired := s.acceptor.handshakes.Cancel(&slot)
	return err == nil && !expired
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
	case s.evicted.Load():
		return n, transport.ErrOverBudget
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, err
	}
	s.gone.Store(true)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

// Discard implements Input.
func (s *Socket) Discard(n int) {
	s.in.discard(n, s.acceptor)
	if s.in.b == nil {
		s.count(s, 0)
	}
}

// Fill implements Input. It waits until something has arrived.
func (s *Socket) Fill(need int) error {
	if err := s.Err(); err != nil {
		return err
	}
	if s.in.b == nil {
		s.idle = input{b: s.spot[:]}
		s.in.b = &s.idle
	}
	space := s.in.room(need, s.acceptor)
	size := 0
	if s.in.b != &s.idle {
		size = len(s.in.b.b)
	}
	s.count(s, size)
	n, err := s.Read(space)
	s.in.b.w += n
	if n > 0 {
		return nil
	}
	return err
}

// Err implements Input.
func (s *Socket) Err() error {
	switch {
	case s.closing.Load():
		return net.ErrClosed
	case s.evicted.Load():
		return transport.ErrOverBudget
	}
	return nil
}

// Evict makes the reader return transport.ErrOverBudget.
func (s *Socket) Evict() {
	s.evicted.Store(true)
	s.boundAnswers(past)
	_ = s.tcp.SetReadDeadline(past)
}

// SetReadDeadline bounds the Read under way and the following ones. Under TLS a Read also answers key updates. A deadline
// that is yet to come then ends a Send, too, because a Read may have to wait for it.
func (s *Socket) SetReadDeadline(t time.Time) error {
	if s.closing.Load() {
		return net.ErrClosed
	}
	s.boundAnswers(t)
	err := s.tcp.SetReadDeadline(t)
	if s.closing.Load() || s.evicted.Load() { // meanwhile: the reader must still return
		_ = s.tcp.SetReadDeadline(past)
	}
	return err
}

// boundAnswers makes t the deadline of the reader's answers to key updates. Otherwise a client that asks for key updates
// and takes no answer would hold the reader for ever.
func (s *Socket) boundAnswers(t time.Time) {
	if s.acceptor.cfg.TLS == nil {
		return
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	if s.evicted.Load() {
		t = past
	}
	s.answerBy = t
	if !s.closing.Load() && (!s.timed || t.After(time.Now())) {
		_ = s.tcp.SetWriteDeadline(t)
	}
}

// CloseWith ends the connection without blocking. It sends last, which may be nil,
// then TLS's close_notify and a FIN. Bytes that the kernel has no room for are left to
// Release. A Write under way has closeGrace to finish, and sends these itself. A
// Read under way returns. Only the first call has an effect. It reports whether this was it.
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
	s.endCount()
	// A write may still be under way, for at most closeGrace.
	s.wmu.Lock()
	if len(s.rest) > 0 && !s.torn {
		s.sendRestLocked()
	}
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

// SetWriteDeadline bounds the write under way, until endWrite. Under TLS a read deadline that comes first bounds it, too.
func (s *Socket) SetWriteDeadline(t time.Time) error {
	if s.acceptor.cfg.TLS != nil {
		s.pmu.Lock()
		defer s.pmu.Unlock()
		s.timed = true
		if s.answerBy.After(time.Now()) && s.answerBy.Before(t) {
			t = s.answerBy
		}
	}
	if s.closing.Load() {
		return net.ErrClosed
	}
	err := s.tcp.SetWriteDeadline(t)
	if s.closing.Load() { // closed meanwhile: a write must still end
		_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	}
	return err
}

// endWrite undoes SetWriteDeadline under TLS: the reader may have to answer a key update at any time.
func (s *Socket) endWrite() {
	if s.acceptor.cfg.TLS == nil {
		return
	}
	s.pmu.Lock()
	defer s.pmu.Unlock()
	s.timed = false
	if !s.closing.Load() {
		_ = s.tcp.SetWriteDeadline(s.answerBy)
	}
}

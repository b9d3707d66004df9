package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// flatSize bounds the bytes of frames that are copied together for one write.
// Below it a copy is cheaper than the kernel's gathering. It is also the size of
// a TLS record.
const flatSize = 16 << 10

// past is a deadline that has passed, whatever the clock says.
var past = time.Unix(1, 0)

// Head appends the transport's framing for a frame of n bytes to dst.
type Head func(dst []byte, n int) []byte

// Send writes frames in as few system calls as possible, each behind the framing
// that head gives it, if head is not nil. It returns when the kernel has all of
// them or the deadline has passed (os.ErrDeadlineExceeded). Frames are neither
// changed nor kept. After an error the stream may end within a frame, so only
// CloseWith is of use.
func (s *Socket) Send(deadline time.Time, frames [][]byte, head Head) error {
	if !s.wmu.TryLock() { // an urgent write is under way; the deadline bounds it, too
		if err := s.SetWriteDeadline(deadline); err != nil {
			return err
		}
		s.wmu.Lock()
	}
	defer s.unlockWrite()
	if err := s.SetWriteDeadline(deadline); err != nil {
		return err
	}
	if s.torn {
		return net.ErrClosed
	}
	size := 0
	for _, f := range frames {
		size += len(f)
	}
	switch {
	case len(frames) == 1 && head == nil:
		_, err := s.writeLocked(frames[0])
		return err
	case size <= flatSize || s.tls != nil:
		return s.sendFlatLocked(frames, head)
	}
	return s.sendVectorLocked(frames, head)
}

// sendFlatLocked copies frames together and writes them, flatSize at a time.
func (s *Socket) sendFlatLocked(frames [][]byte, head Head) error {
	buf := s.acceptor.flat()
	defer s.acceptor.putFlat(buf)
	b := (*buf)[:0]
	defer func() { *buf = b }()
	for _, f := range frames {
		if head != nil {
			b = head(b, len(f))
		}
		for len(b)+len(f) > flatSize {
			n := flatSize - len(b)
			if n < 0 {
				n = 0
			}
			b = append(b, f[:n]...)
			if _, err := s.writeLocked(b); err != nil {
				return err
			}
			b, f = b[:0], f[n:]
		}
		b = append(b, f...)
	}
	if len(b) == 0 {
		return nil
	}
	_, err := s.writeLocked(b)
	return err
}

// sendVectorLocked has the kernel gather the frames (writev).
func (s *Socket) sendVectorLocked(frames [][]byte, head Head) error {
	var heads []byte
	vec := make(net.Buffers, 0, 2*len(frames))
	if head != nil {
		heads = make([]byte, 0, 16*len(frames)) // never grown: vec points into it
	}
	for _, f := range frames {
		if head != nil {
			start := len(heads)
			heads = head(heads, len(f))
			vec = append(vec, heads[start:])
		}
		vec = append(vec, f)
	}
	n, err := vec.WriteTo(s.tcp)
	s.written.Add(n)
	return s.wroteLocked(n, err)
}

// writeLocked writes all of b, through TLS if the connection has it.
func (s *Socket) writeLocked(b []byte) (n int, err error) {
	switch {
	case s.torn:
		return 0, net.ErrClosed
	case s.tls != nil:
		n, err = s.tls.Write(b)
		if err != nil {
			s.torn = true // TLS cannot go on after a failed write, whatever n is
		}
	default:
		n, err = s.tcp.Write(b)
		s.written.Add(int64(n))
	}
	return n, s.wroteLocked(int64(n), err)
}

// wroteLocked handles the error of a write that sent n bytes. If the deadline
// passed before the first byte, the stream is whole, and last may still be sent.
func (s *Socket) wroteLocked(n int64, err error) error {
	if err == nil {
		return nil
	}
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		s.torn = true
	}
	if s.closing.Load() {
		return net.ErrClosed
	}
	return fmt.Errorf("write to client: %w", err)
}

// Urgent sends b, a few bytes of framing such as a pong. It does not wait for a
// Send under way, which sends b at its end. Of several that wait only the newest
// is sent. b is kept until then. Without a Send under way it blocks for up to
// urgentTimeout if the kernel has no room.
func (s *Socket) Urgent(b []byte) {
	s.pmu.Lock()
	s.urgent = b
	s.pending.Store(true)
	s.pmu.Unlock()
	if s.wmu.TryLock() {
		_ = s.SetWriteDeadline(time.Now().Add(urgentTimeout))
		s.unlockWrite()
	}
}

// unlockWrite sends what waits for the holder of wmu, and unlocks it.
func (s *Socket) unlockWrite() {
	for {
		s.sendPendingLocked()
		s.endWrite()
		s.wmu.Unlock()
		// Something may have come between the two lines above.
		if !s.pending.Load() || !s.wmu.TryLock() {
			return
		}
		_ = s.SetWriteDeadline(time.Now().Add(urgentTimeout))
	}
}

// sendPendingLocked sends what waits for the holder of wmu.
func (s *Socket) sendPendingLocked() {
	if !s.pending.Load() {
		return
	}
	s.pmu.Lock()
	urgent, last, closing := s.urgent, s.last, s.closing.Load()
	s.urgent, s.last = nil, nil
	s.pending.Store(false)
	s.pmu.Unlock()

	if urgent != nil && !closing {
		// A failure shows in torn, or the peer had no room for a pong.
		_, _ = s.writeLocked(urgent)
	}
	if closing && !s.shut {
		s.shut = true
		s.endLocked(last)
	}
}

// endLocked sends last, close_notify and FIN without waiting for room in the
// kernel. If there is none, FIN has to wait for sendRestLocked.
func (s *Socket) endLocked(last []byte) {
	if s.torn {
		s.keepFinal()
		return
	}
	s.ending.Store(true)
	if s.tls != nil {
		// A reader that answers a key update of TLS may be stuck in a write and
		// hold the lock of TLS. The deadline makes it return.
		_ = s.tcp.SetWriteDeadline(past)
		if len(last) > 0 {
			_, err := s.tls.Write(last)
			s.torn = err != nil
		}
		if err := s.tls.CloseWrite(); err != nil {
			s.torn = true
		}
	} else if len(last) > 0 {
		n, err := s.tryLocked(last)
		s.torn = err != nil && n > 0
	}
	s.keepFinal()
	if len(s.rest) == 0 {
		_ = s.tcp.CloseWrite()
	}
}

// sendRestLocked sends what is left of the last frame, within closeGrace, and FIN.
func (s *Socket) sendRestLocked() {
	_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	n, err := s.tcp.Write(s.rest)
	s.written.Add(int64(n))
	s.torn = err != nil && (n > 0 || !s.whole)
	s.rest = nil
	_ = s.tcp.CloseWrite()
}

// tryLocked writes what the kernel takes of b at once. At the end it keeps the rest.
func (s *Socket) tryLocked(b []byte) (int, error) {
	if len(s.rest) > 0 {
		s.rest = append(s.rest, b...)
		return len(b), nil
	}
	// After an expired deadline the write would not be tried.
	_ = s.tcp.SetWriteDeadline(time.Now().Add(closeGrace))
	n, err := tryWrite(s.tcp, b)
	s.written.Add(int64(n))
	if err == nil && n < len(b) {
		if s.ending.Load() {
			s.rest, s.whole = append([]byte(nil), b[n:]...), n == 0
			return len(b), nil
		}
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// wire is the connection below TLS. It counts bytes, and does not block once the
// socket is closing.
type wire struct{ s *Socket }

func (w wire) Read(b []byte) (int, error) {
	s := w.s
	if len(s.early) > 0 {
		n := copy(b, s.early)
		s.early = s.early[n:]
		return n, nil
	}
	if !s.securing {
		return s.tcp.Read(b)
	}
	s.count(s, s.hello) // TLS keeps a message of its handshake until it is whole
	n, err := s.tcp.Read(b)
	s.hello += n
	return n, err
}

func (w wire) Write(b []byte) (int, error) {
	if w.s.closing.Load() {
		return w.s.tryLocked(b)
	}
	n, err := w.s.tcp.Write(b)
	w.s.written.Add(int64(n))
	return n, err
}

func (w wire) Close() error         { return w.s.tcp.Close() }
func (w wire) LocalAddr() net.Addr  { return w.s.tcp.LocalAddr() }
func (w wire) RemoteAddr() net.Addr { return w.s.tcp.RemoteAddr() }
func (w wire) SetDeadline(t time.Time) error {
	return errors.Join(w.s.SetReadDeadline(t), w.s.SetWriteDeadline(t))
}
func (w wire) SetReadDeadline(t time.Time) error  { return w.s.SetReadDeadline(t) }
func (w wire) SetWriteDeadline(t time.Time) error { return w.s.SetWriteDeadline(t) }

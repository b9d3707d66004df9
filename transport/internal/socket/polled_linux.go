package socket

import (
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"imgo/transport"
	"imgo/transport/batch"
)

// Polled is an accepted socket that epoll watches. It holds no goroutine, and a
// buffer only while a packet is incomplete. As for a Socket, CloseWith ends the
// stream without blocking, and Release frees the socket.
//
// mu guards all fields but those of the reader. It is held for system calls,
// none of which waits. It is not held while a Waker is called, nor when a method
// has returned.
type Polled struct {
	pollReader
	out output
}

var _ Input = (*Polled)(nil)

// event handles what epoll reports. If alone, epoll reported nothing else.
func (p *Polled) event(events uint32, alone bool) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		p.hung = true
	}
	readable := events&^unix.EPOLLOUT != 0 && p.wakeLocked()
	writable := false
	if l := p.out.unsent; p.out.reserved {
		p.out.hadRoom = true
	} else if l != nil {
		writable = p.flushLocked() && l.ownerWaits
	}
	w := p.waker
	p.mu.Unlock()
	if writable {
		w.Writable()
	}
	if readable {
		w.Readable(alone)
	}
}

// start calls serve, on a goroutine of its own unless ListenConfig.Inline is set.
func (p *Polled) start(c transport.Pollable, handle func(transport.Conn)) {
	if p.acceptor.cfg.Inline {
		p.serve(c, handle)
	} else {
		go p.serve(c, handle)
	}
}

// serve calls handle for c, the connection that is made of p, and ends c unless it was
// attached.
func (p *Polled) serve(c transport.Pollable, handle func(transport.Conn)) {
	handle(c)
	p.mu.Lock()
	attached := p.attached
	p.mu.Unlock()
	switch {
	case attached:
	case p.acceptor.cfg.Inline:
		go c.Release()
	default:
		c.Release()
	}
}

// Unacked implements transport.Conn.
func (p *Polled) Unacked() (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out.final >= 0 {
		return int64(p.out.final), true
	}
	return unackedNow(p.fd)
}

// Written implements transport.Conn.
func (p *Polled) Written() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.written
}

// TryWrite implements transport.Pollable.
func (p *Polled) TryWrite(frames [][]byte) (taken, left int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writeLocked(frames)
}

func (p *Polled) writeLocked(frames [][]byte) (taken, left int, err error) {
	if ok, left, err := p.mayWriteLocked(); !ok {
		return 0, left, err
	}
	flat := p.acceptor.flat()
	defer p.acceptor.putFlat(flat)
	taken, n, err := p.out.sendFrames(p.fd, frames, *flat)
	switch {
	case err != nil:
		return taken, 0, p.brokenLocked(err)
	case taken == len(frames):
		return taken, 0, nil
	}
	left, err = p.keepLocked(frames[taken], n)
	return taken + 1, left, err
}

// TryWriteOne implements transport.Pollable.
func (p *Polled) TryWriteOne(frame []byte) (taken, left int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok, left, err := p.mayWriteLocked(); !ok {
		return 0, left, err
	}
	n, err := p.out.send(p.fd, frame)
	if err != nil {
		return 0, 0, p.brokenLocked(err)
	}
	left, err = p.keepLocked(frame, n)
	return 1, left, err
}

// StartWrite implements transport.Pollable.
func (p *Polled) StartWrite(b *batch.Batch, frame []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(frame) == 0 || p.closing || p.out.torn || p.out.reserved || p.out.unsent != nil {
		return false
	}
	b.Add(p.fd, frame)
	p.out.reserved, p.out.hadRoom = true, false
	return true
}

// FinishWrite implements transport.Pollable.
func (p *Polled) FinishWrite(frame []byte, result int32) (taken, left int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.reserved = false
	n, err := p.out.finish(p.fd, frame, result)
	if n == len(frame) && err == nil && p.out.unsent == nil {
		return 1, 0, nil
	}
	return p.finishLocked(frame, n, err)
}

// finishLocked goes on where not all of a batched frame was sent, or where
// something waits behind it.
func (p *Polled) finishLocked(frame []byte, n int, err error) (taken, left int, _ error) {
	ownerWaits := p.out.unsent != nil && p.out.unsent.ownerWaits
	full := false // the kernel has no room
	if err != nil {
		err = p.brokenLocked(err)
	} else if n < len(frame) {
		p.out.keep(frame[n:], n == 0)
		full = !p.out.hadRoom
	}
	if l := p.out.unsent; l != nil && (full || !p.flushLocked()) {
		if err = p.watchLocked(pollWrite); err == nil {
			l.ownerWaits = true
			return 1, len(l.rest), nil
		}
		p.out.torn = true
		p.flushLocked()
	}
	if ownerWaits {
		go p.waker.Writable() // the caller may hold a lock that Writable takes
	}
	if err != nil {
		return 0, 0, err
	}
	return 1, 0, nil
}

// mayWriteLocked reports whether a frame may be sent now. If ok is false and err
// is nil, left is at least 1 and the owner is told when it may go on.
func (p *Polled) mayWriteLocked() (ok bool, left int, err error) {
	if p.closing || p.out.torn {
		return false, 0, net.ErrClosed
	}
	if l := p.out.waiting(); l != nil {
		l.ownerWaits = true
		return false, max(len(l.rest), 1), nil
	}
	return true, 0, nil
}

// keepLocked keeps what a frame has behind its first n bytes until there is
// room. It returns the number of these bytes.
func (p *Polled) keepLocked(frame []byte, n int) (left int, err error) {
	if n == len(frame) {
		return 0, nil
	}
	if err := p.watchLocked(pollWrite); err != nil {
		p.out.torn = true
		return 0, err
	}
	p.out.keep(frame[n:], n == 0)
	return len(frame) - n, nil
}

// flushLocked sends what is unsent. It reports whether nothing is unsent any more,
// because all of it was sent or nothing can be sent.
func (p *Polled) flushLocked() bool {
	l := p.out.unsent
	if !p.out.flush(p.fd) {
		return false
	}
	p.out.unsent = nil
	if p.closing {
		p.stopTimerLocked()
		p.out.end(p.fd, l.last, p.gone)
	}
	if l.done != nil {
		close(l.done)
	}
	return true
}

// brokenLocked notes that a write failed.
func (p *Polled) brokenLocked(err error) error {
	p.out.torn = true
	return fmt.Errorf("write to client: %w", err)
}

// Urgent sends b, a few bytes of framing such as a pong. It goes out at once,
// or behind the frame that is under way; of several that wait only the newest
// goes. b is kept until it is sent.
func (p *Polled) Urgent(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || p.out.torn {
		return
	}
	if l := p.out.waiting(); l != nil {
		l.urgent = b
		return
	}
	n, err := p.out.send(p.fd, b)
	if err != nil {
		p.out.torn = true
		return
	}
	if left, err := p.keepLocked(b, n); err == nil && left > 0 {
		p.out.unsent.ownerWaits = false // the owner does not wait for it
	}
}

// Send writes frames as Socket.Send does, and blocks until the kernel has them.
func (p *Polled) Send(deadline time.Time, frames [][]byte, head Head) error {
	if head != nil {
		framed := make([][]byte, len(frames))
		for i, f := range frames {
			framed[i] = append(head(make([]byte, 0, 16+len(f)), len(f)), f...)
		}
		frames = framed
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		p.mu.Lock()
		taken, left, err := p.writeLocked(frames)
		w := p.blockingLocked()
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if frames = frames[taken:]; left == 0 {
			if len(frames) == 0 {
				return nil
			}
			continue
		}
		select {
		case <-w.writable:
		case <-timer.C:
			return p.sendExpired()
		}
	}
}

// sendExpired ends a Send whose deadline has passed. If nothing of its frame
// was sent, the stream is whole, so a last frame may still go.
func (p *Polled) sendExpired() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return net.ErrClosed
	}
	if l := p.out.unsent; l != nil && !p.out.reserved {
		p.out.torn = p.out.torn || !l.whole
		p.out.unsent = nil
	}
	return fmt.Errorf("write to client: %w", os.ErrDeadlineExceeded)
}

// CloseWith ends the connection as Socket.CloseWith does. last, and a frame before
// it that was sent in part, have closeGrace to get out.
func (p *Polled) CloseWith(last []byte) bool {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return false
	}
	p.closing = true
	p.stopTimerLocked()
	l := p.out.waiting()
	if l != nil {
		l.last = last
	} else {
		l = p.sendLastLocked(last)
	}
	if l != nil {
		l.done = make(chan struct{})
		p.timer = time.AfterFunc(closeGrace, func() { p.tearOff(l) })
	} else {
		p.out.end(p.fd, nil, p.gone)
	}
	p.unlockAndNotify(p.wakeLocked())
	return true
}

// sendLastLocked sends the last frame. It returns what the kernel has no room for
// yet, or nil.
func (p *Polled) sendLastLocked(last []byte) *unsent {
	if p.out.torn || p.out.ended {
		return nil
	}
	n, err := p.out.send(p.fd, last)
	if err == nil && n < len(last) {
		err = p.watchLocked(pollWrite)
	}
	switch {
	case err != nil:
		p.out.torn = true
	case n < len(last):
		p.out.unsent = &unsent{rest: last[n:], whole: n == 0}
	}
	return p.out.unsent
}

// tearOff gives up what did not get out within closeGrace after CloseWith.
func (p *Polled) tearOff(l *unsent) {
	p.mu.Lock()
	switch {
	case p.out.unsent != l || p.closed:
		p.mu.Unlock()
		return
	case p.out.reserved: // FinishWrite is due any moment
		p.timer = time.AfterFunc(closeGrace, func() { p.tearOff(l) })
		p.mu.Unlock()
		return
	}
	p.out.torn = p.out.torn || !l.whole
	p.out.unsent = nil
	p.out.end(p.fd, l.last, p.gone)
	close(l.done)
	w := p.waker
	p.mu.Unlock()
	if l.ownerWaits {
		w.Writable()
	}
}

// Abort ends the connection at once with a reset. The reader is told, and
// frees the socket.
func (p *Polled) Abort() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closing = true
	ownerWaits := p.out.abort(p.fd)
	w := p.waker
	readable := p.wakeLocked()
	p.mu.Unlock()
	if ownerWaits {
		w.Writable()
	}
	if readable {
		w.Readable(false)
	}
}

// Release frees the socket after its last use, as Socket.Release does.
func (p *Polled) Release() {
	p.CloseWith(nil)
	p.mu.Lock()
	if l := p.out.unsent; l != nil {
		p.mu.Unlock()
		<-l.done // within closeGrace
		p.mu.Lock()
	}
	quiet := p.out.torn || p.gone
	p.mu.Unlock()
	if !quiet {
		p.drain()
	}
	p.free()
}

// TryRelease is Release if that does not have to wait for the client. If it
// reports false, Release is still to be called.
func (p *Polled) TryRelease() bool {
	p.CloseWith(nil)
	p.mu.Lock()
	quiet := p.out.unsent == nil && (p.out.torn || p.gone)
	p.mu.Unlock()
	if quiet {
		p.free()
	}
	return quiet
}

// free closes the descriptor.
func (p *Polled) free() {
	p.endCount()
	p.acceptor.poller.exit(p)
	p.mu.Lock()
	p.stopTimerLocked()
	if p.out.torn {
		_ = unix.SetsockoptLinger(int(p.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	p.closed = true
	closeNow(p.fd)
	p.mu.Unlock()
	p.in.b = nil
	p.acceptor.countEnd(p.addr)
}

// drain reads and discards until the peer ends the stream, lingerBytes were
// read, or the time to linger has passed. There is no other reader any more.
func (p *Polled) drain() {
	timer := time.NewTimer(p.acceptor.cfg.Linger)
	defer timer.Stop()
	w := newBlocking()
	buf := p.acceptor.flat()
	defer p.acceptor.putFlat(buf)
	b := (*buf)[:cap(*buf)]
	for left := lingerBytes; left > 0; {
		n, errno := readNow(p.fd, b)
		switch {
		case errno == unix.EAGAIN:
			parked, ok := p.parkDraining(w)
			if !ok {
				return
			}
			if !parked {
				continue
			}
			select {
			case <-w.readable:
			case <-timer.C:
				return
			}
		case errno != 0 || n == 0:
			return
		default:
			left -= n
		}
	}
}

// parkDraining parks the reader with w as its Waker. ok is false if the stream
// was torn or cannot be watched.
func (p *Polled) parkDraining(w *blocking) (parked, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok = !p.out.torn && p.watchLocked(pollRead) == nil
	p.waker = w
	p.parked, p.again = !p.again, false
	return p.parked, ok
}

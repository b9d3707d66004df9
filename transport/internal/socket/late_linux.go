package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgo/transport/batch"
)

// late is what waits for room in the kernel.
type late struct {
	tail   []byte        // the rest of a frame
	whole  bool          // nothing of that frame has gone out
	urgent []byte        // goes behind it: the newest of the urgent ones
	last   []byte        // and then the goodbye
	owed   bool          // the owner waits for Writable
	done   chan struct{} // closed at the end, where Shut was called meanwhile
}

// send hands to the kernel what it takes of b at once. Holds mu.
//
// This is the call that a broadcast makes once a connection. It is send rather
// than write, which spares it the kernel's file layer. It does not wait, and
// still the scheduler is told of it (not RawSyscall6): the kernel likes to run
// who is woken by the bytes in place of the sender, and garbage collection
// would wait for that.
func (p *Polled) send(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			p.written += int64(n)
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, errno
		}
	}
}

// TryWriteOne is Pollable's.
func (p *Polled) TryWriteOne(frame []byte) (taken, left int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok, left, err := p.mayWrite(); !ok {
		return 0, left, err
	}
	n, err := p.send(frame)
	if err != nil {
		return 0, 0, p.broken(err)
	}
	left, err = p.keep(frame, n)
	return 1, left, err
}

// StartWrite is Pollable's. It leaves mu locked where it says true.
func (p *Polled) StartWrite(b *batch.Batch, frame []byte) bool {
	p.mu.Lock()
	if len(frame) == 0 || p.closing || p.torn || p.late != nil {
		p.mu.Unlock()
		return false
	}
	b.Add(p.fd, frame)
	return true
}

// FinishWrite is Pollable's.
func (p *Polled) FinishWrite(frame []byte, result int32) (taken, left int, err error) {
	defer p.mu.Unlock()
	n := int(result)
	switch {
	case result >= 0:
		p.written += int64(n)
	case result == batch.NotSent:
		n, err = p.send(frame)
	case unix.Errno(-result) == unix.EAGAIN:
		n = 0
	default:
		err = unix.Errno(-result)
	}
	if err != nil {
		return 0, 0, p.broken(err)
	}
	left, err = p.keep(frame, n)
	return 1, left, err
}

// TryWrite is Pollable's.
func (p *Polled) TryWrite(frames [][]byte) (taken, left int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.take(frames)
}

// take is TryWrite. Small frames are copied together, for which the kernel's
// gathering is too dear; those that are too large for that it gathers. Holds mu.
func (p *Polled) take(frames [][]byte) (taken, left int, err error) {
	if ok, left, err := p.mayWrite(); !ok {
		return 0, left, err
	}
	buf := p.acceptor.flat()
	defer p.acceptor.putFlat(buf)
	for taken < len(frames) {
		// frames[taken:end] go in one call.
		end, b := taken+1, frames[taken]
		if end < len(frames) && len(b)+len(frames[end]) <= flatSize {
			b = append((*buf)[:0], b...)
			for end < len(frames) && len(b)+len(frames[end]) <= flatSize {
				b = append(b, frames[end]...)
				end++
			}
		}
		var n int
		if end == taken+1 && end < len(frames) {
			end = min(len(frames), taken+maxGathered)
			n, err = p.gather(frames[taken:end])
		} else {
			n, err = p.send(b)
		}
		if err != nil {
			return taken, 0, p.broken(err)
		}
		for taken < end && n >= len(frames[taken]) {
			n -= len(frames[taken])
			taken++
		}
		if taken < end {
			left, err := p.keep(frames[taken], n)
			return taken + 1, left, err
		}
	}
	return taken, 0, nil
}

// maxGathered is how many frames go in one call of gather at most.
const maxGathered = 16

// gather is send of several frames, without copying them. Holds mu.
func (p *Polled) gather(frames [][]byte) (int, error) {
	for {
		n, err := unix.SendmsgBuffers(int(p.fd), frames, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			p.written += int64(n)
			return n, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return 0, err
		}
	}
}

// mayWrite says whether a frame may be sent now; where it may not for what is
// late, the owner is told when that has gone. Holds mu.
func (p *Polled) mayWrite() (ok bool, left int, err error) {
	switch {
	case p.closing || p.torn:
		return false, 0, net.ErrClosed
	case p.late != nil:
		p.late.owed = true
		return false, len(p.late.tail), nil
	}
	return true, 0, nil
}

// keep keeps what frame has after its first n bytes and says how much. Holds mu.
func (p *Polled) keep(frame []byte, n int) (left int, err error) {
	if n == len(frame) {
		return 0, nil
	}
	if err := p.watch(pollWrite); err != nil {
		return 0, err
	}
	p.late = &late{tail: frame[n:], whole: n == 0, owed: true}
	return len(frame) - n, nil
}

// broken is a failed write. Holds mu.
func (p *Polled) broken(err error) error {
	p.torn = true
	return fmt.Errorf("write to client: %w", err)
}

// flushLate sends what is late and says whether the owner is to be told that
// it is done, or never will be. Holds mu.
func (p *Polled) flushLate() (tell bool) {
	l := p.late
	for {
		n, err := p.send(l.tail)
		if err != nil {
			p.torn = true
			break
		}
		l.whole = l.whole && n == 0
		if l.tail = l.tail[n:]; len(l.tail) > 0 {
			return false
		}
		if l.urgent == nil {
			break
		}
		l.tail, l.urgent, l.whole = l.urgent, nil, true
	}
	p.late = nil
	if p.closing {
		p.stopTimer()
		p.farewell(l.last)
	}
	if l.done != nil {
		close(l.done)
	}
	return l.owed
}

// Urgent is Socket's: b goes out at once, or behind the frame that is late.
func (p *Polled) Urgent(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closing || p.torn:
	case p.late != nil:
		p.late.urgent = b
	default:
		n, err := p.send(b)
		if err != nil {
			p.torn = true
			return
		}
		if left, err := p.keep(b, n); err == nil && left > 0 {
			p.late.owed = false // nobody waits for it
		}
	}
}

// Send is Socket's Send, for one who blocks.
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
		taken, left, err := p.take(frames)
		w := p.waits()
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
		case <-w.write:
		case <-timer.C:
			return p.stuck()
		}
	}
}

// stuck is a Send past its deadline. One that did not begin leaves the stream
// whole, so a goodbye may still go.
func (p *Polled) stuck() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return net.ErrClosed
	}
	if p.late != nil {
		p.torn = p.torn || !p.late.whole
		p.late = nil
	}
	return fmt.Errorf("write to client: %w", os.ErrDeadlineExceeded)
}

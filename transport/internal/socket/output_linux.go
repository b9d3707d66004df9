package socket

import (
	"errors"
	"math"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgo/transport/batch"
)

// output is the writing half of a Polled, guarded by its mu. Its methods get the
// socket from there: every connection has an output, so it is small.
//
// It has three states. When it is idle, a frame is sent at once. When it is
// reserved, a frame of it is in a batch: from StartWrite to FinishWrite nothing
// else is sent, and what comes meanwhile waits in unsent. When the kernel had no
// room for a whole frame, the rest of it waits in unsent until epoll reports room,
// and no other frame is taken before that.
//
// A connection that is closed sends what is unsent first, then a last frame, then
// FIN. abort ends it without that.
type output struct {
	unsent   *unsent // nil: nothing waits
	written  int64   // bytes handed to the kernel
	final    int32   // bytes that were unacknowledged at the end; -1 before it
	reserved bool    // a frame is in a batch
	hadRoom  bool    // epoll reported something while it was reserved
	torn     bool    // a write failed, or only a part of a frame went out: nothing can follow
	ended    bool    // the last frame was tried
}

// unsent is what waits for room in the kernel, or for FinishWrite. The rest of a
// frame goes first, then urgent, then last.
type unsent struct {
	rest       []byte        // of a frame
	whole      bool          // rest is the whole frame: no byte of it has gone out
	urgent     []byte        // the newest of the urgent frames
	last       []byte        // the last frame, if the connection was closed meanwhile
	ownerWaits bool          // the owner is to be told by Writable when nothing is unsent any more
	done       chan struct{} // closed at the end, if the connection was closed meanwhile
}

// waiting returns what waits, or nil if a frame may be sent at once.
func (o *output) waiting() *unsent {
	if o.unsent == nil && o.reserved {
		o.unsent = &unsent{whole: true}
	}
	return o.unsent
}

// keep keeps the rest of a frame as unsent. The owner waits for it.
func (o *output) keep(rest []byte, whole bool) {
	if o.unsent == nil {
		o.unsent = &unsent{}
	}
	o.unsent.rest, o.unsent.whole, o.unsent.ownerWaits = rest, whole, true
}

// send hands to the kernel what it takes of b at once.
//
// This is the call that a broadcast makes once for each connection. It is send rather
// than write, because that skips the kernel's file layer. It does not wait, but Go's
// scheduler is told of it all the same (no RawSyscall6). The kernel likes to run the
// receiver in place of the sender, and garbage collection would wait for that.
func (o *output) send(fd int32, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))),
			uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			o.written += int64(n)
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, errno
		}
	}
}

// maxGathered bounds the frames of one gather.
const maxGathered = 16

// gather is send of several frames, which are not copied.
func (o *output) gather(fd int32, frames [][]byte) (int, error) {
	for {
		n, err := unix.SendmsgBuffers(int(fd), frames, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			o.written += int64(n)
			return n, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return 0, err
		}
	}
}

// sendFrames sends frames until the kernel has no room. taken counts those that
// went out whole, and n is how many bytes of the next one did. Small frames are
// copied together into flat, because a copy is cheaper than the kernel's
// gathering; larger frames are gathered.
func (o *output) sendFrames(fd int32, frames [][]byte, flat []byte) (taken, n int, err error) {
	for taken < len(frames) {
		// frames[taken:end] go in one call.
		end, b := taken+1, frames[taken]
		if end < len(frames) && len(b)+len(frames[end]) <= flatSize {
			b = append(flat[:0], b...)
			for end < len(frames) && len(b)+len(frames[end]) <= flatSize {
				b = append(b, frames[end]...)
				end++
			}
		}
		if end == taken+1 && end < len(frames) {
			end = min(len(frames), taken+maxGathered)
			n, err = o.gather(fd, frames[taken:end])
		} else {
			n, err = o.send(fd, b)
		}
		if err != nil {
			return taken, 0, err
		}
		for taken < end && n >= len(frames[taken]) {
			n -= len(frames[taken])
			taken++
		}
		if taken < end {
			return taken, n, nil
		}
	}
	return taken, 0, nil
}

// finish takes the result of a batched write of frame, and returns how many
// bytes of the frame have gone out.
func (o *output) finish(fd int32, frame []byte, result int32) (int, error) {
	switch {
	case o.torn: // the connection was aborted meanwhile
		return 0, net.ErrClosed
	case result >= 0:
		o.written += int64(result)
		return int(result), nil
	case result == batch.NotSent:
		return o.send(fd, frame)
	case unix.Errno(-result) == unix.EAGAIN:
		return 0, nil
	}
	return 0, unix.Errno(-result)
}

// flush sends what is unsent. It reports whether it is done: all of it was sent,
// or nothing can be sent any more.
func (o *output) flush(fd int32) bool {
	for l := o.unsent; !o.torn; {
		n, err := o.send(fd, l.rest)
		if err != nil {
			o.torn = true
			return true
		}
		l.whole = l.whole && n == 0
		if l.rest = l.rest[n:]; len(l.rest) > 0 {
			return false
		}
		switch {
		case l.urgent != nil:
			l.rest, l.urgent, l.whole = l.urgent, nil, true
		case l.last != nil:
			l.rest, l.last, l.whole = l.last, nil, true
		default:
			return true
		}
	}
	return true
}

// end sends last, if the kernel takes it at once, and FIN. After the peer has
// gone there is no FIN: the close that follows soon is enough.
func (o *output) end(fd int32, last []byte, peerGone bool) {
	if o.ended {
		return
	}
	o.ended = true
	if !o.torn && len(last) > 0 {
		n, err := o.send(fd, last)
		o.torn = err != nil || n > 0 && n < len(last)
	}
	o.keepFinal(fd)
	if !peerGone {
		_ = unix.Shutdown(int(fd), unix.SHUT_WR)
	}
}

// abort ends both directions of the stream. It reports whether the owner waits
// for Writable.
func (o *output) abort(fd int32) (ownerWaits bool) {
	o.torn, o.ended = true, true
	if l := o.waiting(); o.reserved {
		// FinishWrite goes on, and nothing is freed before that.
		if l.done == nil {
			l.done = make(chan struct{})
		}
	} else if l != nil {
		o.unsent, ownerWaits = nil, l.ownerWaits
		if l.done != nil {
			close(l.done)
		}
	}
	o.keepFinal(fd)
	_ = unix.Shutdown(int(fd), unix.SHUT_RDWR)
	return ownerWaits
}

// keepFinal remembers what is unacknowledged while the kernel still knows.
func (o *output) keepFinal(fd int32) {
	if o.final >= 0 {
		return
	}
	n, ok := unackedNow(fd)
	if !ok {
		n = o.written
	}
	o.final = int32(min(n, math.MaxInt32))
}

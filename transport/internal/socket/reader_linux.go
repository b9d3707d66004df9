package socket

import (
	"errors"
	"fmt"
	"io"
	"net"

	"os"
	"sync"

	"time"

	"golang.org/x/sys/unix"

	"imgo/internal/wait"
	"imgo/transport"
)

// pollReader is the reading half of a Polled: the input, the read deadline, and
// the Waker that is told.
//
// The fields of the reader belong to one goroutine at a time: the one that
// reads, from Readable until Park reports true. mu guards the others.
type pollReader struct {
	peer
	waker transport.Waker
	timer *time.Timer // of the read deadline; after CloseWith, of what is unsent
	mu    sync.Mutex
	slot  uint32
	fd    int32

	watched  uint32 // events that epoll knows
	dry      bool   // reader's: the socket was read empty
	parked   bool   // nobody reads: Readable is to be called
	again    bool   // something has come since the reader last looked
	hung     bool   // the peer ended its side: what a short read leaves is the end
	expired  bool   // the read deadline has passed
	evicted  bool   // its incomplete packet is over the budget
	lost     bool   // epoll does not watch it, so nothing would wake the reader
	closing  bool   // CloseWith or Abort was called
	gone     bool   // the peer ended or reset the stream
	attached bool   // it outlives the listener's handler
	closed   bool   // fd is no longer ours
}

// blocking is the Waker of a caller that blocks.
type blocking struct{ readable, writable wait.Signal }

func newBlocking() *blocking {
	return &blocking{readable: wait.NewSignal(), writable: wait.NewSignal()}
}

func (b *blocking) Readable(bool) { b.readable.Set() }
func (b *blocking) Writable()     { b.writable.Set() }

// blockingLocked returns the Waker of a caller that blocks, and makes it r's.
func (r *pollReader) blockingLocked() *blocking {
	b, ok := r.waker.(*blocking)
	if !ok {
		b = newBlocking()
		r.waker = b
	}
	return b
}

// Attach implements transport.Pollable.
func (r *pollReader) Attach(w transport.Waker) {
	r.mu.Lock()
	r.waker, r.attached = w, true
	r.mu.Unlock()
}

// Watch is Attach, but the connection still ends with the listener's handler.
func (r *pollReader) Watch(w transport.Waker) {
	r.mu.Lock()
	r.waker = w
	r.mu.Unlock()
}

// wakeLocked notes that there is something for the reader. It reports whether
// the reader is parked: Readable is then to be called once mu is free.
func (r *pollReader) wakeLocked() bool {
	if !r.parked {
		r.again = true
		return false
	}
	r.parked, r.dry = false, false
	return true
}

// unlockAndNotify unlocks mu, and then calls Readable if readable.
func (r *pollReader) unlockAndNotify(readable bool) {
	w := r.waker
	r.mu.Unlock()
	if readable {
		w.Readable(false)
	}
}

// watchLocked has epoll report events, if it does not yet. After an error the
// connection is of no more use.
func (r *pollReader) watchLocked(events uint32) error {
	if r.watched&events == events {
		return nil
	}
	op := unix.EPOLL_CTL_ADD
	if r.watched != 0 {
		op = unix.EPOLL_CTL_MOD
	}
	if err := r.acceptor.poller.watch(r.slot, r.fd, op, r.watched|events); err != nil {
		r.acceptor.cfg.Log.Error().Err(err).Stringer("remote", r.Remote()).Msg("connection cannot be watched and is ended")
		return err
	}
	r.watched |= events
	return nil
}

// Park implements transport.Pollable.
func (r *pollReader) Park() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parkLocked()
}

func (r *pollReader) parkLocked() bool {
	if r.again {
		r.again, r.dry = false, false
		return false
	}
	if r.errLocked() != nil {
		return false
	}
	if r.watchLocked(pollRead) != nil {
		r.lost = true
		return false
	}
	r.parked = true
	return true
}

// Rest implements transport.Pollable. Epoll tells what has arrived on a socket that it
// does not know yet, and on any other what came behind a read that emptied it.
func (r *pollReader) Rest() bool {
	if r.in.b != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return (r.dry || r.watched == 0) && r.parkLocked()
}

// ReadWith makes a blocking ReadStep of TryReadPacket, for a connection without a
// Waker.
func (r *pollReader) ReadWith(try func() (transport.Packet, error)) (transport.Packet, error) {
	for {
		packet, err := try()
		if !errors.Is(err, transport.ErrIdle) {
			return packet, err
		}
		r.mu.Lock()
		w := r.blockingLocked()
		r.mu.Unlock()
		if r.Park() {
			<-w.readable
		}
	}
}

// SetReadDeadline implements transport.Conn.
func (r *pollReader) SetReadDeadline(t time.Time) error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return net.ErrClosed
	}
	r.stopTimerLocked()
	r.expired = false
	if t.IsZero() {
		r.mu.Unlock()
		return nil
	}
	d := time.Until(t)
	if d <= 0 {
		r.expired = true
		r.unlockAndNotify(r.wakeLocked())
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		r.mu.Lock()
		if r.timer != timer { // replaced as it fired
			r.mu.Unlock()
			return
		}
		r.timer, r.expired = nil, true
		r.unlockAndNotify(r.wakeLocked())
	})
	r.timer = timer
	r.mu.Unlock()
	return nil
}

func (r *pollReader) stopTimerLocked() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// Gone implements transport.Pollable.
func (r *pollReader) Gone() bool {
	if len(r.Buffered()) > 0 {
		return false
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(int(r.fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == nil:
		return n == 0
	case err == unix.EAGAIN || err == unix.EINTR:
		return false
	}
	return true
}

// Discard implements Input. A reader may stop reading after any Discard.
func (r *pollReader) Discard(n int) {
	r.in.discard(n, r.acceptor)
	if r.in.b == nil {
		r.count(r, 0)
	}
}

// stow gives the buffer back, if possible, while the reader waits for more.
func (r *pollReader) stow() {
	size := 0
	if r.in.stow(r.acceptor); r.in.b != nil {
		size = len(r.in.b.b)
	}
	r.count(r, size)
}

// Evict makes the reader return transport.ErrOverBudget.
func (r *pollReader) Evict() {
	r.mu.Lock()
	r.evicted = true
	r.unlockAndNotify(r.wakeLocked())
}

// errUnwatched is the error of reading from a connection that epoll does not watch.
// Its user closes it.
var errUnwatched = errors.New("the connection cannot be watched")

// Err implements Input: the connection is closed here, the read deadline has
// passed, or the connection was evicted or cannot be watched.
func (r *pollReader) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errLocked()
}

func (r *pollReader) errLocked() error {
	switch {
	case r.closing:
		return net.ErrClosed
	case r.evicted:
		return transport.ErrOverBudget
	case r.lost:
		return errUnwatched
	case r.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Fill implements Input.
func (r *pollReader) Fill(need int) error {
	r.mu.Lock()
	err, hung := r.errLocked(), r.hung
	r.mu.Unlock()
	if err == nil && r.dry {
		err = transport.ErrIdle
	}
	if err != nil {
		r.stow()
		return err
	}
	space := r.in.room(need, r.acceptor)
	n, errno := readNow(r.fd, space)
	switch {
	case errno == unix.EAGAIN:
		r.dry = true
		err = transport.ErrIdle
	case errno != 0:
		err = r.ended(errno)
	case n == 0:
		err = r.ended(io.EOF)
	}
	if err != nil {
		r.stow()
		return err
	}
	r.in.b.w += n
	// A short read has emptied the socket, and what comes later is an event. The
	// exception is the end of the stream, which may be there already.
	r.dry = n < len(space) && !hung
	return nil
}

// ended notes that the peer has ended the stream, and returns how.
func (r *pollReader) ended(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return net.ErrClosed
	}
	r.gone = true
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
}

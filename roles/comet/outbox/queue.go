package outbox

import (
	"slices"
	"sync/atomic"
	"time"
)

// frame is one encoded frame on its way to the socket, or several of a Run, one
// after the other. Its bytes are shared with other outboxes.
type frame struct {
	bytes []byte
	id    uint64 // the owner's. 0 means none
}

func sizeOf(frames []frame) (n int) {
	for _, f := range frames {
		n += len(f.bytes)
	}
	return n
}

// queue holds the frames of an outbox that has some, and what writing them
// needs. Queues are pooled.
type queue struct {
	frames []frame
	batch  [][]byte // the arguments of one write
	// Of a polled connection whose socket has no room the first taken frames are
	// the connection's already. left bytes of them are not in the kernel yet.
	taken     int
	left      int
	blockedAt time.Duration // when the socket last had no room, on Shared's clock
	run       *[]byte       // borrowed memory that frames lie in. Nil means none
	idle      chan struct{} // see Outbox.Idle
	pending   *atomic.Int64 // counts this queue's bytes among others
}

// dropFirst removes the first n frames.
func (q *queue) dropFirst(n int) {
	rest := copy(q.frames, q.frames[n:])
	clear(q.frames[rest:])
	q.frames = q.frames[:rest]
}

// openLocked returns the queue, and makes one if there is none.
func (o *Outbox) openLocked() *queue {
	if o.queue == nil {
		o.queue = o.shared.getQueue()
	}
	return o.queue
}

func (o *Outbox) appendLocked(bytes []byte, id uint64) {
	q := o.openLocked()
	q.frames = append(q.frames, frame{bytes, id})
	o.addPendingLocked(len(bytes))
}

func (o *Outbox) prependLocked(bytes []byte) {
	o.queue.frames = slices.Insert(o.queue.frames, 0, frame{bytes: bytes})
	o.addPendingLocked(len(bytes))
}

// addPendingLocked counts n bytes. There is a queue.
func (o *Outbox) addPendingLocked(n int) {
	o.pending += int32(n)
	o.queue.pending.Add(int64(n))
}

// DropLocked drops the frames that are not on their way yet. A polled connection
// writes nothing more after that.
func (o *Outbox) DropLocked() {
	q := o.queue
	if q == nil {
		return
	}
	o.addPendingLocked(-sizeOf(q.frames[q.taken:]) - q.left)
	clear(q.frames)
	q.frames, q.taken, q.left = q.frames[:0], 0, 0
	switch {
	case o.polled:
		q.run = nil // the connection may still have the rest of a frame
		o.setWritingLocked(false)
		o.releaseLocked()
	case !o.writing:
		o.releaseLocked()
	}
}

// releaseLocked gives the queue back. Its frames are not needed any more.
func (o *Outbox) releaseLocked() {
	q := o.queue
	o.queue = nil
	if q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	o.shared.putQueue(q)
}

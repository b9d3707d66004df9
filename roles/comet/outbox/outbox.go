// Package outbox queues the frames of client connections and writes them.
//
// It owns what lies between a session and its socket. An outbox has a queue of frames. A
// connection that blocks has a goroutine that writes to it. A connection that can be
// polled is written to without waiting. One system call sends to many connections. A
// client that is too slow is noticed. The package guarantees that frames leave in the
// order in which they were queued, and that the owner learns which of them the kernel
// has. An idle outbox has neither a goroutine nor a buffer.
//
// It does not know users, rooms, operations or what an id means, and it drops
// nothing by itself: the owner asks with MakeRoomLocked before it queues a frame.
package outbox

import (
	"errors"
	"os"
	"sync"
	"time"

	"imgo/protocol"
	"imgo/transport"
)

// writeChunk bounds the bytes of one Write where frames are small. That is much
// for one system call, and little for a slow client's timeout.
const writeChunk = 16 << 10

const (
	// maxHeld bounds the bytes that are held for a polled connection: MakeRoomLocked writes them before there are more.
	// A larger frame is held alone.
	maxHeld = 64 << 10
	// burst is what may be held for a connection that blocks, beside Config.PendingBytes, while nothing is being written
	// to it. It is what job sends in one push.
	burst = 1 << 20
)

// ErrSlow says that the client did not take one write within the write timeout: a frame, or up to writeChunk of small
// frames. A client that reads a large frame slowly is given up, too. Otherwise it could hold its queue in memory for ever.
var ErrSlow = errors.New("the connection took nothing for too long")

// Owner is the session that an outbox belongs to. Outbox may be called at any
// time. All other methods are called with the outbox locked. They must not block
// and must not queue or write frames.
type Owner interface {
	Outbox() *Outbox
	// WrittenLocked says that the kernel has the frame with the given id, which
	// is not 0. The frame ends at or before position end of the stream. It is
	// called only for an outbox that was made with confirm.
	WrittenLocked(id uint64, end int64)
	// BlockedLocked says that the socket of a pollable connection has no room.
	// The owner then calls AbortIfSlowLocked now and then.
	BlockedLocked()
	// IdleLocked says that nothing is queued or being written any more. It is not
	// called after a frame that was written at once.
	IdleLocked()
	// AbortLocked says that the connection failed with err, or ErrSlow. The outbox drops
	// its frames and closes the connection.
	AbortLocked(err error)
	// CloseReasonLocked returns what the outbox closes the connection with, after
	// CloseLocked or a failure.
	CloseReasonLocked() (protocol.CloseCode, string)
}

// mode is a set of conditions of an outbox.
type mode uint8

const (
	// paused is set until StartLocked. Nothing is written before.
	paused mode = 1 << iota
	// held is set while frames are queued for FlushLocked.
	held
	// closing is set if the connection is to be closed when all frames are written.
	closing
)

// Outbox is the way out of one connection. It is a part of its owner, by value,
// and its lock is the owner's too: what the owner keeps in step with the queue is
// guarded by it. Nobody holds the lock while waiting for a client.
//
// An owner is not stored, since there are as many outboxes as clients. Methods
// that may call the owner take it as an argument. It must always be the same.
type Outbox struct {
	mu     sync.Mutex
	shared *Shared
	conn   transport.Conn
	queue  *queue // nil: nothing is queued or being written
	// pending counts the bytes that are queued or being written.
	pending int32
	mode    mode
	// polled is set if conn is a transport.Pollable, and nothing ever waits for it.
	polled bool
	// writing says that a goroutine writes or, of a polled connection, that the
	// socket has no room.
	writing bool
	confirm bool // the owner is told of each id that the kernel has
}

// Init makes an outbox usable. It is paused until StartLocked. With confirm the
// owner is told the id of each frame that the kernel has.
func (o *Outbox) Init(shared *Shared, conn transport.Conn, confirm bool) {
	o.shared, o.conn, o.confirm, o.mode = shared, conn, confirm, paused
	_, o.polled = conn.(transport.Pollable)
}

// Lock locks the outbox and what its owner keeps under the same lock.
func (o *Outbox) Lock() { o.mu.Lock() }

// Unlock undoes Lock.
func (o *Outbox) Unlock() { o.mu.Unlock() }

// Conn returns the connection.
func (o *Outbox) Conn() transport.Conn { return o.conn }

// Confirms reports whether the owner is told the ids that the kernel has.
func (o *Outbox) Confirms() bool { return o.confirm }

// FitsLocked reports whether a frame of n bytes may be queued. A frame over the
// bound may be queued when nothing else is.
func (o *Outbox) FitsLocked(n int) bool {
	return o.pending == 0 || int(o.pending)+n <= o.shared.cfg.PendingBytes
}

// MakeRoomLocked reports whether a frame of n bytes may be queued. A client is not slow because frames are held
// for it while nothing is being written to it. If too much would be held for a polled connection, the outbox first
// writes what it holds. That is not possible for a connection that blocks, so its outbox may hold burst more. An
// outbox that fails then, or is to be closed, has no room.
func (o *Outbox) MakeRoomLocked(owner Owner, n int) bool {
	if o.mode&(held|paused) == held && !o.writing && o.pending > 0 && int(o.pending)+n > min(maxHeld, o.shared.cfg.PendingBytes) {
		if !o.polled {
			return o.mode&closing == 0 && int(o.pending)+n <= o.shared.cfg.PendingBytes+burst
		}
		o.FlushLocked(owner)
	}
	return o.mode&closing == 0 && o.FitsLocked(n)
}

// EmptyLocked reports whether nothing is queued or being written.
func (o *Outbox) EmptyLocked() bool { return o.queue == nil }

// ReadyLocked reports whether the next frame can be given to the kernel at once.
func (o *Outbox) ReadyLocked() bool {
	return o.polled && o.queue == nil && o.mode&(paused|held) == 0
}

// EnqueueLocked sends a frame whatever its size: at once if that needs no waiting,
// else by way of the queue. A paused or held outbox keeps it.
func (o *Outbox) EnqueueLocked(owner Owner, frame []byte, id uint64) {
	if o.ReadyLocked() {
		taken, left, err := o.conn.(transport.Pollable).TryWriteOne(frame)
		o.triedOneLocked(owner, frame, id, taken, left, err)
		return
	}
	o.appendLocked(frame, id)
	o.writeLocked(owner)
}

// HoldLocked makes the outbox keep frames until FlushLocked. It reports whether
// the outbox did not do that before.
func (o *Outbox) HoldLocked() bool {
	before := o.mode
	o.mode |= held
	return before&held == 0
}

// FlushLocked ends a hold: what is queued is written.
func (o *Outbox) FlushLocked(owner Owner) {
	o.mode &^= held
	o.writeLocked(owner)
}

// StartLocked ends the pause of a new outbox: first is written before all that
// was queued meanwhile.
func (o *Outbox) StartLocked(owner Owner, first []byte) {
	o.mode &^= paused
	if o.queue == nil {
		o.EnqueueLocked(owner, first, 0)
		return
	}
	o.prependLocked(first)
	o.writeLocked(owner)
}

// CloseLocked writes what is queued, then last, if it is not nil, and then closes the
// connection.
// The frames of an outbox that was not started are dropped instead: they were
// queued for a client that is not to have them.
func (o *Outbox) CloseLocked(owner Owner, last []byte) {
	if o.mode&paused != 0 {
		o.DropLocked()
	}
	o.mode = o.mode&held | closing
	if last != nil {
		o.EnqueueLocked(owner, last, 0)
	} else if o.queue == nil {
		o.closeConnLocked(owner)
		return
	}
	o.FlushLocked(owner)
}

// writeLocked has what is queued written, if that can be now.
func (o *Outbox) writeLocked(owner Owner) {
	if o.writing || o.queue == nil || o.mode&(paused|held) != 0 {
		return
	}
	if o.polled {
		o.tryQueueLocked(owner)
		return
	}
	o.setWritingLocked(true)
	go write(owner)
}

func (o *Outbox) setWritingLocked(writing bool) {
	if o.writing == writing {
		return
	}
	o.writing = writing
	n := int64(1)
	if !writing {
		n = -1
	}
	o.shared.writing.Add(n)
}

// write empties the queue of owner's outbox into a connection that blocks. It is a
// goroutine, and the only one that writes.
func write(owner Owner) {
	o := owner.Outbox()
	o.mu.Lock()
	q := o.queue // stays while a goroutine writes
	var spare []frame
	for len(q.frames) > 0 {
		frames := q.frames
		q.frames = spare[:0]
		o.mu.Unlock()
		err := o.writeFrames(owner, q, frames)
		clear(frames)
		o.mu.Lock()
		spare = frames
		if err != nil {
			o.dropFailedLocked(owner, err)
			break
		}
	}
	if cap(spare) > cap(q.frames) {
		q.frames = spare[:0]
	}
	o.setWritingLocked(false)
	toClose := o.mode&closing != 0
	o.releaseLocked()
	owner.IdleLocked()
	code, reason := owner.CloseReasonLocked()
	o.mu.Unlock()
	if toClose {
		_ = o.conn.Close(code, reason)
	}
}

// dropFailedLocked tells the owner that a write failed and drops all frames.
func (o *Outbox) dropFailedLocked(owner Owner, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = ErrSlow
	}
	owner.AbortLocked(err)
	o.DropLocked()
	o.mode |= closing
}

// writeFrames writes frames that the goroutine has taken from q, a chunk at a time.
func (o *Outbox) writeFrames(owner Owner, q *queue, frames []frame) error {
	for len(frames) > 0 {
		n, size := 0, 0
		q.batch = q.batch[:0]
		for n < len(frames) && (n == 0 || size+len(frames[n].bytes) <= writeChunk) {
			q.batch = append(q.batch, frames[n].bytes)
			size += len(frames[n].bytes)
			n++
		}
		err := o.conn.Write(time.Now().Add(o.shared.cfg.WriteTimeout), q.batch...)
		o.mu.Lock()
		if err != nil {
			o.addPendingLocked(-sizeOf(frames))
		} else {
			o.addPendingLocked(-size)
			o.writtenLocked(owner, frames[:n])
		}
		o.mu.Unlock()
		if err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// writtenLocked tells the owner which ids the kernel has.
func (o *Outbox) writtenLocked(owner Owner, frames []frame) {
	if !o.confirm || len(frames) == 0 {
		return
	}
	end := o.conn.Written()
	for _, f := range frames {
		if f.id != 0 {
			owner.WrittenLocked(f.id, end)
		}
	}
}

// Wait waits until nothing is being written, for at most d. A d below 0 is no bound.
func (o *Outbox) Wait(d time.Duration) {
	idle := o.Idle()
	if idle == nil || d == 0 {
		return
	}
	if d < 0 {
		<-idle
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}

// Idle returns a channel that is closed when nothing is being written, or nil if
// that is so already.
func (o *Outbox) Idle() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.writing {
		return nil
	}
	if o.queue.idle == nil {
		o.queue.idle = make(chan struct{})
	}
	return o.queue.idle
}

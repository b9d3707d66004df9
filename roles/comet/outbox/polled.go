package outbox

import "imgo/transport"

// A polled connection takes what the kernel has room for and never waits.
// The goroutine that has a frame for it writes it, under the lock. Bytes that the socket
// has no room for stay in the queue until the connection calls Writable.

// triedOneLocked goes on after a frame was given to a connection with nothing
// queued: taken, left and err are what TryWriteOne returned.
func (o *Outbox) triedOneLocked(owner Owner, bytes []byte, id uint64, taken, left int, err error) {
	switch {
	case err != nil:
		o.abortLocked(owner, err)
	case left == 0 && taken == 1:
		if o.confirm && id != 0 {
			owner.WrittenLocked(id, o.conn.Written())
		}
		if o.mode&closing != 0 {
			o.closeConnLocked(owner)
		}
	default:
		q := o.openLocked()
		q.frames = append(q.frames, frame{bytes, id})
		if taken == 0 {
			o.addPendingLocked(len(bytes))
		}
		o.blockLocked(owner, taken, left)
	}
}

// tryQueueLocked writes what is queued.
func (o *Outbox) tryQueueLocked(owner Owner) {
	o.mode &^= held
	q := o.queue
	q.batch = q.batch[:0]
	for _, f := range q.frames {
		q.batch = append(q.batch, f.bytes)
	}
	for done := 0; done < len(q.frames); {
		taken, left, err := o.conn.(transport.Pollable).TryWrite(q.batch[done:])
		if err != nil {
			q.taken = done
			o.abortLocked(owner, err)
			return
		}
		o.addPendingLocked(-sizeOf(q.frames[done : done+taken]))
		if left > 0 {
			o.writtenLocked(owner, q.frames[:done])
			q.dropFirst(done)
			o.blockLocked(owner, taken, left)
			return
		}
		done += taken
	}
	o.writtenLocked(owner, q.frames)
	o.idleLocked(owner)
}

// blockLocked leaves the queue to Writable.
func (o *Outbox) blockLocked(owner Owner, taken, left int) {
	q := o.queue
	q.taken, q.left = taken, 0
	if taken > 0 { // otherwise what is left is the connection's own
		q.left = left
		o.addPendingLocked(left)
	}
	q.blockedAt = o.shared.now()
	o.setWritingLocked(true)
	owner.BlockedLocked()
}

// Writable goes on where the socket had no room.
func (o *Outbox) Writable(owner Owner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	q := o.queue
	if !o.writing || q == nil {
		return // dropped meanwhile
	}
	o.addPendingLocked(-q.left)
	o.writtenLocked(owner, q.frames[:q.taken])
	q.dropFirst(q.taken)
	q.taken, q.left = 0, 0
	o.setWritingLocked(false)
	if len(q.frames) > 0 {
		o.tryQueueLocked(owner)
	} else {
		o.idleLocked(owner)
	}
}

// idleLocked ends the writing of a queue that is empty.
func (o *Outbox) idleLocked(owner Owner) {
	o.releaseLocked()
	if o.mode&closing != 0 {
		o.closeConnLocked(owner)
	}
	owner.IdleLocked()
}

func (o *Outbox) closeConnLocked(owner Owner) {
	code, reason := owner.CloseReasonLocked()
	_ = o.conn.Close(code, reason)
}

// BlockedLocked reports whether the socket of a polled connection has no room.
func (o *Outbox) BlockedLocked() bool { return o.polled && o.writing }

// AbortIfSlowLocked gives up a polled connection that has not taken one write within
// the write timeout, see ErrSlow. A connection that blocks does that by itself.
func (o *Outbox) AbortIfSlowLocked(owner Owner) {
	if o.BlockedLocked() && o.shared.now()-o.queue.blockedAt >= o.shared.cfg.WriteTimeout {
		o.abortLocked(owner, ErrSlow)
	}
}

// abortLocked gives up a polled connection. Its reader finds that out.
func (o *Outbox) abortLocked(owner Owner, err error) {
	o.dropFailedLocked(owner, err)
	o.closeConnLocked(owner)
}

package outbox

import (
	"imgo/transport"
	"imgo/transport/batch"
)

const (
	// batchFrom is from how many outboxes on a batch is worth borrowing.
	batchFrom = 4
	// BatchesPerProcessor bounds the batches that are lent at a time. A worker that
	// gets none sends frame by frame.
	BatchesPerProcessor = 4
)

// Worker writes to many outboxes, one after the other. Where the kernel can do
// that it sends up to batch.Size frames in one system call. A Worker is for one
// goroutine. Between Begin and End an outbox that it has written to may stay
// locked, since nothing may come between a frame in the batch and what it is
// written behind.
type Worker struct {
	shared *Shared
	batch  *batch.Batch // nil: each frame is written by itself
	begun  []begun      // the frames in the batch
}

// begun is a frame in a batch. Its outbox is locked until it was sent.
type begun struct {
	outbox *Outbox
	owner  Owner
	frame  []byte
	id     uint64
}

// NewWorker makes a worker without a batch.
func NewWorker(shared *Shared) Worker { return Worker{shared: shared} }

// Begin borrows a batch for frames to n outboxes, if that is worth it.
func (w *Worker) Begin(n int) {
	if n < batchFrom {
		return
	}
	if w.batch = w.shared.cfg.Batches.Get(); w.batch != nil && w.begun == nil {
		w.begun = make([]begun, 0, min(n, batch.Size))
	}
}

// End sends what is in the batch, unlocks its outboxes and gives the batch back.
func (w *Worker) End() {
	w.send()
	w.shared.cfg.Batches.Put(w.batch)
	w.batch = nil
}

// Lock locks an outbox. It never waits while others are locked: an outbox that another
// goroutine has locked ends the batch. Otherwise two workers with the same outboxes in
// different order would wait for each other.
func (w *Worker) Lock(o *Outbox) {
	if len(w.begun) == 0 {
		o.mu.Lock()
	} else if !o.mu.TryLock() {
		w.send()
		o.mu.Lock()
	}
}

// Unlock unlocks an outbox, unless its frame is in the batch.
func (w *Worker) Unlock(o *Outbox) {
	n := len(w.begun)
	if n == 0 || w.begun[n-1].outbox != o {
		o.mu.Unlock()
	} else if n == batch.Size {
		w.send()
	}
}

// EnqueueLocked is Outbox.EnqueueLocked by way of the batch. The caller has
// locked the outbox with Lock and does nothing more with it before Unlock.
func (w *Worker) EnqueueLocked(owner Owner, frame []byte, id uint64) {
	o := owner.Outbox()
	if w.batch != nil && o.ReadyLocked() && o.conn.(transport.Pollable).StartWrite(w.batch, frame) {
		w.begun = append(w.begun, begun{o, owner, frame, id})
		return
	}
	o.EnqueueLocked(owner, frame, id)
}

// FlushLocked is Outbox.FlushLocked by way of the batch, under the conditions of
// EnqueueLocked.
func (w *Worker) FlushLocked(owner Owner) {
	o := owner.Outbox()
	o.mode &^= held
	q := o.queue
	if q == nil || !o.polled || o.writing || len(q.frames) != 1 || q.run != nil || o.mode&paused != 0 {
		o.writeLocked(owner)
		return
	}
	lone := q.frames[0]
	o.addPendingLocked(-len(lone.bytes))
	o.releaseLocked()
	w.EnqueueLocked(owner, lone.bytes, lone.id)
}

// send sends what is in the batch and unlocks its outboxes.
func (w *Worker) send() {
	if len(w.begun) == 0 {
		return
	}
	results := w.batch.Send()
	for i := range w.begun {
		b := &w.begun[i]
		taken, left, err := b.outbox.conn.(transport.Pollable).FinishWrite(b.frame, results[i])
		b.outbox.triedOneLocked(b.owner, b.frame, b.id, taken, left, err)
		b.outbox.mu.Unlock()
	}
	clear(w.begun)
	w.begun = w.begun[:0]
}

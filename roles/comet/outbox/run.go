package outbox

import "imgo/transport"

// Run queues messages for one outbox whose frames lie one after the other in one
// piece of memory. Where the owner need not know of each message whether it is in
// the kernel, several messages go as one frame.
type Run struct {
	outbox *Outbox
	form   transport.Form
	buf    []byte
	from   int    // where in buf the frame begins that is being put together
	id     uint64 // of the last message in it
}

// StartRunLocked begins a run of about n bytes of frames. It must be ended with
// EndLocked, and then flushed, before the outbox is unlocked.
func (o *Outbox) StartRunLocked(form transport.Form, n int) Run {
	return Run{outbox: o, form: form, buf: o.shared.runMemory(o.openLocked(), min(n, o.shared.cfg.PendingBytes))}
}

// AddLocked adds a message. It reports whether there was room for it.
func (r *Run) AddLocked(op int32, id uint64, body []byte) bool {
	o, at := r.outbox, len(r.buf)
	r.buf = transport.AppendMessage(r.buf, r.form, op, id, body)
	// A connection that is written to with Write frames each frame by itself.
	join := o.polled && !o.confirm && len(r.buf)-r.from <= writeChunk
	if at > r.from && !join {
		r.cutLocked(at)
	}
	if pending := int(o.pending) + at - r.from; pending > 0 && pending+len(r.buf)-at > o.shared.cfg.PendingBytes {
		r.buf = r.buf[:at]
		return false
	}
	r.id = id
	return true
}

// cutLocked queues what is in buf up to end as one frame.
func (r *Run) cutLocked(end int) {
	r.outbox.appendLocked(r.buf[r.from:end], r.id)
	r.from = end
}

// EndLocked queues the last frame.
func (r *Run) EndLocked() {
	if len(r.buf) > r.from {
		r.cutLocked(len(r.buf))
	}
}

package job

import (
	"imgo/envelope"
)

// This file is the fast path of a lone kept record. Where log, owner and comet are
// in one process, the goroutine that committed the record also delivers it: between
// the sync that made it durable and the answer to its caller. Waking the goroutines
// of the normal path (reader, owner, sender) costs more time than the work itself.
//
// The log's commit goroutine must not wait for anything, or every append would wait
// as well. So the fast path delivers only what is resolved from memory and goes to an
// idle comet. Everything else is left to the partition's reader, which is woken
// afterwards in any case and passes over the records that were delivered.

const (
	// fastPathBytes, fastPathUsers and fastPathTargets bound one delivery on the fast
	// path: the next commit waits for it.
	fastPathBytes   = 64 << 10
	fastPathUsers   = 64
	fastPathTargets = 64
)

// followableLog is a log that reports each record that was committed by itself, and
// that can return the records in its memory without waiting. The embedded log is one.
type followableLog interface {
	Recent(partition int32, from int64, maxBytes int) []envelope.Entry
	// Follow has fn called on the goroutine that committed a record.
	Follow(fn func(partition int32)) (stop func())
}

// LocalRouter is a router in this process that owns every partition.
type LocalRouter interface {
	// ResolveNow resolves records from memory. It never waits and never reads the
	// store; ok is false if it would have to.
	ResolveNow(req *envelope.ResolveRequest) (reply *envelope.ResolveReply, ok bool)
}

// followKept begins to follow the kept log if the fast path is possible.
func (j *Job) followKept() (stop func()) {
	log, ok := j.d.Kept.(followableLog)
	if !ok || j.d.Local == nil {
		return func() {}
	}
	return log.Follow(func(partition int32) { j.committed(log, partition) })
}

// enableFastPath opens the fast path to the partitions of these readers.
func (j *Job) enableFastPath(readers []*reader) {
	kept := make(map[int32]*reader)
	for _, r := range readers {
		if r.topic == Kept {
			kept[r.partition] = r
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept = kept
}

// disableFastPath closes the fast path and waits until the deliveries on it have
// been queued, or have a push slot.
func (j *Job) disableFastPath(readers []*reader) {
	j.mu.Lock()
	j.kept = nil
	j.mu.Unlock()
	for _, r := range readers {
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
	}
}

// committed runs on the log's commit goroutine after each lone record.
func (j *Job) committed(log followableLog, partition int32) {
	j.mu.Lock()
	r := j.kept[partition]
	j.mu.Unlock()
	if r == nil {
		return
	}
	// The reader's lock is free again, so the reader can go on meanwhile.
	for _, slot := range j.deliverNow(log, r) {
		slot.push()
	}
}

// deliverNow delivers the new records of a partition if they can be resolved from
// memory and no other goroutine is delivering. The caller must then push with the
// returned slots.
func (j *Job) deliverNow(log followableLog, r *reader) (slots []pushSlot) {
	if !r.mu.TryLock() {
		return nil
	}
	defer r.mu.Unlock()
	if r.ended || r.next < 0 {
		return nil
	}
	entries := log.Recent(r.partition, r.next, fastPathBytes)
	if len(entries) == 0 {
		return nil
	}
	p := r.decodePushes(entries)
	users := 0
	for _, of := range p.all {
		users += len(of.push.Users)
	}
	if users > fastPathUsers {
		return nil
	}
	// A failure here is left to the reader, which tries again and logs it.
	_ = r.advanceLocked(entries, func(s *span) (err error) {
		slots, err = j.resolveNow(r, s, p)
		return err
	})
	return slots
}

// errNotNow makes a reader deliver what the fast path cannot.
var errNotNow = envelope.Errorf(envelope.CodeNotReady, "the records cannot be resolved from memory")

// resolveNow resolves pushes from memory and queues the deliveries or acquires push slots for them.
func (j *Job) resolveNow(r *reader, s *span, p *pushes) ([]pushSlot, error) {
	if len(p.all) == 0 {
		return nil, nil
	}
	reply, ok := j.d.Local.ResolveNow(&p.req)
	if !ok {
		return nil, errNotNow
	}
	out, err := p.deliveries(reply)
	if err != nil {
		return nil, err
	}
	targets := 0
	for _, item := range reply.Items {
		targets += len(item.To)
	}
	j.metrics.carried.WithLabelValues(string(Kept)).Add(float64(len(p.all)))
	return out.enqueue(j, r, s, targets <= fastPathTargets), nil
}

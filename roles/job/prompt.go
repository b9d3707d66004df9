package job

import (
	"imgo/envelope"
)

// This file is the short way of a lone record. Where log, owner and comet are in
// one process, the goroutine that committed it carries it, between the sync that
// made it durable and the answer to its caller: of the way to the client more is
// else spent on being woken (reader, owner, sender: a goroutine each, and the
// processor for it) than on the work. Who carries is still one at a time for a
// partition, in its order, from where the last one ended; what cannot be carried
// at once is left to the reader, who is woken after that in any case and passes
// over what was carried.

const (
	// promptBytes and promptTargets bound what is carried so: more is work
	// that the next commit should not have to wait for.
	promptBytes   = 64 << 10
	promptTargets = 64
)

// followed is a log that tells of each record that was committed by itself,
// and can say what it has in memory without waiting, as the embedded one can.
type followed interface {
	Recent(partition int32, from int64, maxBytes int) []envelope.Entry
	// Follow has fn called on the goroutine that committed a record.
	Follow(fn func(partition int32)) (stop func())
}

// follow follows the kept log, where that is possible and right.
func (j *Job) follow() (stop func()) {
	log, ok := j.d.Kept.(followed)
	if !ok || !j.d.Here {
		return func() {}
	}
	return log.Follow(func(partition int32) { j.appended(log, partition) })
}

// prompt begins to carry for readers on the goroutine that commits.
func (j *Job) prompt(readers []*reader) {
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

// unprompt ends it, and waits for who is at it.
func (j *Job) unprompt(readers []*reader) {
	j.mu.Lock()
	j.kept = nil
	j.mu.Unlock()
	for _, r := range readers {
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
	}
}

// appended carries what is new in a partition, if nobody else is doing so and
// nothing has to be waited for.
func (j *Job) appended(log followed, partition int32) {
	j.mu.Lock()
	r := j.kept[partition]
	j.mu.Unlock()
	if r == nil {
		return
	}
	// The partition is not held meanwhile, so its reader can go on.
	for _, c := range j.carryNow(log, r) {
		c.tell()
	}
}

// carryNow is carryKept of what is new and can be resolved without waiting. It
// returns what the caller is to tell.
func (j *Job) carryNow(log followed, r *reader) (mine []claimed) {
	if !r.mu.TryLock() {
		return nil
	}
	defer r.mu.Unlock()
	if r.ended || r.next < 0 {
		return nil
	}
	entries := log.Recent(r.partition, r.next, promptBytes)
	if len(entries) == 0 {
		return nil
	}
	p := r.pushesOf(entries)
	users := 0
	for _, of := range p.all {
		users += len(of.push.Users)
	}
	if users > promptTargets {
		return nil
	}
	// What fails here is the reader's to try again, and to say.
	_ = r.advance(entries, func(s *span) (err error) {
		mine, err = j.resolveNow(r, s, p)
		return err
	})
	return mine
}

// resolveNow asks the owner, who must not have to wait, and queues or claims what
// its answer makes of the pushes.
func (j *Job) resolveNow(r *reader, s *span, p *pushes) ([]claimed, error) {
	if len(p.all) == 0 {
		return nil, nil
	}
	owner, err := j.d.Owners.Owner(r.partition)
	if err != nil {
		return nil, err
	}
	reply, err := owner.Resolve(j.over, &p.req)
	if err != nil {
		return nil, err
	}
	out, err := p.grouped(reply)
	if err != nil {
		return nil, err
	}
	targets := 0
	for _, item := range reply.Items {
		targets += len(item.To)
	}
	j.metrics.carried.WithLabelValues(string(Kept)).Add(float64(len(p.all)))
	return out.send(j, r, s, targets <= promptTargets), nil
}

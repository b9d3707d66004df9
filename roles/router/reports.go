package router

import (
	"container/heap"
	"context"
	"math"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// A deadline, the end of a ttl, and what else depends on a clock, is put into the log as a step by
// the owner. Applying the step decides: an acknowledgement that is before it in the log has come in
// time, whatever the owner's clock says.

const (
	// maxDuesRecord bounds the steps of one record, and maxDuesScan the users that one look at the
	// store finds.
	maxDuesRecord, maxDuesScan = 512, 256
	// noDue is a time that no clock reaches.
	noDue = math.MaxInt64
)

// dueQueue has the accounts in memory with a message that reports, in the order of the times at
// which they have a step to take. It is a heap. The partition's mu guards it.
type dueQueue []*account

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.at < q[j].due.at }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].due.index, q[j].due.index = i, j
}

// Push and Pop are heap's.
func (q *dueQueue) Push(a any) {
	a.(*account).due.index = len(*q)
	*q = append(*q, a.(*account))
}

func (q *dueQueue) Pop() any {
	old := *q
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return a
}

// accountDue is an account's place in the dueQueue.
type accountDue struct {
	at     int64 // Unix milliseconds
	index  int
	queued bool
}

// scheduleLocked puts an account where its next step belongs, at the latest at the time atMS.
func (t *accountTable) scheduleLocked(a *account, atMS int64) {
	switch {
	case atMS == noDue:
	case !a.due.queued:
		a.due.at, a.due.queued = atMS, true
		heap.Push(&t.dues, a)
	case atMS < a.due.at:
		a.due.at = atMS
		heap.Fix(&t.dues, a.due.index)
	}
}

// unscheduleLocked takes an account out of the queue.
func (t *accountTable) unscheduleLocked(a *account) {
	if a.due.queued {
		heap.Remove(&t.dues, a.due.index)
		a.due = accountDue{}
	}
}

// scheduleAllLocked schedules an account by all of its messages.
func (t *accountTable) scheduleAllLocked(a *account) { t.scheduleLocked(a, a.NextDue(t.p.bound())) }

// decideEvery is the longest pause between two looks for steps that are due.
const decideEvery = time.Second

// decideLoop looks for steps that are due, until ctx is done.
func (r *Router) decideLoop(ctx context.Context) error {
	tick := time.NewTicker(min(r.cfg.WatchInterval, decideEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.decide(ctx)
		}
	}
}

// decide puts the steps that are due into the log, for the partitions that are owned and were
// applied as far as the log goes.
func (r *Router) decide(ctx context.Context) {
	for _, p := range r.parts.serving() {
		if _, fenced := p.fencedAt(); fenced || !p.reachedEnd() {
			continue
		}
		p.loadDues(ctx)
		for ctx.Err() == nil {
			dues, removals := p.proposeDues()
			if len(dues) == 0 && len(removals) == 0 {
				break
			}
			p.appendDues(ctx, dues, removals)
		}
	}
}

// reachedEnd reports whether the partition was applied as far as the log goes, as far as is known.
func (p *partition) reachedEnd() bool {
	log, ok := p.kept.(endedLog)
	return !ok || p.next() >= log.End(p.index)
}

// loadDues reads those accounts from the store that have a step to take by now.
func (p *partition) loadDues(ctx context.Context) {
	now := p.clock.Now().UnixMilli()
	p.dues.next = min(p.dues.next, p.dues.stored.Swap(noDue))
	for ctx.Err() == nil && p.dues.next <= now {
		list, next, more, err := p.store.Dues(p.index, p.dues.after, now, maxDuesScan)
		if err != nil {
			p.log.Error().Err(err).Int32("partition", p.index).Msg("deadlines were not read; trying again")
			return
		}
		for _, d := range list {
			if _, err := p.accounts.open(ctx, d.User); err != nil {
				return // comes again
			}
			p.mu.Unlock()
			p.dues.after = d
		}
		if p.dues.next = noDue; more {
			p.dues.next = next
		}
	}
}

// storedDues is what a partition knows of the steps in its store.
type storedDues struct {
	// after is the last step that loadDues has read. What is stored later with an earlier time is of
	// an account in memory, which stays there until the step is proposed. next is a time before which
	// the store has no further step, but for those since stored. They are decideLoop's.
	after store.DueAt
	next  int64
	// stored is the earliest time of the steps that flushes have stored since.
	stored atomic.Int64
}

// add notes that a step is going to be stored.
func (d *storedDues) add(atMS int64) {
	for now := d.stored.Load(); atMS < now && !d.stored.CompareAndSwap(now, atMS); now = d.stored.Load() {
	}
}

// proposeDues takes steps that are due from the accounts in memory, at most as many as a record has.
func (p *partition) proposeDues() (dues []*envelope.Due, removals []*envelope.Removal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, queue := p.clock.Now().UnixMilli(), &p.accounts.dues
	for len(*queue) > 0 && (*queue)[0].due.at <= now && len(dues) < maxDuesRecord && len(removals) < maxDuesRecord {
		a := (*queue)[0]
		list, devices := a.Propose(now, p.bound(), maxDuesRecord-len(dues))
		dues = append(dues, list...)
		if len(devices) > 0 {
			removals = append(removals, &envelope.Removal{User: a.User(), Devices: devices})
		}
		p.accounts.unscheduleLocked(a)
		p.accounts.scheduleAllLocked(a)
	}
	if p.cfg.Faults.DueByClock {
		p.decideByClockLocked(dues)
		dues = nil
	}
	return dues, removals
}

// decideByClockLocked takes steps without the log, as a router with the fault DueByClock does.
func (p *partition) decideByClockLocked(dues []*envelope.Due) {
	var derived []events.Event
	for _, due := range dues {
		if a := p.accounts.byUser[due.User]; a != nil {
			a.Due(due)
			derived = append(derived, a.TakeEvents()...)
			p.accounts.touchLocked(a, 64)
		}
	}
	for i := range derived {
		derived[i].ID, derived[i].Partition = events.ID{Record: p.position.appliedID(), N: uint32(1000 + i)}, p.index
	}
	p.events.addLocked(derived)
}

// appendDues puts steps into the log. What fails is proposed again after a while.
func (p *partition) appendDues(ctx context.Context, dues []*envelope.Due, removals []*envelope.Removal) {
	if len(dues) > 0 {
		rec := &envelope.Record{Dues: &envelope.Dues{Dues: dues}}
		if _, err := p.append(ctx, p.index, rec, "steps of messages"); err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Int32("partition", p.index).Int("steps", len(dues)).Msg("deadlines were not put into the log; trying again")
		}
	}
	for _, removal := range removals {
		rec := &envelope.Record{Removal: removal}
		if _, err := p.append(ctx, p.index, rec, "a device that has expired"); err != nil && ctx.Err() == nil {
			p.log.Warn().Err(err).Str("user", removal.User).Msg("an expired device was not forgotten; trying again")
		}
	}
}

// duesLocked applies steps of messages.
func (ap *applier) duesLocked(id uint64, dues *envelope.Dues) error {
	for _, due := range dues.Dues {
		if !ap.storableLocked(id, due.User, "user") {
			continue
		}
		a, err := ap.accountLocked(due.User)
		if err != nil {
			return err
		}
		if a.Due(due) {
			switch due.Step {
			case envelope.Due_EXPIRED:
				ap.p.metrics.expired.Inc()
			case envelope.Due_DROPPED, envelope.Due_LOST:
				ap.p.metrics.dropped.Inc()
			}
		}
		ap.tookLocked(a)
		ap.p.accounts.touchLocked(a, 64)
	}
	return nil
}

// tookLocked takes the events of an account that a record has changed.
func (ap *applier) tookLocked(a *account) {
	if list := a.TakeEvents(); len(list) > 0 {
		ap.derived = append(ap.derived, list...)
		ap.p.events.deriving = true
	}
}

// emitLocked queues the events of a record that was applied, with their ids.
func (ap *applier) emitLocked(id uint64, timeMS int64) {
	if len(ap.derived) == 0 {
		return
	}
	for i := range ap.derived {
		ap.derived[i].ID, ap.derived[i].Partition, ap.derived[i].TimeMS = events.ID{Record: id, N: uint32(i)}, ap.p.index, timeMS
	}
	ap.p.events.addLocked(ap.derived)
	ap.derived, ap.p.events.deriving = nil, false
}

// maxMessages bounds the messages of one answer to Messages, and maxMessageBytes their bodies.
const (
	maxMessages     = 1000
	maxMessageBytes = 1 << 20
)

// Messages returns messages that wait for a user.
func (r *Router) Messages(ctx context.Context, req *envelope.MessagesRequest) (*envelope.MessagesReply, error) {
	if err := envelope.CheckName("user", req.User); err != nil {
		return nil, err
	}
	p, err := r.parts.of(ctx, req.User)
	if err != nil {
		return nil, err
	}
	if err := r.waitEnd(ctx, p); err != nil {
		return nil, err
	}
	a, err := p.accounts.open(ctx, req.User)
	if err != nil {
		return nil, err
	}
	reply := &envelope.MessagesReply{}
	most, size := min(orDefault(req.MaxMessages, maxMessages), maxMessages), 0
	now := p.clock.Now().UnixMilli()
	var entries []store.MailboxEntry // copies: entries change once the lock is released
	for _, e := range a.Entries() {
		if e.ExpiresMS <= now || (req.Id != 0 && e.ID != req.Id) || (req.Id == 0 && e.ID <= req.After) {
			continue
		}
		if len(entries) >= most || req.Bodies && len(entries) > 0 && size+int(e.Size) > maxMessageBytes {
			reply.More = true
			break
		}
		size += int(e.Size)
		msg := &envelope.WaitingMessage{
			Id: e.ID, Size: uint32(e.Size), TimeMs: e.TimeMS, ExpiresMs: e.ExpiresMS, Waiting: a.Waiting(e), Unclaimed: e.Unclaimed,
			Tracked: mailbox.TrackedRecord(e.Tracked),
		}
		if e.Message != nil {
			msg.Op, msg.Body = e.Message.Op, e.Message.Body
		}
		entries = append(entries, e.MailboxEntry)
		reply.Messages = append(reply.Messages, msg)
	}
	p.mu.Unlock()
	return reply, p.fillMessages(reply, req, entries)
}

// fillMessages reads what the store has of messages, and drops the bodies if they are not wanted.
func (p *partition) fillMessages(reply *envelope.MessagesReply, req *envelope.MessagesRequest, entries []store.MailboxEntry) error {
	var absent []store.MailboxEntry
	for i, m := range reply.Messages {
		if m.Op == 0 {
			absent = append(absent, entries[i])
		}
	}
	if len(absent) > 0 {
		read, err := p.store.Bodies(p.index, req.User, absent)
		if err != nil {
			return err
		}
		for _, m := range reply.Messages {
			if m.Op == 0 {
				if k := read[0]; k != nil {
					m.Op, m.Body = k.Op, k.Body
				}
				read = read[1:]
			}
		}
	}
	if !req.Bodies {
		for _, m := range reply.Messages {
			m.Body = nil
		}
	}
	return nil
}

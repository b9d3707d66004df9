package router

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/internal/wait"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// A deadline, the end of a ttl, and what else depends on a clock, is put into the log as a step by
// the owner. Applying the step decides: an acknowledgement that is before it in the log has come in
// time, whatever the owner's clock says.

const (
	// maxDuesRecord bounds the steps of one record, and maxDuesScan the users of one page of the store.
	maxDuesRecord, maxDuesScan = 512, 256
	// noDue is a time that no clock reaches.
	noDue = math.MaxInt64
	// decideEvery is the longest pause between two looks for steps that are due.
	decideEvery = time.Second
)

// dues finds the steps of a partition that are due, and puts them into the log.
type dues struct {
	p *partition
	// queue has the accounts in memory with a message that reports. expired has the devices, by user,
	// that have expired and that only a record may forget. loaded has the accounts that load has read, while
	// they stay in memory for their steps. The partition's mu guards the three.
	queue   dueQueue
	expired map[string][]string
	loaded  []*account

	// after is the last due time that load has read. It begins anew when an earlier one is stored.
	// Before next the store has no further due time, except for those stored since. Only run uses both.
	after store.DueTime
	next  int64
	// stored is the earliest time of the steps that flushes have stored since. The partition's mu guards it.
	stored int64
}

// dueQueue has accounts in the order of the times at which they have a step to take. It is a heap.
type dueQueue []*account

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.at < q[j].due.at }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].due.index, q[j].due.index = int32(i), int32(j)
}

// Push and Pop are heap's.
func (q *dueQueue) Push(a any) {
	a.(*account).due.index = int32(len(*q))
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
	index  int32
	queued bool
}

// scheduleLocked puts an account where its next step belongs, at the latest at the time atMS.
func (d *dues) scheduleLocked(a *account, atMS int64) {
	switch {
	case atMS == noDue:
	case !a.due.queued:
		a.due.at, a.due.queued = atMS, true
		heap.Push(&d.queue, a)
	case atMS < a.due.at:
		a.due.at = atMS
		heap.Fix(&d.queue, int(a.due.index))
	}
}

// unscheduleLocked takes an account out of the queue.
func (d *dues) unscheduleLocked(a *account) {
	if a.due.queued {
		heap.Remove(&d.queue, int(a.due.index))
		a.due = accountDue{}
	}
}

// scheduleAllLocked schedules an account by all of its messages.
func (d *dues) scheduleAllLocked(a *account) { d.scheduleLocked(a, a.Messages.NextDue(d.p.bound())) }

// hasStepLocked reports whether an account has a step that is due soon, or that was put into the log and is not
// applied yet.
func (d *dues) hasStepLocked(a *account) bool {
	if !a.due.queued {
		return false
	}
	soon := d.p.clock.Now().UnixMilli() + 2*mailbox.StepRetryMS
	if a.due.at <= soon {
		d.unscheduleLocked(a) // a record may have taken the step since
		d.scheduleAllLocked(a)
	}
	return a.due.queued && a.due.at <= soon
}

// setExpiredLocked notes which devices of a user have expired that only a record may forget.
func (d *dues) setExpiredLocked(user string, devices []string) {
	if len(devices) > 0 {
		d.expired[user] = devices
	} else {
		delete(d.expired, user)
	}
}

// storedLocked notes that the store has a further step at a time. Its account is in memory until then: a note before the store
// has the step could be used up by a load that does not find it.
func (d *dues) storedLocked(atMS int64) { d.stored = min(d.stored, atMS) }

// run puts the steps that are due into the log, until ctx is done. Each partition has a goroutine for it, because the log
// may take no records of one partition.
func (d *dues) run(ctx context.Context) {
	p := d.p
	wait.Every(ctx, min(p.cfg.WatchInterval, decideEvery), func() {
		if p.isUp() && p.owned.Load() && p.appliedAll() {
			d.decide(ctx)
		}
	})
}

// decide puts the steps that are due into the log: those of a page of accounts that only the store has before it reads
// the next page. It ends at the first error. The next round goes on.
func (d *dues) decide(ctx context.Context) {
	for more := true; more && ctx.Err() == nil; {
		more = d.load(ctx)
		for ctx.Err() == nil {
			steps, removals := d.propose()
			if len(steps) == 0 && len(removals) == 0 {
				break
			}
			if err := d.append(ctx, steps, removals); err != nil {
				if ctx.Err() == nil {
					p := d.p
					p.log.Warn().Err(err).Int32("partition", p.index).Msg("deadlines were not put into the log; trying again")
				}
				return
			}
		}
	}
}

// load reads a page of those accounts from the store that have a step to take by now, if there is room for it. It
// reports whether there may be more of them and room.
func (d *dues) load(ctx context.Context) (more bool) {
	p := d.p
	now := p.clock.Now().UnixMilli()
	room, stored := d.release()
	if stored < d.after.TimeMS { // as after the clock was set back
		d.after = store.DueTime{}
	}
	d.next = min(d.next, stored)
	if !room || d.next > now {
		return false
	}
	list, next, ok, err := p.store.Dues(p.index, d.after, now, maxDuesScan)
	if err != nil {
		p.log.Error().Err(err).Int32("partition", p.index).Msg("deadlines were not read; trying again")
		return false
	}
	for _, due := range list {
		if err := d.read(ctx, due.User); err != nil {
			return false // comes again
		}
		d.after = due
	}
	if d.next = noDue; ok {
		d.next = next
	}
	return d.next <= now
}

// read has an account in memory that has a step to take.
func (d *dues) read(ctx context.Context, user string) error {
	p := d.p
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.accounts.byUser[user] != nil
	a, err := p.accounts.openLocked(ctx, user)
	if err == nil && !known {
		d.loaded = append(d.loaded, a)
	}
	return err
}

// release drops those accounts from memory that load has read, once their steps are applied and the store has them. It
// reports whether there is room for more: whether fewer are left than accounts may be idle, or than a page has. stored is
// the earliest time of the steps that flushes have stored since the call before.
func (d *dues) release() (room bool, stored int64) {
	p := d.p
	p.mu.Lock()
	defer p.mu.Unlock()
	stored, d.stored = d.stored, noDue
	d.loaded = slices.DeleteFunc(d.loaded, func(a *account) bool {
		kept := len(a.sessions) > 0 || p.presence.hasLocked(a) // it is in memory for another reason now
		return kept || p.accounts.byUser[a.User()] != a || p.accounts.dropLocked(a)
	})
	return len(d.loaded) < max(p.cfg.IdleMailboxes, maxDuesScan), stored
}

// propose takes steps that are due from the accounts in memory, and devices that have expired, at most as
// many as a record has.
func (d *dues) propose() (steps []*envelope.Due, removals []*envelope.Removal) {
	p := d.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for user := range d.expired {
		if len(removals) == maxDuesRecord {
			break
		}
		if a := p.accounts.byUser[user]; a != nil {
			p.metrics.expired.Add(float64(p.accounts.expireLocked(a))) // a device may have come back
		}
		if devices := d.expired[user]; len(devices) > 0 {
			removals = append(removals, &envelope.Removal{User: user, Devices: devices})
		}
		delete(d.expired, user)
	}
	now := p.clock.Now().UnixMilli()
	for len(d.queue) > 0 && d.queue[0].due.at <= now && len(steps) < maxDuesRecord {
		a := d.queue[0]
		steps = append(steps, a.Propose(now, p.bound(), maxDuesRecord-len(steps))...)
		d.unscheduleLocked(a)
		d.scheduleAllLocked(a)
	}
	if p.cfg.Faults.DueByClock {
		d.decideByClockLocked(steps)
		steps = nil
	}
	return steps, removals
}

// decideByClockLocked takes steps without the log, as a router with the fault DueByClock does.
func (d *dues) decideByClockLocked(steps []*envelope.Due) {
	p := d.p
	var derived mailbox.Events
	for _, due := range steps {
		if a := p.accounts.byUser[due.User]; a != nil {
			a.Due(due, &derived)
			p.accounts.touchLocked(a, 64)
		}
	}
	p.events.addLocked(derived, events.ID{Record: p.position.appliedID(), N: 1000}, 0)
}

// append puts steps into the log, until one fails. The others are proposed again after a while: the owner looks again then
// whether an expired device has come back.
func (d *dues) append(ctx context.Context, steps []*envelope.Due, removals []*envelope.Removal) error {
	p := d.p
	if len(steps) > 0 {
		rec := &envelope.Record{Dues: &envelope.Dues{Dues: steps}}
		if _, err := p.append(ctx, p.index, rec, "steps of messages"); err != nil {
			return err
		}
	}
	for _, removal := range removals {
		rec := &envelope.Record{Removal: removal}
		if _, err := p.append(ctx, p.index, rec, fmt.Sprintf("that a device of user %q has expired", removal.User)); err != nil {
			return err
		}
	}
	return nil
}

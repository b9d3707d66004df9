package router

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/store"
)

// Only the owner of a partition has the sessions, so only the owner knows which users have come and gone. It
// appends a record when that differs from what the events have said. Applying the record makes the event. So
// two routers that own the partition at the same time, with different sessions, make the same events.
//
// A recorder is unsure at first, and again after another router may have owned the partition. Comets announce their
// sessions then. Users that have come are recorded, but no user is recorded as gone: a comet may have yet to announce
// the session. beSureLocked makes the recorder sure, once all comets had the time to announce theirs. It removes the
// sessions that no comet has announced again. Then it compares each account in memory with its sessions, and run does
// so once for the accounts that are in the store only (scan).
//
// Two owners that gossip does not connect have the sessions of different comets for as long as that lasts. Each would tell
// the users of the other to be offline, and the other would at once tell them to be online. So a user that another owner
// has told to be online stays online for a while (stay), which doubles as long as that owner goes on.

const (
	// presenceGather is how long a user that has come waits for others, so that a record has many of a
	// crowd.
	presenceGather = 50 * time.Millisecond
	// presencePoll is the longest pause between two looks for users that have gone.
	presencePoll = time.Second
	// maxPresences and maxPresenceBytes bound one record.
	maxPresences, maxPresenceBytes = 1024, 128 << 10
	// maxPresenceChanges bounds the changes that a scan of the store may add.
	maxPresenceChanges = 1 << 14
	// presenceTimeout bounds one append and its applying.
	presenceTimeout = 15 * time.Second
	// presenceRetry is the pause after one that failed.
	presenceRetry = time.Second
	// maxUnsure bounds the wait for comets that announce their sessions.
	maxUnsure = time.Minute
	// maxStay bounds the time for which a user stays online that another owner has told to be online.
	maxStay = time.Hour
	// onlinePage is how many users are read from the store at a time.
	onlinePage = 256
)

// presenceRecorder puts into the log which users of a partition have come and gone. There is none unless
// that is asked for; its methods whose names end with Locked do nothing then. The partition's mu guards its
// fields, but for those of run.
type presenceRecorder struct {
	p    *partition
	wake wait.Signal
	// changes has the accounts that have come or gone, of which no record says so yet. queue has the order in
	// which they are to be recorded. An item of the queue that is no longer in changes is void.
	changes map[*account]presenceChange
	queue   presenceQueue
	count   uint64
	// sure is set while a user without a session in the table is certainly offline. since is when the comets began to
	// announce their sessions to this owner. It is zero before the first look at that.
	sure  bool
	since time.Time
	// comets are those that have announced themselves since.
	comets map[string]cometProgress
	// suspects is set if sessions may be in the table that have ended while another router owned the partition.
	suspects bool
	// recording has the accounts that the record under way tells to be online.
	recording []*account
	// stay is how long a user stays online that another owner has told to be online. stayUntil is when the present stay
	// is over.
	stay      time.Duration
	stayUntil time.Time

	// scan is set if the store has yet to be looked through for users whose last event is online. scanned is the user
	// up to which that was done; only run uses it.
	scanned string
	scan    bool
}

// presenceChange says that a user has come or gone.
type presenceChange struct {
	n      uint64    // differs between the changes of a user
	since  time.Time // by the node's clock, as all times of a recorder
	device string    // that left
}

// cometProgress is how far a comet has announced its sessions.
type cometProgress struct {
	seen     time.Time
	complete bool
}

// presenceQueue is a heap of users by the time at which they are to be recorded. Its methods are heap's.
type presenceQueue []presenceDue

type presenceDue struct {
	at time.Time
	n  uint64
	a  *account
}

func (q presenceQueue) Len() int           { return len(q) }
func (q presenceQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q presenceQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *presenceQueue) Push(d any)        { *q = append(*q, d.(presenceDue)) }

func (q *presenceQueue) Pop() any {
	old := *q
	d := old[len(old)-1]
	old[len(old)-1] = presenceDue{}
	*q = old[:len(old)-1]
	return d
}

func newPresenceRecorder(p *partition) *presenceRecorder {
	if !p.cfg.Presence.Events {
		return nil
	}
	return &presenceRecorder{p: p, wake: wait.NewSignal(), changes: make(map[*account]presenceChange)}
}

// noteLocked compares the last event of an account with its sessions, after either has changed. since is when the
// user came, or when its last session ended. That session was of device.
func (pr *presenceRecorder) noteLocked(a *account, since time.Time, device string) {
	if pr == nil || pr.p.gone {
		return
	}
	online := len(a.sessions) > 0
	if online == a.Presence().Online() {
		delete(pr.changes, a)
		return
	}
	if _, known := pr.changes[a]; known || online && a.isAnonymous() {
		return
	}
	at := since
	if !online {
		at = since.Add(pr.p.cfg.Presence.Grace)
	}
	pr.addLocked(a, since, device, at)
	if online {
		pr.wake.Set()
	}
}

// addLocked adds a change that is to be recorded at a time. It replaces the change of the account that was known.
func (pr *presenceRecorder) addLocked(a *account, since time.Time, device string, at time.Time) {
	pr.count++
	pr.changes[a] = presenceChange{n: pr.count, since: since, device: device}
	pr.pushLocked(a, pr.count, at)
}

// pushLocked puts a change into the queue, which loses its void items once they are most of it.
func (pr *presenceRecorder) pushLocked(a *account, n uint64, at time.Time) {
	heap.Push(&pr.queue, presenceDue{at, n, a})
	if len(pr.queue) <= 2*len(pr.changes)+maxPresences {
		return
	}
	kept := make(presenceQueue, 0, len(pr.changes))
	for _, d := range pr.queue {
		if pr.changes[d.a].n == d.n {
			kept = append(kept, d)
		}
	}
	pr.queue = kept
	heap.Init(&pr.queue)
}

// refreshLocked is noteLocked after an event of an account was made, or after the account was read from the store.
// A user without a session has gone at the time at, or earlier.
func (pr *presenceRecorder) refreshLocked(a *account, at time.Time) {
	switch {
	case pr == nil:
	case len(a.sessions) == 0 && a.Presence().Online() && !pr.sure: // its comet may have yet to announce it
	default:
		pr.noteLocked(a, at, lastDevice(a))
	}
}

// loadedLocked is refreshLocked for an account that was read from the store.
func (pr *presenceRecorder) loadedLocked(a *account) {
	if pr != nil {
		pr.refreshLocked(a, pr.since)
	}
}

// recordedLocked is refreshLocked after a record was applied that tells an account to be online or offline.
func (pr *presenceRecorder) recordedLocked(a *account, online bool, now time.Time) {
	if pr == nil || !online || !a.Presence().Online() || !pr.sure || len(a.sessions) > 0 || slices.Contains(pr.recording, a) {
		pr.refreshLocked(a, now) // also if the session that this owner has told has ended meanwhile
		return
	}
	pr.addLocked(a, now, lastDevice(a), now.Add(pr.stayLocked(now)))
}

// stayLocked returns how long a user stays online that another owner has told to be online. That is longer if that owner
// still tells such users after a stay. It begins anew if none was told for as long.
func (pr *presenceRecorder) stayLocked(now time.Time) time.Duration {
	switch {
	case now.Before(pr.stayUntil):
		return pr.stay
	case now.After(pr.stayUntil.Add(pr.stay)):
		pr.stay = pr.p.cfg.Presence.Grace + pr.p.cfg.CometTimeout
	default:
		pr.stay = min(2*pr.stay, maxStay)
	}
	pr.stayUntil = now.Add(pr.stay)
	return pr.stay
}

// hasLocked reports whether an account has to stay in memory, because the user has come or gone and no record says
// so yet.
func (pr *presenceRecorder) hasLocked(a *account) bool {
	if pr == nil {
		return false
	}
	_, ok := pr.changes[a]
	return ok
}

// sizeLocked returns how many users have come or gone without a record that says so.
func (pr *presenceRecorder) sizeLocked() int {
	if pr == nil {
		return 0
	}
	return len(pr.changes)
}

// regainLocked notes that another router may have owned the partition: comets announce their sessions
// again. Those that they do not announce have ended.
func (pr *presenceRecorder) regainLocked(now time.Time) {
	if pr == nil {
		return
	}
	for _, a := range pr.p.accounts.byUser {
		for _, s := range a.sessions {
			s.suspect = true
		}
	}
	pr.sure, pr.suspects, pr.since, pr.comets = false, true, now, nil
}

// announcedLocked notes that a comet has announced itself, and how many sessions it has in the partition.
// While it announces them the table has fewer. A few may differ at any time: they come and go meanwhile.
func (pr *presenceRecorder) announcedLocked(comet string, sessions uint32, now time.Time) {
	if pr == nil || pr.sure || pr.since.IsZero() {
		return
	}
	have := len(pr.p.sessions.byComet[comet])
	if pr.suspects {
		pr.p.sessions.eachLocked(comet, func(_ *account, s *session) {
			if s.suspect {
				have--
			}
		})
	}
	if pr.comets == nil {
		pr.comets = make(map[string]cometProgress)
	}
	missing := int(sessions) - have
	pr.comets[comet] = cometProgress{seen: now, complete: missing <= max(64, int(sessions)/64)}
}

// announcedAllLocked reports whether all comets had the time to announce their sessions.
func (pr *presenceRecorder) announcedAllLocked(now time.Time) bool {
	waited, timeout := now.Sub(pr.since), pr.p.cfg.CometTimeout
	if waited < timeout {
		return false
	}
	for _, c := range pr.comets {
		if !c.complete && now.Sub(c.seen) < timeout && waited < maxUnsure {
			return false
		}
	}
	return true
}

// beSureLocked finds the users that are offline, once that is certain. ok is false while it is not.
func (pr *presenceRecorder) beSureLocked(now time.Time) (ok bool) {
	if pr.since.IsZero() {
		pr.since = now
	}
	if pr.sure {
		return true
	}
	if !pr.announcedAllLocked(now) {
		return false
	}
	pr.sure, pr.scan, pr.scanned = true, true, ""
	for _, a := range pr.p.accounts.byUser {
		if pr.suspects {
			for _, address := range a.suspects() {
				pr.p.removeSessionLocked(a, address, now)
			}
		}
		pr.loadedLocked(a)
	}
	pr.suspects, pr.comets = false, nil
	return true
}

// suspects returns the sessions of an account that may have ended.
func (a *account) suspects() (list []envelope.AddressKey) {
	for _, s := range a.sessions {
		if s.suspect {
			list = append(list, s.address())
		}
	}
	return list
}

// isAnonymous reports whether the user of an account that has a session is anonymous.
func (a *account) isAnonymous() bool { return a.User() == envelope.AnonymousUser(a.sessions[0].id) }

// lastDevice returns the device of an account that was seen last, as far as it is known.
func lastDevice(a *account) string {
	var last store.MailboxDevice
	for _, d := range a.Meta().Devices {
		if d.SeenMS >= last.SeenMS {
			last = d
		}
	}
	return last.Name
}

// run puts the users that have come and gone into the log, until ctx is done.
func (pr *presenceRecorder) run(ctx context.Context) {
	poll := min(presencePoll, pr.p.cfg.WatchInterval)
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		select {
		case <-pr.wake:
			_ = wait.Sleep(ctx, presenceGather)
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(poll)
		if pr.p.isUp() && pr.p.owned.Load() && pr.p.hasBegun() {
			pr.recordDue(ctx)
		}
	}
}

// recordDue puts into the log what is to be told by now, if the partition was applied as far as the log
// goes.
func (pr *presenceRecorder) recordDue(ctx context.Context) {
	p := pr.p
	p.mu.Lock()
	sure := pr.beSureLocked(p.now())
	p.mu.Unlock()
	if !p.appliedAll() {
		return
	}
	if sure {
		pr.findGone(ctx)
	}
	for ctx.Err() == nil && p.owned.Load() {
		batch, records := pr.dequeue()
		if len(batch) == 0 {
			return
		}
		err := pr.record(ctx, records)
		pr.putBack(batch, err)
		if err != nil {
			return
		}
	}
}

// findGone looks in the store for users that were told to be online and have no session, and reads their
// accounts, as far as there is room for them.
func (pr *presenceRecorder) findGone(ctx context.Context) {
	p := pr.p
	for pr.scan && ctx.Err() == nil {
		users, err := p.store.Online(p.index, pr.scanned, onlinePage)
		if err != nil {
			p.log.Error().Err(err).Int32("partition", p.index).Msg("users that were told to be online were not found; trying again")
			return
		}
		if len(users) == 0 {
			pr.scan = false
			return
		}
		for _, user := range users {
			p.mu.Lock()
			known, full := p.accounts.byUser[user] != nil, len(pr.changes) >= maxPresenceChanges
			p.mu.Unlock()
			if full {
				return
			}
			if !known {
				if _, err := p.accounts.openAndLock(ctx, user); err != nil {
					return // comes again
				}
				p.mu.Unlock()
			}
			pr.scanned = user
		}
	}
}

// dequeue takes what is due from the queue, at most as much as a record may have.
func (pr *presenceRecorder) dequeue() (batch []presenceDue, records []*envelope.Presence) {
	p := pr.p
	p.mu.Lock()
	defer p.mu.Unlock()
	now, size := p.now(), 0
	var early []presenceDue // of users that may have sessions that comets have yet to announce
	for len(pr.queue) > 0 && !pr.queue[0].at.After(now) && len(batch) < maxPresences && size < maxPresenceBytes {
		d := heap.Pop(&pr.queue).(presenceDue)
		change, ok := pr.changes[d.a]
		if !ok || change.n != d.n {
			continue
		}
		rec := &envelope.Presence{User: d.a.User(), Device: change.device, SinceMs: p.clock.At(change.since).UnixMilli()}
		if online := len(d.a.sessions) > 0; !online && !pr.sure {
			early = append(early, d)
			continue
		} else if online {
			rec.Online, rec.Device, rec.SinceMs = true, d.a.sessions[0].device, d.a.onlineSince()
			pr.recording = append(pr.recording, d.a)
		}
		size += len(rec.User) + len(rec.Device) + 32
		batch, records = append(batch, d), append(records, rec)
	}
	for _, d := range early {
		pr.pushLocked(d.a, d.n, now.Add(presenceRetry))
	}
	if p.cfg.Faults.PresenceByClock {
		pr.notifyByClockLocked(records)
		return nil, nil
	}
	return batch, records
}

// onlineSince returns when the first of an account's sessions began, by the clock of its comet, in Unix milliseconds,
// or 0 if it has none.
func (a *account) onlineSince() (ms int64) {
	for _, s := range a.sessions {
		if ms == 0 || s.since > 0 && s.since < ms {
			ms = s.since
		}
	}
	return ms
}

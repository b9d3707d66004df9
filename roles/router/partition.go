package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgo/envelope"
	"imgo/roles/router/mailbox"
)

// partition is the materialised view of one partition of the kept log, from
// when the router gains the partition until it has lost it.
//
// mu guards the sessions and mailboxes. It is held for as long as memory is
// read and written, never while the store or the log is.
type partition struct {
	*resources
	index int32
	// owned is false once the partition was lost.
	owned atomic.Bool
	// gain counts how often the router gained the partition. It is part of the
	// epoch that comets compare.
	gain atomic.Uint64
	// stop ends run. predecessor is closed when others are done with the store.
	stop        context.CancelFunc
	predecessor <-chan struct{}
	// up is closed when the partition has caught up with the log, left when it
	// is no longer here, done when it has written what it had.
	up, left, done chan struct{}

	applier applier
	writes  writeBehind
	dues    dues

	mu sync.Mutex
	// begun is set once it is known where in the log to go on. Nothing may be read from
	// the store before: the predecessor may still be writing.
	begun, gone bool
	position    position
	// applied is closed and replaced when records were applied.
	applied  chan struct{}
	accounts accountTable
	sessions sessionTable
	claims   claims
	// coming has the devices that records under way make known, while no other device
	// goes for them, with the number of calls that make each known.
	coming map[accountDevice]int
	// toldFrom is when the comets began to announce their sessions to this owner: when the partition came up, or was
	// regained.
	toldFrom time.Time
	// rebuild is what helps to read the log back; empty once it was.
	rebuild rebuild
	cache   cache
	events  *emitter
	// presence is nil unless users are told to be online and offline.
	presence *presenceRecorder
	// scratch is for one backlog, while mu is held.
	scratch []*mailbox.Entry
	// err is why the partition does not go on. It is nil if the partition goes on.
	err error
}

func newPartition(res *resources, index int32, gain uint64, predecessor <-chan struct{}) *partition {
	p := &partition{
		resources: res, index: index, predecessor: predecessor,
		up: make(chan struct{}), left: make(chan struct{}), done: make(chan struct{}),
		position: position{generation: res.kept.Generation(), fence: -1},
		applied:  make(chan struct{}),
		sessions: newSessionTable(&res.kinds, res.metrics.sessions),
		cache:    cache{limit: &res.cacheShare},
		coming:   make(map[accountDevice]int),
	}
	p.applier.p = p
	p.applier.ids.repeats, p.applier.ids.forgotten = res.cfg.Repeats, res.metrics.forgottenIDs
	p.events = newEmitter(p, res.eventsLog)
	p.presence = newPresenceRecorder(p)
	p.dues.p, p.dues.expired = p, make(map[string][]string)
	p.dues.stored = noDue
	p.accounts = accountTable{
		p: p, byUser: make(map[string]*account), loading: make(map[string]*loading), watched: make(map[*account]struct{}),
		reminders: make(map[*account]*roomReminder),
	}
	p.writes = writeBehind{p: p, slot: make(chan struct{}, 1), dirty: make(map[*account]struct{})}
	p.gain.Store(gain)
	p.owned.Store(true)
	return p
}

// position is where a partition is in the log. The partition's mu guards it.
type position struct {
	generation uint16
	// first and target are where the log was when the partition was gained:
	// the first record to apply, and the end.
	first, target int64
	// next is the offset of the first record that was not applied yet.
	next int64
	// fence is the offset of the first fence, behind which records are void;
	// -1: none was met. The stored position stays before it, so that a restart
	// meets it again.
	fence int64
}

// appliedID returns the id of the last record that was applied, or 0 if there is none.
func (s *position) appliedID() uint64 {
	if s.next == 0 {
		return lastIDBefore(s.generation)
	}
	return envelope.ID(s.generation, s.next-1)
}

// fenced reports whether another generation of the log follows this one.
func (s *position) fenced() bool { return s.fence >= 0 }

// lastIDBefore returns an id that all ids of a generation are above, and no id
// of an earlier one is. It returns 0 if there is no earlier one.
func lastIDBefore(generation uint16) uint64 {
	if generation <= 1 {
		return 0
	}
	return envelope.ID(generation, 0) - 1
}

// isUp reports whether the partition was applied up to its target once.
func (p *partition) isUp() bool { return isClosed(p.up) }

// hereLocked returns an error unless the partition can be worked with.
func (p *partition) hereLocked() error {
	switch {
	case p.gone:
		return notOwned(p.index)
	case !p.begun:
		return envelope.Errorf(envelope.CodeNotReady, "partition %d is finding its place in the log", p.index)
	}
	return nil
}

// unlocked calls do with mu released. It returns do's error, or an error if the
// partition cannot be worked with any more.
func (p *partition) unlocked(do func() error) error {
	p.mu.Unlock()
	err := do()
	p.mu.Lock()
	return cmp.Or(err, p.hereLocked())
}

// progress describes how far the partition is, for a person.
func (p *partition) progress() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return fmt.Sprintf("partition %d: %v", p.index, p.err)
	case !p.begun:
		return fmt.Sprintf("partition %d: finding its place in the log", p.index)
	}
	at := &p.position
	return fmt.Sprintf("partition %d: %d of %d records", p.index, at.next-at.first, at.target-at.first)
}

func (p *partition) setErr(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// next returns the offset of the first record that was not applied yet.
func (p *partition) next() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.position.next
}

// appliedAll reports whether the partition was applied as far as the log goes, as far as is known,
// and no other generation of the log follows.
func (p *partition) appliedAll() bool {
	if _, fenced := p.fencedAt(); fenced {
		return false
	}
	log, ok := p.kept.(endedLog)
	return !ok || p.next() >= log.End(p.index)
}

// wait blocks until the record with an id was applied. Everything that an
// earlier generation of the log had counts as applied.
func (p *partition) wait(ctx context.Context, id uint64) error {
	if of, _ := envelope.SplitID(id); of > p.position.generation {
		return envelope.Errorf(envelope.CodeUnavailable, "record %d is of a later generation of the log than this router", id)
	}
	for tried := false; ; {
		p.mu.Lock()
		done, ch, err, gone := p.position.appliedID() >= id, p.applied, p.err, p.gone
		p.mu.Unlock()
		switch {
		case gone:
			return notOwned(p.index)
		case done:
			return nil
		case err != nil:
			return envelope.Errorf(envelope.CodeUnavailable, "partition %d does not go on: %v", p.index, err)
		}
		if !tried {
			if tried = p.applyFromMemory(); tried {
				continue
			}
		}
		select {
		case <-ch:
		case <-p.left:
		case <-ctx.Done():
			return envelope.Errorf(envelope.CodeNotReady, "partition %d has not applied record %d yet: %v", p.index, id, ctx.Err())
		}
	}
}

// applyFromMemory applies what the log has in memory, in place of the goroutine
// that follows the log. A caller that waits for a record goes on at once then,
// and the delivery of a kept push with it. Otherwise it would have to wait until
// that goroutine gets a processor. applyFromMemory reports whether another try is
// useless: it is not while another goroutine applies records, which may wait for
// the store.
func (p *partition) applyFromMemory() bool {
	if p.recent == nil || !p.isUp() {
		return true
	}
	if !p.applier.mu.TryLock() {
		return false
	}
	defer p.applier.mu.Unlock()
	if entries := p.recent.Recent(p.index, p.next(), readBytes); len(entries) > 0 {
		_, _ = p.applier.applyLocked(entries) // the follower meets the error again
	}
	return true
}

// run is the partition's whole life: it follows the log until ctx is done,
// writes what it has and is gone. If retention overtakes it, it ends before that.
// Ownership replaces it then by one that begins anew.
func (p *partition) run(ctx context.Context) error {
	defer close(p.done)
	if p.predecessor != nil {
		<-p.predecessor
	}
	// The last events are appended after ctx is done.
	ectx, stopEvents := context.WithCancel(context.WithoutCancel(ctx))
	var appending sync.WaitGroup
	appending.Go(func() { p.events.run(ectx) })
	defer appending.Wait()
	defer stopEvents()
	// A partition that fails ends before ctx.
	actx, stopAppending := context.WithCancel(ctx)
	defer stopAppending()
	appending.Go(func() { p.dues.run(actx) })
	if p.presence != nil {
		appending.Go(func() { p.presence.run(actx) })
	}
	f := follower{partition: p}
	err := f.run(ctx)
	overtaken := errors.Is(err, errOvertaken)
	if err == nil {
		<-ctx.Done()
	}
	p.leave()
	if overtaken {
		err = nil
		p.ended.Set()
	}
	if ferr := p.writes.flush(true); ferr != nil {
		p.log.Error().Err(ferr).Msg("the last changes were not written: they are read from the log again")
	}
	p.accounts.loads.Wait()
	p.writes.slot <- struct{}{} // no flush is under way from now on
	defer func() { <-p.writes.slot }()
	p.mu.Lock()
	defer p.mu.Unlock()
	// A call that still holds the partition must not hold its mailboxes.
	p.accounts.byUser, p.dues.queue, p.dues.loaded = nil, nil, nil
	p.rebuild, p.cache, p.claims = rebuild{}, cache{}, claims{}
	p.writes.dropLocked()
	if err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return nil
}

// leave makes every call from now on fail, and forgets the sessions.
func (p *partition) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = true
	close(p.left)
	for _, a := range p.accounts.byUser {
		p.metrics.sessions.Sub(float64(len(a.sessions)))
		a.sessions = nil
	}
	p.sessions, p.accounts.watched, p.accounts.reminders = sessionTable{}, nil, nil
}

// expire drops what is over from the mailboxes in memory. Entries that are only in the
// store expire there.
func (p *partition) expire() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.accounts.byUser {
		n += p.accounts.expireLocked(a)
	}
	return n
}

// addSessionLocked puts a session into the table that has begun at a time: see sessionTable.addLocked.
func (p *partition) addSessionLocked(a *account, info *envelope.SessionInfo, place int, at time.Time) {
	p.sessions.addLocked(a, info, place)
	p.accounts.touchLocked(a, 0)
	p.presence.noteLocked(a, at, "")
}

// removeSessionLocked takes a session out of the table that has ended at a time. It
// reports whether it was there.
func (p *partition) removeSessionLocked(a *account, address envelope.AddressKey, at time.Time) bool {
	s := a.session(address)
	if !p.sessions.removeLocked(a, address) {
		return false
	}
	if len(a.sessions) == 0 {
		delete(p.accounts.watched, a)
		delete(p.accounts.reminders, a)
		p.presence.noteLocked(a, at, s.device)
	}
	return true
}

// regain makes the partition owned again, after it was not for a moment. Others may
// have answered for it meanwhile: gain is another one.
func (p *partition) regain(gain uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toldFrom = p.now()
	p.presence.regainLocked(p.toldFrom)
	p.gain.Store(gain)
	p.owned.Store(true)
}

// fencedAt returns the offset of the partition's fence. ok is false if it has
// met none.
func (p *partition) fencedAt() (offset int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.position.fence, p.position.fenced()
}

// deviceExpiryLocked returns after which time a device expires that is not connected. While the log is read back no
// device expires: a later record may say that it was seen again. Nor does one before all comets had the time to
// announce their sessions: it may be connected.
func (p *partition) deviceExpiryLocked() time.Duration {
	if !p.isUp() || p.now().Sub(p.toldFrom) < p.cfg.CometTimeout {
		return mailbox.NoExpiry
	}
	return p.cfg.DeviceExpiry
}

// hasBegun reports whether the partition can be worked with.
func (p *partition) hasBegun() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hereLocked() == nil
}

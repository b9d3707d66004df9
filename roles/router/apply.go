package router

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// applier applies the log's records to a partition, in their order.
//
// It releases the partition's mu between some records, and while it reads the store.
// While it reads, others may see a record that was applied for some of its users only.
// That is harmless: the position is behind the record until it was applied as a whole.
type applier struct {
	p *partition
	// mu makes one goroutine at a time apply. It is taken before the
	// partition's mu, except by tryFromMemoryLocked, which never waits for it.
	mu  sync.Mutex
	ids recordIDs
	// derived has the events of the record that is being applied. They stay if it fails, because
	// what it has changed by then derives nothing when it is applied again. The partition's mu
	// guards it.
	derived mailbox.Events
}

// apply applies records, but for those that were applied before: a caller that
// waited for one of them may have done so (see partition.applyFromMemory).
func (ap *applier) apply(entries []envelope.Entry) error {
	for {
		ap.mu.Lock()
		paused, err := ap.applyLocked(entries)
		ap.mu.Unlock()
		if err != nil || paused == nil {
			return err
		}
		<-paused // not for long: see emitter.pauseWhenSent
	}
}

// recordsPerLock is how many records are applied until others get the partition's mu. A read of a log that is read back
// may have tens of thousands.
const recordsPerLock = 64

// applyLocked is apply for a caller that holds ap.mu. It stops early if a flush pauses
// records: paused is closed when it does so no more. The other methods whose names end so are called with
// both mutexes held, but for tryFromMemoryLocked.
func (ap *applier) applyLocked(entries []envelope.Entry) (paused <-chan struct{}, err error) {
	p := ap.p
	if n := len(entries); n > 0 {
		p.clock.saw(entries[n-1].TimeMS)
	}
	now := p.clock.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(entries) > 0 && entries[0].Offset < p.position.next {
		entries = entries[1:]
	}
	if len(entries) == 0 || p.gone {
		return nil, nil
	}
	for i := range entries {
		if i%recordsPerLock == recordsPerLock-1 {
			p.mu.Unlock()
			p.mu.Lock()
		}
		if paused = p.events.paused; paused != nil || p.gone {
			break
		}
		if p.events.fullLocked() {
			err = errEventsBehind(p.index)
			break
		}
		if err = ap.recordLocked(&entries[i], now); err != nil {
			break
		}
		p.position.next = entries[i].Offset + 1
	}
	ap.notifyLocked()
	return paused, err
}

// notifyLocked wakes the goroutines that wait for records to be applied.
func (ap *applier) notifyLocked() {
	p := ap.p
	close(p.applied)
	p.applied = make(chan struct{})
	if p.writes.bytes > p.cfg.FlushBytes {
		p.flushNow.Set()
	}
}

// fromMemoryBytes bounds the records that tryFromMemoryLocked applies at a time:
// its caller commits to the log, and the next commit waits for it.
const fromMemoryBytes = 64 << 10

// tryFromMemoryLocked applies records up to the one with an id, as far as the log
// and the accounts that they change are in memory. It reports whether that
// record is applied now. It does nothing if another goroutine is applying records.
// The caller holds the partition's mu only. It tries ap.mu and never waits, so the
// order of locks does not matter.
func (ap *applier) tryFromMemoryLocked(id uint64) bool {
	p := ap.p
	if p.position.appliedID() >= id {
		return true
	}
	if p.recent == nil || p.err != nil || p.position.fenced() || !ap.mu.TryLock() {
		return false
	}
	defer ap.mu.Unlock()
	now, next := p.clock.Now(), p.position.next
	for _, e := range p.recent.Recent(p.index, next, fromMemoryBytes) {
		var rec envelope.Record
		if p.position.appliedID() >= id || p.events.paused != nil || p.events.fullLocked() || e.Record(&rec) != nil || !ap.inMemoryLocked(&rec) ||
			ap.decodedLocked(e.Offset, &rec, now) != nil {
			break
		}
		p.position.next = e.Offset + 1
	}
	if p.position.next > next {
		ap.notifyLocked()
	}
	return p.position.appliedID() >= id
}

// inMemoryLocked reports whether a record can be applied without reading the
// store: it is of a common kind, and the accounts of its users are in memory.
func (ap *applier) inMemoryLocked(rec *envelope.Record) bool {
	here := func(user string) bool { return ap.p.accounts.byUser[user] != nil || !storable(user) }
	switch {
	case rec.Push != nil:
		for _, user := range rec.Push.Users {
			if !here(user) {
				return false
			}
			if a := ap.p.accounts.byUser[user]; a != nil && rec.Push.IdempotencyKey != "" {
				if _, known := a.Keys().Used(rec.Push.IdempotencyKey); !known {
					return false
				}
			}
		}
		return true
	case rec.Acks != nil:
		return !slices.ContainsFunc(rec.Acks.Acks, func(a *envelope.Ack) bool { return !here(a.User) })
	case rec.Device != nil:
		return here(rec.Device.User)
	case rec.Removal != nil:
		return here(rec.Removal.User)
	case rec.Membership != nil:
		return here(rec.Membership.User)
	case rec.UserRooms != nil:
		return here(rec.UserRooms.User)
	case rec.Read != nil:
		return here(rec.Read.User)
	case rec.Upstream != nil:
		return rec.Upstream.ClientId == 0 || here(rec.Upstream.User)
	case rec.Dues != nil:
		return !slices.ContainsFunc(rec.Dues.Dues, func(d *envelope.Due) bool { return !here(d.User) })
	case rec.Presences != nil:
		return !slices.ContainsFunc(rec.Presences.Presences, func(c *envelope.Presence) bool { return !here(c.User) })
	}
	return false
}

// accountLocked returns a user's account. Before it has to read the store it
// wakes the goroutines that wait for the records that were applied so far.
func (ap *applier) accountLocked(user string) (*account, error) {
	if a := ap.p.accounts.byUser[user]; a != nil {
		return a, nil
	}
	ap.notifyLocked()
	return ap.p.accounts.openLocked(context.Background(), user)
}

// withLocked makes a change of about size bytes to the account of a user that the record id names. A user that
// cannot be stored is set aside.
func (ap *applier) withLocked(id uint64, user string, size int, change func(*account)) error {
	if !ap.storableLocked(id, user, "user") {
		return nil
	}
	a, err := ap.accountLocked(user)
	if err == nil {
		change(a)
		ap.p.accounts.touchLocked(a, size)
	}
	return err
}

func (ap *applier) recordLocked(e *envelope.Entry, now time.Time) error {
	p := ap.p
	if p.position.fenced() {
		p.metrics.applied.WithLabelValues("fenced").Inc()
		return nil
	}
	var rec envelope.Record
	if err := e.Record(&rec); err != nil {
		// A record that cannot be read must not stop those after it.
		p.metrics.applied.WithLabelValues("unreadable").Inc()
		ap.setAsideLocked(e.Offset, fmt.Sprintf("it cannot be read: %v", err))
		return nil
	}
	return ap.decodedLocked(e.Offset, &rec, now)
}

// decodedLocked applies the record at an offset, unless it is void, and queues its events.
func (ap *applier) decodedLocked(offset int64, rec *envelope.Record, now time.Time) error {
	err := ap.changeLocked(offset, rec, now)
	if err == nil {
		ap.emitLocked(envelope.ID(ap.p.position.generation, offset), rec.TimeMs)
	}
	return err
}

// changeLocked makes the changes of a record.
func (ap *applier) changeLocked(offset int64, rec *envelope.Record, now time.Time) error {
	p := ap.p
	kind := func(kind string) { p.metrics.applied.WithLabelValues(kind).Inc() }
	id := envelope.ID(p.position.generation, offset)
	if !p.cfg.Faults.NoRecordID && ap.ids.repeated(rec.Id, offset, rec.TimeMs) {
		kind("void")
		return nil
	}
	switch {
	case rec.Push != nil:
		kind("push")
		return ap.pushLocked(id, rec, now)
	case rec.Acks != nil:
		kind("acks")
		return ap.acksLocked(id, rec)
	case rec.Device != nil && ap.storableLocked(id, rec.Device.Device, "device"):
		return ap.withLocked(id, rec.Device.User, 64, func(a *account) {
			for _, old := range rec.Device.Replaced {
				ap.replacedLocked(a, id, old, rec.Device.Device)
			}
			if !a.NoteDevice(id, rec.Device.Device, rec.Device.SeenMs, rec.TimeMs) {
				kind("device_without_room")
			}
			a.Devices().NotePublished(rec.Device.Device, rec.Device.Since, rec.Device.Published, rec.TimeMs)
			p.metrics.devices.Inc()
		})
	case rec.Removal != nil:
		return ap.withLocked(id, rec.Removal.User, 64, func(a *account) {
			kind("removal")
			ap.removalLocked(a, id, rec.Removal)
		})
	case rec.Claim != nil:
		kind("claim")
		return ap.claimLocked(rec.Claim.Key, id, rec.Id)
	case rec.Fence != nil:
		kind("fence")
		p.position.fence = offset
	case rec.Membership != nil:
		kind("membership")
		return ap.membershipLocked(id, rec)
	case rec.UserRooms != nil:
		kind("user_rooms")
		return ap.userRoomsLocked(id, rec)
	case rec.Upstream != nil:
		kind("upstream")
		return ap.upstreamLocked(id, rec)
	case rec.Dues != nil:
		kind("dues")
		return ap.duesLocked(id, rec.Dues)
	case rec.Read != nil:
		kind("read")
		return ap.readLocked(id, rec)
	case rec.Presences != nil:
		kind("presences")
		return ap.presencesLocked(id, rec)
	case rec.Moved != nil:
		kind("moved")
		return ap.movedLocked(id, rec, now)
	case rec.Device != nil: // set aside
	default:
		kind("unknown") // of a newer version, for newer nodes
	}
	return nil
}

// replacedLocked forgets a device that makes room for another one.
func (ap *applier) replacedLocked(a *account, id uint64, old, by string) {
	p := ap.p
	waiting, known := a.Forget(id, old, &ap.derived)
	if !known {
		return
	}
	p.writes.whole = true
	p.metrics.evicted.Inc()
	if waiting == 0 {
		return
	}
	a.Messages.CountDropped(waiting)
	p.metrics.dropped.Add(float64(waiting))
	p.notice("device_evicted", a.User(), 0, fmt.Sprintf("device %q made room for %q: %d messages waited for it", old, by, waiting))
}

// removalLocked takes away what a caller of the API asked to.
func (ap *applier) removalLocked(a *account, id uint64, removal *envelope.Removal) {
	for _, device := range removal.Devices {
		a.Forget(id, device, &ap.derived)
	}
	if removal.Messages {
		a.Purge(id, &ap.derived)
	}
	if removal.All {
		a.Erase(id, &ap.derived)
	}
	ap.p.writes.whole = true
}

// setAsideLocked notes that the record at an offset, or a part of it, cannot be
// applied. It must not stop those after it. Logic appends no such record.
func (ap *applier) setAsideLocked(offset int64, why string) {
	p := ap.p
	p.metrics.setAside.Inc()
	p.log.Error().Int32("partition", p.index).Int64("offset", offset).Msg("a record of the kept log is set aside: " + why)
	p.notice("record_set_aside", "", 0, fmt.Sprintf("partition %d offset %d: %s", p.index, offset, why))
}

// storable reports whether a user of a record can be a key of the store.
func storable(user string) bool {
	return user != "" && len(user) <= protocol.MaxNameBytes && strings.IndexByte(user, 0) < 0
}

// storableLocked reports whether a name in the record id can be stored. A record
// that has another one is set aside. field is what the name names.
func (ap *applier) storableLocked(id uint64, name, field string) bool {
	if storable(name) || field == "device" && name == "" {
		return true
	}
	_, offset := envelope.SplitID(id)
	ap.setAsideLocked(offset, fmt.Sprintf("its %s has %d bytes, or a byte that no name has", field, len(name)))
	return false
}

// storableKeyLocked is storableLocked for an idempotency key.
func (ap *applier) storableKeyLocked(id uint64, key string) bool {
	if len(key) <= protocol.MaxKeyBytes {
		return true
	}
	_, offset := envelope.SplitID(id)
	ap.setAsideLocked(offset, fmt.Sprintf("its idempotency key has %d bytes, at most %d are allowed", len(key), protocol.MaxKeyBytes))
	return false
}

func (ap *applier) acksLocked(id uint64, rec *envelope.Record) error {
	for _, ack := range rec.Acks.Acks {
		err := ap.withLocked(id, ack.User, 32, func(a *account) {
			by := mailbox.Acknowledgement{Device: ack.Device, IDs: ack.Ids, TimeMS: rec.TimeMs, Auto: ack.Auto}
			ap.p.metrics.acked.Add(float64(a.Ack(id, &by, &ap.derived)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (ap *applier) pushLocked(id uint64, rec *envelope.Record, now time.Time) error {
	p, push := ap.p, rec.Push
	if !ap.storableKeyLocked(id, push.IdempotencyKey) {
		return nil
	}
	// Only a record takes away a message that reports.
	expired := push.ExpiresMs <= now.UnixMilli() && !reports(push.Report)
	if expired && push.IdempotencyKey == "" {
		p.metrics.expired.Add(float64(len(push.Users)))
		return nil
	}
	// A key is remembered also of a push that came too late to be delivered. It is not
	// remembered of a push from longer ago than keys are kept: the log is read back.
	keyed := push.IdempotencyKey != "" && now.Sub(time.UnixMilli(rec.TimeMs)) <= p.cfg.IdempotencyTTL
	message := &envelope.Kept{Id: id, Op: push.Op, Body: push.Body, TimeMs: rec.TimeMs}
	for _, user := range push.Users {
		if !ap.storableLocked(id, user, "user") {
			continue
		}
		a, first, err := ap.usedLocked(user, push.IdempotencyKey, keyed)
		if err != nil {
			return err
		}
		if first != 0 && first != id {
			p.metrics.void.Inc()
			continue
		}
		if keyed && first == 0 {
			a.Keys().Use(push.IdempotencyKey, id)
		}
		if expired {
			p.metrics.expired.Inc()
		} else {
			ap.pushToLocked(a, message, now, push)
		}
		p.rebuild.pushed++
		p.accounts.touchLocked(a, 64+len(push.Body))
	}
	return nil
}

// reports reports whether a push asks for events.
func reports(r *envelope.Report) bool {
	return (&store.MailboxEntry{Tracked: mailbox.TrackedOf(r, 0)}).Reports()
}

// pushToLocked puts a message into the mailbox of one user.
func (ap *applier) pushToLocked(a *account, message *envelope.Kept, now time.Time, push *envelope.Push) {
	p := ap.p
	overflow, _ := p.accounts.overflowLocked(a)
	tracked := mailbox.TrackedOf(push.Report, message.TimeMs)
	n := a.Push(message, now.UnixMilli(), push.ExpiresMs, len(push.Users) > 1, tracked, p.bound())
	if n > 0 {
		p.metrics.dropped.Add(float64(n))
		p.notice("mailbox_dropped", a.User(), n, fmt.Sprintf("more than %d messages are waiting", p.cfg.MailboxLength))
	}
	switch {
	case overflow > 0 && len(a.Messages.All()) > p.cfg.MailboxLength:
		p.dues.scheduleAllLocked(a)
	case reports(push.Report):
		at := push.ExpiresMs
		if d := tracked.DeadlineMS; d > 0 {
			at = min(at, d)
		}
		p.dues.scheduleLocked(a, at)
	}
}

// usedLocked returns a user's account and, if keyed, the message that used an
// idempotency key for the user, or 0 if there is none.
//
// Only an applier uses keys, and a flush takes a key out of memory after the
// store has it. So a key that memory does not have is in the store or unused.
func (ap *applier) usedLocked(user, key string, keyed bool) (a *account, first uint64, err error) {
	for asked := false; ; asked = true {
		if a, err = ap.accountLocked(user); err != nil || !keyed {
			return a, 0, err
		}
		if id, known := a.Keys().Used(key); known {
			return a, id, nil
		}
		if asked {
			return a, first, nil
		}
		ap.notifyLocked()
		err = ap.p.unlocked(func() (err error) {
			first, _, err = ap.p.store.Used(ap.p.index, user, key)
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		if first < a.Keys().Erased() {
			first = 0
		}
	}
}

// claimLocked makes the record id the one that claimed a key, unless another
// one has.
func (ap *applier) claimLocked(key string, id uint64, recordID []byte) error {
	p := ap.p
	if !ap.storableKeyLocked(id, key) {
		return nil
	}
	taken := false
	if _, taken = p.claims.find(key); taken {
		return nil
	}
	if !p.rebuild.noStoredClaims() {
		ap.notifyLocked()
		err := p.unlocked(func() (err error) {
			_, taken, err = p.store.Claimed(p.index, key)
			return err
		})
		if err != nil || taken {
			return err
		}
	}
	p.claims.add(key, id, recordID)
	p.writes.oweLocked(64)
	return nil
}

// movedLocked takes what the log's generation before had. Such records come
// before all others of this generation. Some may come again later, from an
// owner that did not know that another one was done.
func (ap *applier) movedLocked(id uint64, rec *envelope.Record, now time.Time) error {
	p := ap.p
	for _, part := range rec.Moved.Mailboxes {
		if !ap.storableLocked(id, part.User, "user") {
			continue
		}
		a, err := ap.accountLocked(part.User)
		if err != nil {
			return err
		}
		if !a.Merge(id, part, rec.TimeMs, now.UnixMilli()) {
			continue
		}
		size := 64 * (1 + len(part.Devices))
		for _, msg := range part.Messages {
			size += 64 + len(msg.Body)
		}
		p.rebuild.pushed += len(part.Messages)
		p.dues.scheduleAllLocked(a)
		p.accounts.touchLocked(a, size)
		p.presence.loadedLocked(a)
	}
	for _, k := range rec.Moved.Keys {
		if k.ExpiresMs <= now.UnixMilli() || !ap.storableLocked(id, k.User, "user") || !ap.storableKeyLocked(id, k.Key) {
			continue
		}
		a, first, err := ap.usedLocked(k.User, k.Key, true)
		if err != nil {
			return err
		}
		if first == 0 {
			a.Keys().Use(k.Key, k.Id)
			p.accounts.touchLocked(a, 64)
		}
	}
	for _, c := range rec.Moved.Claims {
		if c.ExpiresMs <= now.UnixMilli() {
			continue
		}
		if err := ap.claimLocked(c.Key, c.Id, c.Record); err != nil {
			return err
		}
	}
	return nil
}

// claimed returns which record claimed a key. ok is false if none did.
func (p *partition) claimed(key string) (claim store.MailboxClaim, ok bool, err error) {
	p.mu.Lock()
	claim, ok = p.claims.find(key)
	err = p.hereLocked()
	p.mu.Unlock()
	if ok || err != nil {
		return claim, ok, err
	}
	return p.store.Claimed(p.index, key)
}

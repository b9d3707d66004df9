package router

import (
	"fmt"
	"strings"
	"time"

	"imgo/envelope"
	"imgo/protocol"
	"imgo/store"
)

// apply takes records in their order, but for those that were applied before:
// by a caller that waited for one of them, see help.
func (p *partition) apply(entries []envelope.Entry) error {
	now := p.r.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(entries) > 0 && entries[0].Offset < p.next {
		entries = entries[1:]
	}
	if len(entries) == 0 || p.gone {
		return nil
	}
	var err error
	for i := range entries {
		if err = p.applyOne(&entries[i], now); err != nil {
			break
		}
		p.next = entries[i].Offset + 1
	}
	p.advancedLocked()
	return err
}

// advancedLocked wakes the goroutines that wait for records, after some were
// applied.
func (p *partition) advancedLocked() {
	close(p.applied)
	p.applied = make(chan struct{})
	if p.dirtyBytes > p.r.cfg.FlushBytes {
		p.r.flushSoon()
	}
}

// nowBytes bounds the records that applyFromMemoryLocked applies at a time: its
// caller commits to the log, and the next commit waits for it.
const nowBytes = 64 << 10

// applyFromMemoryLocked applies records up to the one with an id, as far as the
// log and the mailboxes that they change are in memory. It reports whether that
// record is applied now. It neither waits nor reads the store, and reads no more
// than nowBytes of the log.
func (p *partition) applyFromMemoryLocked(id uint64) bool {
	if p.appliedID() >= id {
		return true
	}
	if p.r.recent == nil || p.err != nil || p.fenced() {
		return false
	}
	now, next := p.r.now(), p.next
	for _, e := range p.r.recent.Recent(p.index, next, nowBytes) {
		var rec envelope.Record
		if p.appliedID() >= id || rec.UnmarshalVT(e.Value) != nil || !p.inMemory(&rec) || p.applyRecord(e.Offset, &rec, now) != nil {
			break
		}
		p.next = e.Offset + 1
	}
	if p.next > next {
		p.advancedLocked()
	}
	return p.appliedID() >= id
}

// inMemory reports whether a record can be applied without reading the store: it
// is of a common kind, and the mailboxes of its users are in memory. The caller
// holds mu.
func (p *partition) inMemory(rec *envelope.Record) bool {
	here := func(user string) bool { return p.users[user] != nil || !storable(user) }
	switch {
	case rec.Push != nil:
		for _, user := range rec.Push.Users {
			if !here(user) {
				return false
			}
			if m := p.users[user]; m != nil && rec.Push.IdempotencyKey != "" && !m.keyless {
				if _, used := m.used[rec.Push.IdempotencyKey]; !used {
					return false
				}
			}
		}
		return true
	case rec.Acks != nil:
		for _, a := range rec.Acks.Acks {
			if !here(a.User) {
				return false
			}
		}
		return true
	case rec.Device != nil:
		return here(rec.Device.User)
	}
	return false
}

func (p *partition) applyOne(e *envelope.Entry, now time.Time) error {
	if p.fenced() {
		p.r.metrics.applied.WithLabelValues("fenced").Inc()
		return nil
	}
	var rec envelope.Record
	if err := rec.UnmarshalVT(e.Value); err != nil {
		// A record that nobody can read must not stop those after it; that it
		// was there is said, counted and an event.
		p.r.metrics.applied.WithLabelValues("unreadable").Inc()
		p.r.log.Error().Err(err).Int32("partition", p.index).Int64("offset", e.Offset).Msg("record cannot be read: skipped")
		p.r.event("record_unreadable", "", fmt.Sprintf("partition %d offset %d", p.index, e.Offset))
		return nil
	}
	return p.applyRecord(e.Offset, &rec, now)
}

// applyRecord applies the record at an offset, unless it is void. The caller holds
// mu.
func (p *partition) applyRecord(offset int64, rec *envelope.Record, now time.Time) error {
	id := envelope.ID(p.r.kept.Generation(), offset)
	if p.void(rec.Id, offset) {
		p.r.metrics.applied.WithLabelValues("void").Inc()
		return nil
	}
	switch {
	case rec.Push != nil:
		return p.applyPush(id, rec, now)
	case rec.Acks != nil:
		for _, a := range rec.Acks.Acks {
			if !storable(a.User) {
				continue
			}
			m, err := p.mailbox(a.User, now)
			if err != nil {
				return err
			}
			p.r.metrics.acked.Add(float64(m.ack(id, a.Device, a.Ids)))
			p.touch(m, 32)
		}
		p.r.metrics.applied.WithLabelValues("acks").Inc()
	case rec.Device != nil && storable(rec.Device.User):
		m, err := p.mailbox(rec.Device.User, now)
		if err != nil {
			return err
		}
		m.attach(id, rec.Device.Device, rec.Device.SeenMs, rec.TimeMs)
		p.touch(m, 64)
		p.r.metrics.devices.Inc()
	case rec.Claim != nil:
		if _, taken, err := p.claimed(rec.Claim.Key); err != nil {
			return err
		} else if !taken {
			c := store.MailboxClaim{ID: id}
			copy(c.Record[:], rec.Id)
			p.claims[rec.Claim.Key] = c
			p.owe(64)
		}
		p.r.metrics.applied.WithLabelValues("claim").Inc()
	case rec.Fence != nil:
		p.fence = offset
		p.r.metrics.applied.WithLabelValues("fence").Inc()
	case rec.Moved != nil:
		p.r.metrics.applied.WithLabelValues("moved").Inc()
		return p.applyMoved(id, rec, now)
	default:
		// A kind of a newer version: it is for newer nodes.
		p.r.metrics.applied.WithLabelValues("unknown").Inc()
	}
	return nil
}

// storable says whether a user of a record can be a key of the store. Logic
// lets no other through; a record that has one all the same is not from it.
func storable(user string) bool {
	return user != "" && len(user) <= protocol.MaxNameBytes && strings.IndexByte(user, 0) < 0
}

func (p *partition) applyPush(id uint64, rec *envelope.Record, now time.Time) error {
	push := rec.Push
	p.r.metrics.applied.WithLabelValues("push").Inc()
	expired := push.ExpiresMs <= now.UnixMilli()
	if expired && push.IdempotencyKey == "" {
		p.r.metrics.expired.Add(float64(len(push.Users)))
		return nil
	}
	message := &envelope.Kept{Id: id, Op: push.Op, Body: push.Body, TimeMs: rec.TimeMs}
	shared := len(push.Users) > 1
	p.rebuild.pushed += len(push.Users)
	for _, user := range push.Users {
		if !storable(user) {
			continue
		}
		m, err := p.mailbox(user, now)
		if err != nil {
			return err
		}
		void, err := p.useKey(m, id, rec, now)
		switch {
		case err != nil:
			return err
		case void:
			p.r.metrics.void.Inc()
			continue
		case expired:
			p.r.metrics.expired.Inc()
		default:
			m.push(message, now.UnixMilli(), push.ExpiresMs, shared, p.r.bound)
		}
		p.touch(m, 64+len(push.Body))
	}
	return nil
}

// useKey notes that a push used its idempotency key for a user, and says
// whether another one had before. A key is remembered also of a push that came
// too late to be delivered, but not of one from longer ago than keys are kept
// (the log is being read back).
func (p *partition) useKey(m *mailbox, id uint64, rec *envelope.Record, now time.Time) (void bool, err error) {
	key := rec.Push.IdempotencyKey
	if key == "" || now.Sub(time.UnixMilli(rec.TimeMs)) > p.r.cfg.IdempotencyTTL {
		return false, nil
	}
	first, used, err := p.used(m, key)
	if err != nil || used {
		return used && first != id, err
	}
	m.use(key, id)
	return false, nil
}

// used says which message used an idempotency key for a user.
func (p *partition) used(m *mailbox, key string) (uint64, bool, error) {
	if id, ok := m.used[key]; ok {
		return id, true, nil
	}
	if m.keyless {
		return 0, false, nil
	}
	return p.r.store.Used(p.index, m.user, key)
}

// claimed says which record claimed a key.
func (p *partition) claimed(key string) (store.MailboxClaim, bool, error) {
	if c, ok := p.claims[key]; ok {
		return c, true, nil
	}
	if c, ok := p.flushing[key]; ok {
		return c, true, nil
	}
	if p.rebuild.blank && !p.rebuild.claims {
		return store.MailboxClaim{}, false, nil
	}
	return p.r.store.Claimed(p.index, key)
}

// void remembers a record's id and says whether another record of the
// partition had it.
func (p *partition) void(recordID []byte, offset int64) bool {
	if len(recordID) != 12 || p.r.cfg.Faults.NoRecordID {
		return false
	}
	id := [12]byte(recordID)
	first, ok := p.known[id]
	if !ok {
		first, ok = p.before[id]
	}
	if ok {
		return first != offset
	}
	if len(p.known) >= recent {
		p.before, p.known = p.known, make(map[[12]byte]int64)
	}
	p.known[id] = offset
	return false
}

// mailbox is a user's mailbox, read from the store if it is not in memory. It
// is an error while the partition cannot be worked with. The caller holds mu.
func (p *partition) mailbox(user string, now time.Time) (*mailbox, error) {
	if err := p.here(); err != nil {
		return nil, err
	}
	if m := p.users[user]; m != nil {
		return m, nil
	}
	m := &mailbox{user: user}
	if p.rebuild.unread(user) {
		m.keyless = true
	} else if err := p.load(m); err != nil {
		return nil, err
	}
	p.users[user] = m
	p.adopt(m)
	m.expire(now, p.deviceExpiry())
	p.touch(m, 0)
	return m, nil
}

func (p *partition) load(m *mailbox) error {
	meta, entries, err := p.r.store.Load(p.index, m.user)
	if err != nil {
		return err
	}
	if meta != nil {
		m.meta = *meta
	}
	if len(entries) > 0 {
		block := make([]entry, len(entries))
		m.entries = make([]*entry, len(entries))
		for i := range entries {
			block[i] = entry{MailboxEntry: entries[i], stored: true}
			m.entries[i] = &block[i]
		}
	}
	return nil
}

// deviceExpiry is for how long a device is remembered: for ever while the log
// is read back, where a later record may say that it was seen again.
func (p *partition) deviceExpiry() time.Duration {
	if !p.isUp() {
		return never
	}
	return p.r.cfg.DeviceExpiry
}

// touch puts a mailbox where its state says that it belongs. The caller
// holds mu.
func (p *partition) touch(m *mailbox, size int) {
	if m.dirty || len(m.used) > 0 {
		p.dirty[m] = struct{}{}
		p.owe(size)
	}
	if len(m.sessions) > 0 && len(m.entries) > 0 {
		p.watching[m] = struct{}{}
	}
	if m.held != nil && m.held.wasteful() {
		p.release(m)
	}
}

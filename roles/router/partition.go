package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// readBytes is how much of the log is read and applied at a time.
const readBytes = 1 << 20

// recent is how many record ids a partition remembers at least; it holds up
// to twice as many.
const recent = 1 << 14

// partition is the materialised view of one partition of the kept log.
type partition struct {
	r     *Router
	index int32

	mu sync.Mutex
	// next is the offset of the first record that was not applied yet.
	next int64
	// applied is closed and replaced when next grew.
	applied chan struct{}
	users   map[string]*mailbox
	dirty   map[*mailbox]struct{}
	// watching are the mailboxes that have a session and a message.
	watching map[*mailbox]struct{}
	comets   comets
	keys     map[string][]*mailbox // session key → mailboxes with such a session
	// known and before are the record ids that were applied lately.
	known, before map[[12]byte]int64
	// claims are idempotency keys of claims that the store does not have yet.
	claims map[string]uint64
	// flushing are the claims that are being written.
	flushing map[string]uint64
	// online counts the mailboxes that have a session.
	online int
	// dirtyBytes is about how much the next flush writes.
	dirtyBytes int
	// err is why the partition does not go on, nil while it does.
	err error

	// flushMu makes one flush at a time; it is taken before mu.
	flushMu sync.Mutex
	// seenNext is next as the last flush saw it: what is older may be written.
	seenNext int64
	// storedNext is next as the store has it.
	storedNext int64
}

func newPartition(r *Router, index int32) *partition {
	return &partition{
		r: r, index: index,
		applied:  make(chan struct{}),
		users:    make(map[string]*mailbox),
		dirty:    make(map[*mailbox]struct{}),
		watching: make(map[*mailbox]struct{}),
		comets:   make(comets),
		keys:     make(map[string][]*mailbox),
		known:    make(map[[12]byte]int64),
		before:   make(map[[12]byte]int64),
		claims:   make(map[string]uint64),
	}
}

// appliedID is the id of the last record that was applied; 0: none. The
// caller holds mu.
func (p *partition) appliedID() uint64 {
	if p.next == 0 {
		return 0
	}
	return envelope.ID(p.r.kept.Generation(), p.next-1)
}

// wait blocks until the record with an id was applied.
func (p *partition) wait(ctx context.Context, id uint64) error {
	for {
		p.mu.Lock()
		done, ch, err := p.appliedID() >= id, p.applied, p.err
		p.mu.Unlock()
		if done {
			return nil
		}
		if err != nil {
			return envelope.Errorf(envelope.CodeUnavailable, "partition %d does not go on: %v", p.index, err)
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return envelope.Errorf(envelope.CodeNotReady, "partition %d has not applied record %d yet: %v", p.index, id, ctx.Err())
		}
	}
}

// start finds where to go on.
func (p *partition) start(ctx context.Context) error {
	begin, end, err := p.r.kept.Bounds(ctx, p.index)
	if err != nil {
		return fmt.Errorf("find the bounds of partition %d: %w", p.index, err)
	}
	id, ok, err := p.r.store.Position(p.index)
	if err != nil {
		return err
	}
	next := begin
	if ok {
		_, offset := envelope.SplitID(id)
		next = offset + 1
		if next < begin {
			p.r.log.Warn().Int32("partition", p.index).Int64("position", next).Int64("begin", begin).
				Msg("the log no longer has the records after the stored position: going on from its beginning")
			next = begin
		}
		if next > end {
			return fmt.Errorf("partition %d: the stored position %d is past the end of the log %d: the log lost records or is another one; "+
				"restore it, or move the data directory away to rebuild the mailboxes from the log", p.index, next, end)
		}
	}
	if warm := max(begin, next-int64(p.r.cfg.DedupeWarm)); warm < next {
		if err := p.warm(ctx, warm, next); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.next, p.seenNext, p.storedNext = next, next, next
	p.mu.Unlock()
	return nil
}

// warm reads the ids of records that were applied before the start.
func (p *partition) warm(ctx context.Context, from, to int64) error {
	for from < to {
		entries, err := p.r.kept.Read(ctx, p.index, from, readBytes)
		if err != nil {
			return fmt.Errorf("read partition %d back from %d: %w", p.index, from, err)
		}
		for _, e := range entries {
			if e.Offset >= to {
				return nil
			}
			var rec envelope.Record
			if rec.UnmarshalVT(e.Value) == nil {
				p.void(rec.Id, e.Offset)
			}
			from = e.Offset + 1
		}
	}
	return nil
}

// run follows the log until ctx is done.
func (p *partition) run(ctx context.Context) error {
	const firstPause, lastPause = 10 * time.Millisecond, time.Second
	pause := firstPause
	for ctx.Err() == nil {
		p.mu.Lock()
		next := p.next
		p.mu.Unlock()
		entries, err := p.r.kept.Read(ctx, p.index, next, readBytes)
		if err == nil {
			err = p.apply(entries)
		}
		switch {
		case err == nil:
			pause = firstPause
			p.fail(nil)
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, envelope.ErrClosed):
			return nil
		case errors.Is(err, envelope.ErrOutOfRange):
			if p.skipGap(ctx, next) {
				continue
			}
		}
		p.fail(err)
		p.r.log.Error().Err(err).Int32("partition", p.index).Msg("the partition does not go on; trying again")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, lastPause)
	}
	return nil
}

// skipGap goes on from the log's beginning when retention overtook a reader.
func (p *partition) skipGap(ctx context.Context, next int64) bool {
	begin, _, err := p.r.kept.Bounds(ctx, p.index)
	if err != nil || begin <= next {
		return false
	}
	p.r.metrics.skipped.Add(float64(begin - next))
	p.r.log.Error().Int32("partition", p.index).Int64("from", next).Int64("to", begin).
		Msg("records left the log before they were applied: retention is too short for this reader")
	p.mu.Lock()
	p.next = begin
	p.mu.Unlock()
	return true
}

func (p *partition) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// apply takes records in their order.
func (p *partition) apply(entries []envelope.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	now := p.r.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for i := range entries {
		if err = p.applyOne(&entries[i], now); err != nil {
			break
		}
		p.next = entries[i].Offset + 1
	}
	close(p.applied)
	p.applied = make(chan struct{})
	if p.dirtyBytes > p.r.cfg.FlushBytes {
		p.r.flushSoon()
	}
	return err
}

func (p *partition) applyOne(e *envelope.Entry, now time.Time) error {
	var rec envelope.Record
	if err := rec.UnmarshalVT(e.Value); err != nil {
		// A record that nobody can read must not stop those after it; that it
		// was there is said, counted and an event.
		p.r.metrics.applied.WithLabelValues("unreadable").Inc()
		p.r.log.Error().Err(err).Int32("partition", p.index).Int64("offset", e.Offset).Msg("record cannot be read: skipped")
		p.r.event("record_unreadable", "", fmt.Sprintf("partition %d offset %d", p.index, e.Offset))
		return nil
	}
	id := envelope.ID(p.r.kept.Generation(), e.Offset)
	if p.void(rec.Id, e.Offset) {
		p.r.metrics.applied.WithLabelValues("void").Inc()
		return nil
	}
	switch {
	case rec.Push != nil:
		return p.applyPush(id, &rec, now)
	case rec.Acks != nil:
		for _, a := range rec.Acks.Acks {
			if !storable(a.User) {
				continue
			}
			m, err := p.mailbox(a.User, now)
			if err != nil {
				return err
			}
			p.r.metrics.acked.Add(float64(m.ack(id, a.Device, a.Ids, a.UpTo)))
			p.touch(m, 32)
		}
		p.r.metrics.applied.WithLabelValues("acks").Inc()
	case rec.Device != nil && storable(rec.Device.User):
		m, err := p.mailbox(rec.Device.User, now)
		if err != nil {
			return err
		}
		m.attach(id, rec.Device.Device, rec.Device.SeenMs)
		p.touch(m, 64)
		p.r.metrics.applied.WithLabelValues("device").Inc()
	case rec.Claim != nil:
		if _, taken, err := p.claimed(rec.Claim.Key); err != nil {
			return err
		} else if !taken {
			p.claims[rec.Claim.Key] = id
			p.dirtyBytes += 64
		}
		p.r.metrics.applied.WithLabelValues("claim").Inc()
	default:
		// A kind of a newer version: it is for newer nodes.
		p.r.metrics.applied.WithLabelValues("unknown").Inc()
	}
	return nil
}

// storable says whether a user of a record can be a key of the store. Logic
// lets no other through; a record that has one all the same is not from it.
func storable(user string) bool {
	return user != "" && len(user) <= envelope.MaxNameBytes && strings.IndexByte(user, 0) < 0
}

func (p *partition) applyPush(id uint64, rec *envelope.Record, now time.Time) error {
	push := rec.Push
	p.r.metrics.applied.WithLabelValues("push").Inc()
	expired := push.ExpiresMs <= now.UnixMilli()
	if expired && push.IdempotencyKey == "" {
		p.r.metrics.expired.Add(float64(len(push.Users)))
		return nil
	}
	body := &store.MailboxBody{Op: push.Op, Body: push.Body}
	shared := len(push.Users) > 1
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
			m.push(id, now.UnixMilli(), rec.TimeMs, push.ExpiresMs, body, shared, p.r.bound)
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
	if m.used == nil {
		m.used = make(map[string]uint64, 1)
	}
	m.used[key] = id
	return false, nil
}

// used says which message used an idempotency key for a user.
func (p *partition) used(m *mailbox, key string) (uint64, bool, error) {
	if id, ok := m.used[key]; ok {
		return id, true, nil
	}
	return p.r.store.Used(p.index, m.user, key)
}

// claimed says which record claimed a key.
func (p *partition) claimed(key string) (uint64, bool, error) {
	if id, ok := p.claims[key]; ok {
		return id, true, nil
	}
	if id, ok := p.flushing[key]; ok {
		return id, true, nil
	}
	return p.r.store.Used(p.index, "", key)
}

// void remembers a record's id and says whether another record of the
// partition had it.
func (p *partition) void(recordID []byte, offset int64) bool {
	if len(recordID) != 12 || p.r.cfg.Without.RecordID {
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

// mailbox is a user's mailbox, read from the store if it is not in memory.
// The caller holds mu.
func (p *partition) mailbox(user string, now time.Time) (*mailbox, error) {
	if m := p.users[user]; m != nil {
		return m, nil
	}
	meta, entries, err := p.r.store.Load(p.index, user)
	if err != nil {
		return nil, err
	}
	m := &mailbox{user: user}
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
	m.expire(now, p.r.cfg.DeviceExpiry)
	p.users[user] = m
	p.touch(m, 0)
	return m, nil
}

// touch puts a mailbox where its state says that it belongs. The caller
// holds mu.
func (p *partition) touch(m *mailbox, size int) {
	if m.dirty || len(m.used) > 0 {
		p.dirty[m] = struct{}{}
		p.dirtyBytes += size
	}
	if len(m.sessions) > 0 && len(m.entries) > 0 {
		p.watching[m] = struct{}{}
	}
}

// addSession and removeSession keep the partition's indexes of sessions. The
// caller holds mu.
func (p *partition) addSession(m *mailbox, s *session) {
	p.removeSession(m, s.Address)
	if len(m.sessions) == 0 {
		p.online++
	}
	m.sessions = append(m.sessions, s)
	p.comets.add(s, m)
	if s.Key != "" {
		p.keys[s.Key] = append(p.keys[s.Key], m)
	}
	p.r.metrics.sessions.Inc()
	p.touch(m, 0)
}

func (p *partition) removeSession(m *mailbox, a *envelope.Address) *session {
	s := m.removeSession(a)
	if s == nil {
		return nil
	}
	p.comets.remove(a)
	p.removeKey(s.Key, m)
	p.r.metrics.sessions.Dec()
	if len(m.sessions) == 0 {
		p.online--
		delete(p.watching, m)
	}
	return s
}

func (p *partition) removeKey(key string, m *mailbox) {
	of := p.keys[key]
	for i := range of {
		if of[i] == m {
			of[i] = of[len(of)-1]
			of[len(of)-1] = nil
			of = of[:len(of)-1]
			break
		}
	}
	if len(of) == 0 {
		delete(p.keys, key)
	} else {
		p.keys[key] = of
	}
}

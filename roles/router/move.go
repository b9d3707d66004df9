package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/internal/wait"
	"imgo/roles/router/mailbox"
	"imgo/store"
)

// Growth is how the kept log gets more partitions, as the owner of some of
// those that it has takes part in it. Safe for concurrent use.
type Growth interface {
	// Moving waits until what the log has is to move, and returns the log of the
	// next generation. After an error that is not ctx's it may be called again.
	Moving(ctx context.Context) (NextLog, error)
	// HasMoved reports whether it was noted that a partition has moved.
	HasMoved(partition int32) bool
	// Moved notes, durably, that all that a partition has is in the next log.
	Moved(ctx context.Context, partition int32) error
}

// NextLog is the kept log's next generation.
type NextLog interface {
	Partitions() int32
	AppendMany(ctx context.Context, entries []envelope.Entry) error
}

const (
	// moveRecordBytes is about how large a record of what moves may be. A message
	// that is larger is alone in one; with the names of its devices it must fit
	// into maxMoveRecordBytes, which is 1 KiB below the log's own bound.
	moveRecordBytes    = 256 << 10
	maxMoveRecordBytes = 1<<20 - 2<<10
	// moveAppendBytes is how much is appended in one call.
	moveAppendBytes = 4 << 20
	// movesAtOnce is how many partitions move side by side.
	movesAtOnce = 4
	// moveEvery is how often it is looked for partitions that are to move.
	moveEvery = 100 * time.Millisecond
	// maxMovePause is the longest pause after an error of the growth.
	maxMovePause = 5 * time.Second
	// moveReadCount is how many users, or keys, are read from the store at a time.
	moveReadCount = 256
)

func errFenced(index int32) error {
	return envelope.Errorf(envelope.CodeNotReady, "partition %d moves to the kept log's next generation", index)
}

// moveLoop takes part in the log's growth, until ctx is done. A partition is
// moved again, by the router that owns it then, until it is noted that it was.
func (r *Router) moveLoop(ctx context.Context) error {
	failed := wait.Backoff{Min: moveEvery, Max: maxMovePause}
	pauses := failed
	for ctx.Err() == nil {
		next, err := r.growth.Moving(ctx)
		switch {
		case err == nil:
			pauses = failed
			r.moveAll(ctx, next)
			_ = wait.Sleep(ctx, moveEvery)
		case ctx.Err() == nil:
			r.log.Error().Err(err).Msg("the kept log cannot move to its next generation yet; trying again")
			_ = pauses.Sleep(ctx)
		}
	}
	return nil
}

// moveAll moves the partitions that are owned now and have not moved yet.
func (r *Router) moveAll(ctx context.Context, next NextLog) {
	var g errgroup.Group
	g.SetLimit(movesAtOnce)
	for _, p := range r.parts.serving() {
		if r.growth.HasMoved(p.index) {
			continue
		}
		g.Go(func() error {
			begin := time.Now()
			m := &mover{p: p, next: next, open: make(map[int32]*moveRecord), now: p.clock.Now()}
			err := m.run(ctx)
			if err == nil {
				err = r.growth.Moved(ctx, p.index)
			}
			switch {
			case err == nil:
				r.log.Info().Int32("partition", p.index).Int("users", m.users).Int("messages", m.messages).Dur("took", time.Since(begin)).
					Msg("partition moved to the kept log's next generation")
			case ctx.Err() == nil:
				r.log.Warn().Err(err).Int32("partition", p.index).Msg("partition did not move; trying again")
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are logged
}

// mover ends a partition at a fence, reads it from the store and appends it to
// the next log. It is for one goroutine.
type mover struct {
	p    *partition
	next NextLog
	now  time.Time
	// open has, for each partition of the next log, the record that has room.
	open map[int32]*moveRecord
	// ready are records that are complete, of so many bytes.
	ready           []envelope.Entry
	readyBytes      int
	users, messages int
}

// moveRecord is a record to which something may be added.
type moveRecord struct {
	moved envelope.Moved
	size  int
}

func (m *mover) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{m.fence, m.mailboxes, m.keys, m.finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	m.p.metrics.moved.Add(float64(m.messages))
	return nil
}

// fence has the partition end at a fence, and all that is before it in the
// store.
func (m *mover) fence(ctx context.Context) error {
	p := m.p
	if _, fenced := p.fencedAt(); !fenced {
		id, err := p.append(ctx, p.index, &envelope.Record{Fence: &envelope.Fence{}}, "the fence")
		if err != nil {
			return err
		}
		if err := p.wait(ctx, id); err != nil {
			return err
		}
	}
	if err := p.writes.flush(true); err != nil {
		return fmt.Errorf("write what is to move: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hereLocked() // else it was not written here
}

// mailboxes moves all users.
func (m *mover) mailboxes(ctx context.Context) error {
	for after := ""; ; {
		users, err := m.p.store.Users(m.p.index, after, moveReadCount)
		if err != nil || len(users) == 0 {
			return err
		}
		for _, u := range users {
			if err := m.mailbox(ctx, u.Name); err != nil {
				return fmt.Errorf("move the mailbox of user %q: %w", u.Name, err)
			}
		}
		if err := m.check(ctx); err != nil {
			return err
		}
		after = users[len(users)-1].Name
	}
}

// mailbox moves one user, a part at a time. The last part is marked as such.
func (m *mover) mailbox(ctx context.Context, user string) error {
	meta, entries, err := m.p.store.Load(m.p.index, user)
	if err != nil || meta == nil {
		return err
	}
	m.users++
	// The size of a part without messages.
	base := len(user) + 64
	for _, d := range meta.Devices {
		base += len(d.Name) + 32
	}
	for len(entries) > 0 {
		n, size := 0, base
		for n < len(entries) && (n == 0 || size+movedSize(&entries[n]) <= moveRecordBytes) {
			size += movedSize(&entries[n])
			n++
		}
		if err := m.part(ctx, user, meta, entries[:n], size); err != nil {
			return err
		}
		entries = entries[n:]
	}
	part := mailbox.LastPart(user, meta)
	return m.add(ctx, user, part.SizeVT(), func(to *envelope.Moved) { to.Mailboxes = append(to.Mailboxes, part) })
}

// movedSize is about the size of a message in a part, in bytes. It is never less than that size.
func movedSize(e *store.MailboxEntry) int {
	return int(e.Size) + mailbox.TrackedRecord(e.Tracked).SizeVT() + 96
}

// part moves some messages of a mailbox in one record. A message that leaves no
// room for the names of its devices is moved in one record for each device.
func (m *mover) part(ctx context.Context, user string, meta *store.MailboxMeta, entries []store.MailboxEntry, size int) error {
	bodies, err := m.p.store.Bodies(m.p.index, user, entries)
	if err != nil {
		return err
	}
	together := [][]store.MailboxDevice{meta.Devices}
	if waiting := mailbox.Covered(entries[0].Waiting, meta.Devices); size > maxMoveRecordBytes && len(waiting) > 1 {
		together = nil
		for i := range waiting {
			together = append(together, waiting[i:i+1])
		}
	}
	for _, devices := range together {
		part := mailbox.NewPart(user, meta, devices)
		for i, e := range entries {
			if bodies[i] == nil {
				m.lost(user, &e, "the store has lost its body")
				continue
			}
			part.Messages = append(part.Messages, &envelope.MovedMessage{
				Id: e.ID, TimeMs: e.TimeMS, ExpiresMs: e.ExpiresMS, Op: bodies[i].Op, Body: bodies[i].Body,
				Waiting: mailbox.MovedBits(e.Waiting, devices), Acked: e.Acked, Unclaimed: e.Unclaimed,
				Tracked: mailbox.TrackedRecord(e.Tracked),
			})
		}
		if part.SizeVT() > maxMoveRecordBytes+1<<10-64 { // it has one message: a part of several ends at moveRecordBytes
			for i := range entries {
				m.lost(user, &entries[i], "it is too large to move: as large as a record of the log may be")
			}
			continue
		}
		m.messages += len(part.Messages)
		err := m.add(ctx, user, part.SizeVT(), func(to *envelope.Moved) { to.Mailboxes = append(to.Mailboxes, part) })
		if err != nil {
			return err
		}
	}
	return nil
}

// lost counts and reports a message that does not move, unless it has just
// expired.
func (m *mover) lost(user string, e *store.MailboxEntry, why string) {
	if e.ExpiresMS <= m.p.clock.Now().UnixMilli()+1000 {
		return
	}
	m.p.metrics.dropped.Inc()
	m.p.log.Error().Str("user", user).Uint64("id", e.ID).Msg("a message did not move to the kept log's next generation: " + why)
	m.p.notice("message_lost", user, 0, fmt.Sprintf("message %d did not move: %s", e.ID, why))
}

// check returns an error if the move is to go no further.
func (m *mover) check(ctx context.Context) error {
	if !m.p.owned.Load() {
		return notOwned(m.p.index)
	}
	return ctx.Err()
}

// keys moves the idempotency keys of users and of claims.
func (m *mover) keys(ctx context.Context) error {
	for after := (store.UsedKey{}); ; {
		keys, err := m.p.store.Keys(m.p.index, after, moveReadCount)
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, k := range keys {
			expires := k.Expires
			if expires.IsZero() {
				expires = m.now.Add(m.p.cfg.IdempotencyTTL)
			}
			by, fill := k.User, func(to *envelope.Moved) {
				to.Keys = append(to.Keys, &envelope.MovedKey{User: k.User, Key: k.Key, Id: k.ID, ExpiresMs: expires.UnixMilli()})
			}
			if k.User == "" { // a claim goes by its key
				by, fill = k.Key, func(to *envelope.Moved) {
					claim := &envelope.MovedClaim{Key: k.Key, Id: k.ID, Record: k.Record[:], ExpiresMs: expires.UnixMilli()}
					to.Claims = append(to.Claims, claim)
				}
			}
			if err := m.add(ctx, by, len(k.User)+len(k.Key)+64, fill); err != nil {
				return err
			}
		}
		if err := m.check(ctx); err != nil {
			return err
		}
		after = keys[len(keys)-1]
	}
}

// add puts something of so many bytes into the open record of the partition
// that a name goes by.
func (m *mover) add(ctx context.Context, by string, size int, fill func(*envelope.Moved)) error {
	to := envelope.Partition(by, int(m.next.Partitions()))
	f := m.open[to]
	if f != nil && f.size+size > moveRecordBytes {
		if err := m.complete(ctx, to, f); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		f = &moveRecord{}
		f.moved.From = uint32(m.p.index)
		m.open[to] = f
	}
	fill(&f.moved)
	f.size += size
	return nil
}

// complete adds a record to those that are to be appended.
func (m *mover) complete(ctx context.Context, to int32, f *moveRecord) error {
	delete(m.open, to)
	rec := envelope.Record{Id: envelope.NewRecordID(), TimeMs: m.now.UnixMilli(), Moved: &f.moved}
	value, err := rec.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode what moves: %w", err)
	}
	m.ready = append(m.ready, envelope.Entry{Partition: to, Value: value})
	if m.readyBytes += len(value); m.readyBytes < moveAppendBytes {
		return nil
	}
	return m.append(ctx)
}

// append appends what is complete, until it is there.
func (m *mover) append(ctx context.Context) error {
	for pauses := retryPauses(); len(m.ready) > 0; {
		err := m.next.AppendMany(ctx, m.ready)
		switch {
		case err == nil:
			m.ready, m.readyBytes = nil, 0
			return nil
		case !errors.Is(err, envelope.ErrUnavailable) || ctx.Err() != nil:
			return fmt.Errorf("append what moves: %w", err)
		}
		m.p.log.Warn().Err(err).Int32("partition", m.p.index).Msg("what moves was not appended; trying again")
		_ = pauses.Sleep(ctx)
		if err := m.check(ctx); err != nil {
			return err
		}
	}
	return nil
}

// finish appends what is left.
func (m *mover) finish(ctx context.Context) error {
	for to, f := range m.open {
		if err := m.complete(ctx, to, f); err != nil {
			return err
		}
	}
	return m.append(ctx)
}

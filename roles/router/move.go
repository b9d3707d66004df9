package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"imgo/envelope"
	"imgo/store"
)

// Growth is how the kept log gets more partitions, as the owner of some of
// those that it has takes part in it. Safe for concurrent use.
type Growth interface {
	// Moving waits until what the log has is to move, and gives the log of the
	// next generation. An error that is not ctx's may be gone a moment later.
	Moving(ctx context.Context) (NextLog, error)
	// HasMoved says whether it was noted that a partition has moved.
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
	// movedBytes is about how large a record of what moves may be. A message
	// that is larger is alone in one; with the names of its devices it must fit
	// into maxMovedBytes, which is 1 KiB below the log's own bound.
	movedBytes    = 256 << 10
	maxMovedBytes = 1<<20 - 2<<10
	// movingBytes is how much is appended in one call.
	movingBytes = 4 << 20
	// movingAtOnce is how many partitions move side by side.
	movingAtOnce = 4
	// moveEvery is how often it is looked for partitions that are to move.
	moveEvery = 100 * time.Millisecond
	// movedUsers is how many users, or keys, are read from the store at a time.
	movedUsers = 256
)

// move takes part in the log's growth, until ctx is done. What has to move is
// done again until it is noted that it was: by whoever owns the partition.
func (r *Router) move(ctx context.Context) error {
	for ctx.Err() == nil {
		next, err := r.growth.Moving(ctx)
		if err == nil {
			r.moveTo(ctx, next)
		}
		t := time.NewTimer(moveEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// moveTo moves what is owned now and has not moved yet.
func (r *Router) moveTo(ctx context.Context, next NextLog) {
	var g errgroup.Group
	g.SetLimit(movingAtOnce)
	for _, p := range r.serving() {
		if r.growth.HasMoved(p.index) {
			continue
		}
		g.Go(func() error {
			begin := time.Now()
			users, messages, err := p.move(ctx, next)
			switch {
			case err == nil:
				r.log.Info().Int32("partition", p.index).Int("users", users).Int("messages", messages).Dur("took", time.Since(begin)).
					Msg("partition moved to the kept log's next generation")
			case ctx.Err() == nil:
				r.log.Warn().Err(err).Int32("partition", p.index).Msg("partition did not move; trying again")
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are logged
}

// move fences the partition, unless it is, and appends all that it has to the
// next log.
func (p *partition) move(ctx context.Context, next NextLog) (users, messages int, err error) {
	if err := p.close(ctx); err != nil {
		return 0, 0, err
	}
	m := &mover{p: p, next: next, open: make(map[int32]*filling), now: p.r.now()}
	if err := m.mailboxes(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.keys(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.finish(ctx); err != nil {
		return 0, 0, err
	}
	p.r.metrics.moved.Add(float64(m.messages))
	return m.users, m.messages, p.r.growth.Moved(ctx, p.index)
}

// close has the partition end at a fence, and all that is before it in the
// store.
func (p *partition) close(ctx context.Context) error {
	p.mu.Lock()
	fenced := p.fenced()
	p.mu.Unlock()
	if !fenced {
		rec := envelope.Record{Id: envelope.NewRecordID(), TimeMs: p.r.now().UnixMilli(), Fence: &envelope.Fence{}}
		value, err := rec.MarshalVT()
		if err != nil {
			return fmt.Errorf("encode the fence: %w", err)
		}
		offset, err := p.r.kept.AppendEssential(ctx, p.index, value)
		if err != nil {
			return fmt.Errorf("append the fence: %w", err)
		}
		if err := p.wait(ctx, envelope.ID(p.r.kept.Generation(), offset)); err != nil {
			return err
		}
	}
	if err := p.flush(true); err != nil {
		return fmt.Errorf("write what is to move: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.here() // else it was not written here
}

// mover reads a fenced partition from the store and appends it to the next
// log. For one goroutine.
type mover struct {
	p    *partition
	next NextLog
	now  time.Time
	// open has, for each partition of the next log, the record that has room.
	open map[int32]*filling
	// ready are records that are complete, of so many bytes.
	ready           []envelope.Entry
	readyBytes      int
	users, messages int
}

// filling is a record to which something may be added.
type filling struct {
	moved envelope.Moved
	size  int
}

// mailboxes moves all users.
func (m *mover) mailboxes(ctx context.Context) error {
	for after := ""; ; {
		users, err := m.p.r.store.Users(m.p.index, after, movedUsers)
		if err != nil || len(users) == 0 {
			return err
		}
		for _, u := range users {
			if err := m.mailbox(ctx, u.Name); err != nil {
				return fmt.Errorf("move the mailbox of user %q: %w", u.Name, err)
			}
		}
		if err := m.stop(ctx); err != nil {
			return err
		}
		after = users[len(users)-1].Name
	}
}

// mailbox moves one user, a part at a time; the last part says so.
func (m *mover) mailbox(ctx context.Context, user string) error {
	meta, entries, err := m.p.r.store.Load(m.p.index, user)
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
		for n < len(entries) && (n == 0 || size+movedSize(&entries[n]) <= movedBytes) {
			size += movedSize(&entries[n])
			n++
		}
		if err := m.part(ctx, user, meta, entries[:n], size); err != nil {
			return err
		}
		entries = entries[n:]
	}
	part := newPart(user, meta, meta.Devices)
	part.Last = true
	return m.add(ctx, user, base, func(to *envelope.Moved) { to.Mailboxes = append(to.Mailboxes, part) })
}

func movedSize(e *store.MailboxEntry) int { return int(e.Size) + 64 }

// newPart is a part of a mailbox that names some of its devices.
func newPart(user string, meta *store.MailboxMeta, devices []store.MailboxDevice) *envelope.MovedMailbox {
	part := &envelope.MovedMailbox{User: user, LastMs: meta.LastMS, Dropped: meta.Dropped}
	for _, d := range devices {
		part.Devices = append(part.Devices, &envelope.MovedDevice{Device: d.Name, Since: d.Since, SeenMs: d.SeenMS})
	}
	return part
}

// part moves some messages of a mailbox in one record; one that leaves no room
// for the names of its devices in a record of its own for each of them.
func (m *mover) part(ctx context.Context, user string, meta *store.MailboxMeta, entries []store.MailboxEntry, size int) error {
	bodies, err := m.p.r.store.Bodies(m.p.index, user, entries)
	if err != nil {
		return err
	}
	together := [][]store.MailboxDevice{meta.Devices}
	if waiting := covers(entries[0].Waiting, meta.Devices); size > maxMovedBytes && len(waiting) > 1 {
		together = nil
		for i := range waiting {
			together = append(together, waiting[i:i+1])
		}
	}
	for _, devices := range together {
		part := newPart(user, meta, devices)
		for i, e := range entries {
			if bodies[i] == nil {
				m.lost(user, &e, "the store has lost its body")
				continue
			}
			part.Messages = append(part.Messages, &envelope.MovedMessage{
				Id: e.ID, TimeMs: e.TimeMS, ExpiresMs: e.ExpiresMS, Op: bodies[i].Op, Body: bodies[i].Body,
				Waiting: movedBits(e.Waiting, devices), Acked: e.Acked, Unclaimed: e.Unclaimed,
			})
		}
		if part.SizeVT() > maxMovedBytes+1<<10-64 {
			m.lost(user, &entries[0], "it is too large to move: as large as a record of the log may be")
			continue
		}
		m.messages += len(part.Messages)
		err := m.add(ctx, user, size, func(to *envelope.Moved) { to.Mailboxes = append(to.Mailboxes, part) })
		if err != nil {
			return err
		}
	}
	return nil
}

// lost counts and reports a message that does not move, unless it has just
// expired.
func (m *mover) lost(user string, e *store.MailboxEntry, why string) {
	if e.ExpiresMS <= m.p.r.now().UnixMilli()+1000 {
		return
	}
	m.p.r.metrics.dropped.Inc()
	m.p.r.log.Error().Str("user", user).Uint64("id", e.ID).Msg("a message did not move to the kept log's next generation: " + why)
	m.p.r.event("message_lost", user, fmt.Sprintf("message %d did not move: %s", e.ID, why))
}

// stop says why to go no further; nil: there is no reason.
func (m *mover) stop(ctx context.Context) error {
	if !m.p.owned.Load() {
		return notOwned(m.p.index)
	}
	return ctx.Err()
}

// keys moves the idempotency keys of users and of claims.
func (m *mover) keys(ctx context.Context) error {
	for after := (store.UsedKey{}); ; {
		keys, err := m.p.r.store.Keys(m.p.index, after, movedUsers)
		if err != nil || len(keys) == 0 {
			return err
		}
		for _, k := range keys {
			expires := k.Expires
			if expires.IsZero() {
				expires = m.now.Add(m.p.r.cfg.IdempotencyTTL)
			}
			by, fill := k.User, func(to *envelope.Moved) {
				to.Keys = append(to.Keys, &envelope.MovedKey{User: k.User, Key: k.Key, Id: k.ID, ExpiresMs: expires.UnixMilli()})
			}
			if k.User == "" { // a claim goes by its key
				by, fill = k.Key, func(to *envelope.Moved) {
					to.Claims = append(to.Claims, &envelope.MovedClaim{Key: k.Key, Id: k.ID, Record: k.Record[:], ExpiresMs: expires.UnixMilli()})
				}
			}
			if err := m.add(ctx, by, len(k.User)+len(k.Key)+64, fill); err != nil {
				return err
			}
		}
		if err := m.stop(ctx); err != nil {
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
	if f != nil && f.size+size > movedBytes {
		if err := m.complete(ctx, to, f); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		f = &filling{}
		f.moved.From = uint32(m.p.index)
		m.open[to] = f
	}
	fill(&f.moved)
	f.size += size
	return nil
}

// complete has a record appended, soon.
func (m *mover) complete(ctx context.Context, to int32, f *filling) error {
	delete(m.open, to)
	rec := envelope.Record{Id: envelope.NewRecordID(), TimeMs: m.now.UnixMilli(), Moved: &f.moved}
	value, err := rec.MarshalVT()
	if err != nil {
		return fmt.Errorf("encode what moves: %w", err)
	}
	m.ready = append(m.ready, envelope.Entry{Partition: to, Value: value})
	if m.readyBytes += len(value); m.readyBytes < movingBytes {
		return nil
	}
	return m.append(ctx)
}

// append appends what is complete, until it is there.
func (m *mover) append(ctx context.Context) error {
	for pause := firstPause; len(m.ready) > 0; pause = min(2*pause, lastPause) {
		err := m.next.AppendMany(ctx, m.ready)
		switch {
		case err == nil:
			m.ready, m.readyBytes = nil, 0
			return nil
		case !errors.Is(err, envelope.ErrUnavailable) || ctx.Err() != nil:
			return fmt.Errorf("append what moves: %w", err)
		}
		m.p.r.log.Warn().Err(err).Int32("partition", m.p.index).Msg("what moves was not appended; trying again")
		select {
		case <-time.After(pause):
		case <-m.p.left:
			return notOwned(m.p.index)
		case <-ctx.Done():
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

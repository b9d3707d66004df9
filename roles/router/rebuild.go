package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"imgo/envelope"
)

// rebuild is what a partition knows while it is read back from the log.
type rebuild struct {
	// blank: nothing of the partition was on the disk when it was gained, so
	// that only the users in stored have to be looked for there.
	blank  bool
	stored map[string]struct{}
	// claims: some claims were written.
	claims bool
	// pushed counts the messages that came since mailboxes were evicted.
	pushed int
	// elders are devices that became known before the log begins, by user.
	elders map[string][]elder
}

// elder is a device that was known before the log begins: it covers every
// message of the log, though the record that says so comes later.
type elder struct {
	device string
	since  uint64
	seenMS int64
}

const (
	// While a partition is read back it holds so many mailboxes, or pushes,
	// before it lets go of any: the next record may be for any user, and to
	// read a mailbox from the store costs more than to apply a record.
	rebuildUsers, rebuildPushes = 1 << 17, 1 << 20
	// tellEvery is how often the log says how far a partition is.
	tellEvery = 5 * time.Second
	// readPatience is how long a partition that has records to apply waits for
	// them.
	readPatience = 15 * time.Second
)

// slot waits until few enough other partitions are being read back. What it
// returns gives the place to the next one; it may be called twice.
func (p *partition) slot(ctx context.Context) (release func(), err error) {
	select {
	case p.r.slots <- struct{}{}:
		return sync.OnceFunc(func() { <-p.r.slots }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// read reads records from the log, which are there already while the
// partition has not caught up.
func (p *partition) read(ctx context.Context, from int64) ([]envelope.Entry, error) {
	if p.isUp() {
		return p.r.kept.Read(ctx, p.index, from, readBytes)
	}
	rctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	entries, err := p.r.kept.Read(rctx, p.index, from, readBytes)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("the log did not give record %d within %v: %w", from, readPatience, err)
	}
	return entries, err
}

// caughtUp says whether the partition was applied up to its target, and lets
// callers in when it has got there.
func (p *partition) caughtUp(since time.Time) bool {
	if p.isUp() {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next < p.target {
		return false
	}
	p.rebuild = rebuild{}
	close(p.up)
	event := p.r.log.Debug()
	if p.next > p.first {
		event = p.r.log.Info()
	}
	event.Int32("partition", p.index).Int64("records", p.next-p.first).Float64("seconds", time.Since(since).Seconds()).
		Msg("partition has caught up with the log")
	return true
}

// easeFactor is how many times FlushBytes wait to be written, of all
// partitions, before who applies records has to write them first.
const easeFactor = 16

// ease bounds what waits to be written when the flushes do not keep up.
func (p *partition) ease() error {
	if p.r.unflushed.Load() < easeFactor*int64(p.r.cfg.FlushBytes) || !p.full() {
		return nil
	}
	return p.flush(true)
}

// findElders reads the log for devices that became known before it begins.
// Without it a message that the device has yet to read would be gone once the
// others have read it, and one that it has read long ago would come again: its
// first record may lie anywhere in the log's first half (see remember).
func (p *partition) findElders(ctx context.Context, begin, end int64) (map[string][]elder, error) {
	elders := make(map[string][]elder)
	first := envelope.ID(p.r.kept.Generation(), begin)
	for from := begin; from < end; {
		entries, err := p.read(ctx, from)
		if err != nil {
			return nil, logError{fmt.Errorf("read the devices of partition %d from %d: %w", p.index, from, err)}
		}
		for _, e := range entries {
			from = e.Offset + 1
			if e.Offset >= end || !hasDevice(e.Value) {
				continue
			}
			var rec envelope.Record
			if rec.UnmarshalVT(e.Value) != nil || rec.Device == nil || !storable(rec.Device.User) {
				continue
			}
			if d := rec.Device; d.Since > 0 && d.Since < first {
				elders[d.User] = append(elders[d.User], elder{d.Device, d.Since, d.SeenMs})
			}
		}
	}
	return elders, nil
}

// deviceField is the number of Record.device.
const deviceField = 12

// hasDevice says whether a record has a device, without decoding all of it.
func hasDevice(record []byte) bool {
	for len(record) > 0 {
		tag, n := binary.Uvarint(record)
		if n <= 0 {
			return false
		}
		record = record[n:]
		value, n := binary.Uvarint(record)
		if n <= 0 {
			return false
		}
		record = record[n:]
		switch tag & 7 {
		case 0:
		case 2:
			if tag>>3 == deviceField {
				return true
			}
			if value > uint64(len(record)) {
				return false
			}
			record = record[value:]
		default:
			return false // no field of a record has another type
		}
	}
	return false
}

// unread is true for a user of whom the store certainly has nothing. The
// caller holds mu.
func (b *rebuild) unread(user string) bool {
	if !b.blank {
		return false
	}
	_, stored := b.stored[user]
	return !stored
}

// adopt makes the devices known that were so before the log begins. The
// caller holds mu.
func (p *partition) adopt(m *mailbox) {
	elders, ok := p.rebuild.elders[m.user]
	if !ok {
		return
	}
	delete(p.rebuild.elders, m.user)
	for _, e := range elders {
		if m.device(e.device) == nil {
			m.addDevice(e.device, e.since)
		}
		d := m.device(e.device)
		d.SeenMS = max(d.SeenMS, e.seenMS)
	}
	p.touch(m, 64)
}

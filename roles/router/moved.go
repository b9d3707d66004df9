package router

import (
	"math/bits"
	"slices"
	"time"

	"imgo/envelope"
	"imgo/store"
)

// fenced says whether the partition is at an end: its generation of the log
// is followed by another one. The caller holds mu.
func (p *partition) fenced() bool { return p.fence >= 0 }

// isBehindFence says whether a record that was applied is void.
func (p *partition) isBehindFence(offset int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fenced() && offset > p.fence
}

func errFenced(index int32) error {
	return envelope.Errorf(envelope.CodeNotReady, "partition %d moves to the kept log's next generation", index)
}

// applyMoved takes what the generation before had. Such records come before
// all others of this generation, but some may come again later, from a mover
// that did not know that another was done.
func (p *partition) applyMoved(id uint64, rec *envelope.Record, now time.Time) error {
	for _, part := range rec.Moved.Mailboxes {
		if !storable(part.User) {
			continue
		}
		m, err := p.mailbox(part.User, now)
		if err != nil {
			return err
		}
		if m.meta.Moved != 0 && id > m.meta.Moved {
			continue // again
		}
		m.take(id, part, rec.TimeMs, now.UnixMilli())
		size := 64 * (1 + len(part.Devices))
		for _, msg := range part.Messages {
			size += 64 + len(msg.Body)
		}
		p.rebuild.pushed += len(part.Messages)
		p.touch(m, size)
	}
	for _, k := range rec.Moved.Keys {
		if !storable(k.User) || k.ExpiresMs <= now.UnixMilli() {
			continue
		}
		m, err := p.mailbox(k.User, now)
		if err != nil {
			return err
		}
		if _, used, err := p.used(m, k.Key); err != nil {
			return err
		} else if !used {
			m.use(k.Key, k.Id)
			p.touch(m, 64)
		}
	}
	for _, c := range rec.Moved.Claims {
		if c.ExpiresMs <= now.UnixMilli() {
			continue
		}
		if _, taken, err := p.claimed(c.Key); err != nil {
			return err
		} else if !taken {
			claim := store.MailboxClaim{ID: c.Id}
			copy(claim.Record[:], c.Record)
			p.claims[c.Key] = claim
			p.owe(64)
		}
	}
	return nil
}

// take takes a part of the mailbox as the generation before had it, by the
// record id, which was appended at notedMS (Unix milliseconds). What is there
// stays: parts of two movers that did not know of each other stand in the log
// one among the other, and each says the same.
func (m *mailbox) take(id uint64, part *envelope.MovedMailbox, notedMS, nowMS int64) {
	devices := part.Devices[:min(len(part.Devices), maxDevices)]
	for _, d := range devices {
		if m.device(d.Device) == nil {
			m.addDevice(d.Device, d.Since)
		}
		known := m.device(d.Device)
		known.SeenMS = max(known.SeenMS, d.SeenMs)
		known.NotedMS = max(known.NotedMS, notedMS)
	}
	for _, msg := range part.Messages {
		var waiting uint64
		for i, d := range devices {
			if known := m.device(d.Device); msg.Waiting&(1<<i) != 0 && known != nil {
				waiting |= 1 << known.Bit
			}
		}
		if msg.ExpiresMs <= nowMS || waiting == 0 && !msg.Unclaimed {
			continue
		}
		i := m.search(msg.Id)
		if i < len(m.entries) && m.entries[i].ID == msg.Id {
			// A part may name some of a message's devices.
			if e := m.entries[i]; e.Waiting|waiting != e.Waiting {
				e.Waiting |= waiting
				e.changed = true
			}
			continue
		}
		e := &entry{message: &envelope.Kept{Id: msg.Id, Op: msg.Op, Body: msg.Body, TimeMs: msg.TimeMs}, loose: true, changed: true}
		e.ID, e.TimeMS, e.ExpiresMS, e.Waiting = msg.Id, msg.TimeMs, msg.ExpiresMs, waiting
		e.Acked, e.Unclaimed, e.Size = msg.Acked, msg.Unclaimed, int32(len(msg.Body))
		m.entries = slices.Insert(m.entries, i, e)
	}
	m.meta.LastMS = max(m.meta.LastMS, part.LastMs)
	m.meta.Dropped = max(m.meta.Dropped, part.Dropped)
	if part.Last && m.meta.Moved == 0 {
		m.meta.Moved = id
	}
	m.metaChanged, m.dirty = true, true
}

// use notes that the push id used an idempotency key.
func (m *mailbox) use(key string, id uint64) {
	if m.used == nil {
		m.used = make(map[string]uint64, 1)
	}
	m.used[key] = id
}

// movedBits is waiting as a MovedMessage has it: by the order of the devices
// that its part names, not by the bits that they have in the mailbox.
func movedBits(waiting uint64, devices []store.MailboxDevice) (moved uint64) {
	for i, d := range devices {
		moved |= waiting >> d.Bit & 1 << i
	}
	return moved
}

// covers are the devices, of those of a mailbox, that a message waits for.
func covers(waiting uint64, devices []store.MailboxDevice) []store.MailboxDevice {
	out := make([]store.MailboxDevice, 0, bits.OnesCount64(waiting))
	for _, d := range devices {
		if waiting>>d.Bit&1 != 0 {
			out = append(out, d)
		}
	}
	return out
}

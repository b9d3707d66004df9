package router

import (
	"container/list"

	"imgo/envelope"
)

// This file is what a partition holds in memory of what the store has: bodies
// of pending messages, so that a client that comes back soon, or that reads on,
// is answered without the disk. Only bodies: which messages a device is handed
// is the mailbox's to say, each time, and a message's body never changes, so
// there is nothing here that could be out of date.
//
// A body comes here when it was written behind, and when it was read for a
// backlog. It goes when its message goes, or with all others of its mailbox:
// that of the mailbox that was used longest ago, when there is no room.

// cache are the mailboxes of a partition that hold bodies, the one that was
// used last first. The partition's mu guards it.
type cache struct {
	holdings list.List // of *holding
	bytes    int
}

// holding is what one mailbox holds.
type holding struct {
	m  *mailbox
	at *list.Element // in the cache
	// bytes were taken for bodies, of which live are of messages that still
	// wait. Bodies that were read together share memory, so what went of them
	// is not free before all of them are.
	bytes, live int
}

// bodyOverhead is what a message in memory costs beside its body, in bytes.
const bodyOverhead = 112

func (e *entry) cost() int { return int(e.Size) + bodyOverhead }

// hold keeps the body of a message that the store has, unless its mailbox
// would have more than half of the room. The caller calls trim when it has
// given all. The caller holds mu.
func (p *partition) hold(m *mailbox, e *entry, message *envelope.Kept) {
	c, h := &p.cache, m.held
	if h == nil {
		h = &holding{m: m}
	}
	if int64(h.bytes+e.cost()) > p.r.share.Load()/2 {
		return
	}
	if m.held == nil {
		m.held = h
		h.at = c.holdings.PushFront(h)
	}
	e.message, e.held = message, true
	h.bytes += e.cost()
	h.live += e.cost()
	c.bytes += e.cost()
}

// compactFrom is from how many loose messages on a window is put together.
const compactFrom = 16

// compact puts those messages of a window that are held and loose beside each
// other: they are going to be handed out again and again, and most of what
// that costs is the wait for memory that lies scattered. The caller holds mu.
func (p *partition) compact(window []*entry) {
	n, size := 0, 0
	for _, e := range window {
		if e.held && e.loose {
			n++
			size += len(e.message.Body)
		}
	}
	if n < compactFrom {
		return
	}
	block, text := make([]envelope.Kept, 0, n), make([]byte, 0, size)
	for _, e := range window {
		if !e.held || !e.loose {
			continue
		}
		at := len(text)
		text = append(text, e.message.Body...)
		block = block[:len(block)+1]
		k := &block[len(block)-1]
		k.Id, k.Op, k.TimeMs, k.Body = e.ID, e.message.Op, e.TimeMS, text[at:len(text):len(text)]
		e.message, e.loose = k, false
	}
}

// trim lets go of what there is no room for. The caller holds mu.
func (p *partition) trim() {
	for limit := int(p.r.share.Load()); p.cache.bytes > limit; {
		p.release(p.cache.holdings.Back().Value.(*holding).m)
	}
}

// release lets go of what a mailbox holds. The caller holds mu.
func (p *partition) release(m *mailbox) {
	h := m.held
	if h == nil {
		return
	}
	for _, e := range m.entries {
		if e.held {
			e.message, e.held, e.loose = nil, false, false
		}
	}
	m.held = nil
	p.cache.holdings.Remove(h.at)
	p.cache.bytes -= h.bytes
}

// drop is for a message that goes.
func (h *holding) drop(e *entry) {
	e.message, e.held, e.loose = nil, false, false
	h.live -= e.cost()
}

// wasteful says whether most of the memory is of messages that went.
func (h *holding) wasteful() bool { return 2*h.live <= h.bytes }

// use notes that a mailbox was used now. The caller holds mu.
func (c *cache) use(m *mailbox) {
	if m.held != nil {
		c.holdings.MoveToFront(m.held.at)
	}
}

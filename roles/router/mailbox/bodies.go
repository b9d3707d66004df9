package mailbox

import (
	"container/list"

	"imgo/envelope"
)

// A mailbox may hold in memory the bodies of messages that the store has, so
// that a client that comes back soon is answered without the disk. A body never
// changes, so nothing here can be out of date. How much all mailboxes hold is
// the caller's to bound.

// held counts the bytes that a mailbox holds.
type held struct {
	// taken counts what was allocated for bodies, and live the part of the messages
	// that still wait. Bodies that were read together share memory, so the part of those
	// that are gone is free only when all of them are. Compact changes neither: its
	// block is as large as the scattered bodies, whose memory becomes free.
	taken, live int
	place       *list.Element
}

// bodyOverhead is what a message in memory costs beside its body, in bytes.
const bodyOverhead = 112

// Cost returns how many bytes the message costs in memory.
func (e *Entry) Cost() int { return int(e.Size) + bodyOverhead }

func (h *held) drop(e *Entry) {
	e.Message, e.held, e.loose = nil, false, false
	h.live -= e.Cost()
}

// NeedsBody reports whether the store has the message's body and memory has not.
func (e *Entry) NeedsBody() bool { return e.stored && e.Message == nil }

// Hold keeps the body of a message that the store has.
func (ms *Messages) Hold(e *Entry, message *envelope.Kept) {
	if ms.held == nil {
		ms.held = &held{}
	}
	e.Message, e.held = message, true
	ms.held.taken += e.Cost()
	ms.held.live += e.Cost()
}

// SetPlace keeps the place of the mailbox in a list of those that hold bodies. A mailbox
// that holds none keeps no place.
func (ms *Messages) SetPlace(place *list.Element) {
	if ms.held != nil {
		ms.held.place = place
	}
}

// Place returns what SetPlace kept since the mailbox holds bodies, or nil.
func (ms *Messages) Place() *list.Element {
	if ms.held == nil {
		return nil
	}
	return ms.held.place
}

// Held returns the bytes of the bodies that the mailbox holds.
func (ms *Messages) Held() int {
	if ms.held == nil {
		return 0
	}
	return ms.held.taken
}

// Wasteful reports whether most of the bytes held are of messages that went.
func (ms *Messages) Wasteful() bool { return ms.held != nil && 2*ms.held.live <= ms.held.taken }

// Release drops the bodies that the mailbox holds.
func (ms *Messages) Release() {
	if ms.held == nil {
		return
	}
	for _, e := range ms.entries {
		if e.held {
			ms.held.drop(e)
		}
	}
	ms.held = nil
}

// compactFrom is the number of loose messages from which on Compact works.
const compactFrom = 16

// Compact puts those messages of a backlog that are held and loose beside each
// other. They are going to be handed out again and again, and most of what that
// costs is the wait for memory that lies scattered.
func Compact(entries []*Entry) {
	n, size := 0, 0
	for _, e := range entries {
		if e.held && e.loose {
			n++
			size += len(e.Message.Body)
		}
	}
	if n < compactFrom {
		return
	}
	block, text := make([]envelope.Kept, 0, n), make([]byte, 0, size)
	for _, e := range entries {
		if !e.held || !e.loose {
			continue
		}
		at := len(text)
		text = append(text, e.Message.Body...)
		block = block[:len(block)+1]
		k := &block[len(block)-1]
		k.Id, k.Op, k.TimeMs, k.Body = e.ID, e.Message.Op, e.TimeMS, text[at:len(text):len(text)]
		e.Message, e.loose = k, false
	}
}

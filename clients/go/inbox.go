package imgoclient

import (
	"slices"
	"sync"
)

// inbox tracks the handled ids and the ids to acknowledge, over all connections of a Client. It is
// safe for concurrent use.
//
// An id is in one of these sets: handling (its message waits for the handler or is being handled), fresh
// (handled, not saved) or acks (saved, if there is a store, and not yet written to a connection).
type inbox struct {
	remember int
	noAck    bool
	ready    chan struct{} // holds a token while fresh is not empty
	due      chan struct{} // holds a token while acks is not empty

	mu sync.Mutex
	// handled holds the ids of handled messages. ring holds them in the order of handling, so that the
	// oldest is forgotten first.
	handled  map[uint64]struct{}
	ring     []uint64
	next     int
	handling map[uint64]struct{}
	fresh    []uint64
	// acks holds each id once. waiting is the same set, and has the ids of fresh too.
	acks    []uint64
	waiting map[uint64]struct{}
}

func newInbox(remember int, noAck bool) *inbox {
	return &inbox{
		remember: remember,
		noAck:    noAck,
		ready:    make(chan struct{}, 1),
		due:      make(chan struct{}, 1),
		handled:  map[uint64]struct{}{},
		handling: map[uint64]struct{}{},
		waiting:  map[uint64]struct{}{},
	}
}

// load remembers ids of a store, oldest first.
func (i *inbox) load(ids []uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range ids {
		i.rememberLocked(id)
	}
}

// startHandling reports whether the caller must handle the kept message now. A message that was handled
// before is acknowledged again, because the server repeats it only if the first acknowledgement was
// lost.
func (i *inbox) startHandling(id uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.handling[id]; ok {
		return false
	}
	if _, ok := i.handled[id]; ok {
		if !i.noAck {
			i.ackAgainLocked(id)
		}
		return false
	}
	i.handling[id] = struct{}{}
	return true
}

// done records the result of handling a message. A message that was not handled may be handled
// again.
func (i *inbox) done(id uint64, handled bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.handling, id)
	if !handled {
		return
	}
	i.rememberLocked(id)
	if i.noAck {
		return
	}
	i.waiting[id] = struct{}{}
	i.fresh = i.newestLocked(append(i.fresh, id))
	signal(i.ready)
}

func (i *inbox) rememberLocked(id uint64) {
	if _, ok := i.handled[id]; ok {
		return
	}
	if len(i.ring) < i.remember {
		i.ring = append(i.ring, id)
	} else {
		delete(i.handled, i.ring[i.next])
		i.ring[i.next] = id
		i.next = (i.next + 1) % i.remember
	}
	i.handled[id] = struct{}{}
}

// drainFresh returns the ids that are handled and not saved. The caller must call saved for them.
func (i *inbox) drainFresh() []uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	ids := i.fresh
	i.fresh = nil
	return ids
}

// saved makes ids of drainFresh due for an acknowledgement, or gives them back if they could not be saved.
func (i *inbox) saved(ids []uint64, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if ok {
		i.ackLocked(ids)
		return
	}
	i.fresh = i.newestLocked(append(ids, i.fresh...))
}

// newestLocked returns the newest remember of ids, and drops the others. The server repeats their messages, and they are
// acknowledged then.
func (i *inbox) newestLocked(ids []uint64) []uint64 {
	for len(ids) > i.remember {
		delete(i.waiting, ids[0])
		ids = ids[1:]
	}
	return ids
}

// ackLocked adds ids to acks. The ids are in waiting.
func (i *inbox) ackLocked(ids []uint64) {
	i.acks = i.newestLocked(append(i.acks, ids...))
	if len(i.acks) > 0 {
		signal(i.due)
	}
}

// ackAgainLocked adds an id to acks, unless it waits already.
func (i *inbox) ackAgainLocked(id uint64) {
	if _, ok := i.waiting[id]; !ok {
		i.waiting[id] = struct{}{}
		i.ackLocked([]uint64{id})
	}
}

// signal puts a token into a channel, unless it has one.
func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// begin must be called by a new session. It signals acknowledgements that the last session did not
// write.
func (i *inbox) begin() { i.saved(nil, true) }

// nextAcks removes and returns up to n ids to acknowledge. all reports whether none is left.
func (i *inbox) nextAcks(n int) (ids []uint64, all bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n = min(n, len(i.acks))
	ids = slices.Clone(i.acks[:n])
	for _, id := range ids {
		delete(i.waiting, id)
	}
	if i.acks = i.acks[n:]; len(i.acks) == 0 {
		i.acks = nil // releases the array
		return ids, true
	}
	return ids, false
}

// giveBack puts ids back that could not be written, for the next connection.
func (i *inbox) giveBack(ids []uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range ids {
		i.ackAgainLocked(id)
	}
}

package imgoclient

import (
	"slices"
	"sync"
)

// inbox tracks the handled ids and the ids to acknowledge, over all connections of a Client. It is
// safe for concurrent use.
type inbox struct {
	remember int
	noAck    bool
	due      chan struct{} // holds a token while acks is not empty

	mu sync.Mutex
	// handled holds the ids of successfully handled messages. ring holds them in the order of
	// handling, so that the oldest is forgotten first.
	handled map[uint64]struct{}
	ring    []uint64
	next    int
	// taken holds the ids of messages that wait for OnMessage or are being handled.
	taken map[uint64]struct{}
	// acks holds handled ids that are not yet written to a connection, each once. waiting is the
	// same set.
	acks    []uint64
	waiting map[uint64]struct{}
}

func newInbox(remember int, noAck bool) *inbox {
	return &inbox{
		remember: remember,
		noAck:    noAck,
		due:      make(chan struct{}, 1),
		handled:  map[uint64]struct{}{},
		taken:    map[uint64]struct{}{},
		waiting:  map[uint64]struct{}{},
	}
}

// take reports whether the caller must handle the kept message now. A message that was handled
// before is acknowledged again, because the server repeats it only if the first acknowledgement was
// lost.
func (i *inbox) take(id uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.taken[id]; ok {
		return false
	}
	if _, ok := i.handled[id]; ok {
		i.ackLocked(id)
		return false
	}
	i.taken[id] = struct{}{}
	return true
}

// done records the result of handling a taken message. A message that was not handled may be taken
// again.
func (i *inbox) done(id uint64, handled bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.taken, id)
	if !handled {
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
	i.ackLocked(id)
}

// ackLocked adds an id to acks. acks holds at most remember ids. The server repeats
// the messages of dropped ids, and they are acknowledged then.
func (i *inbox) ackLocked(id uint64) {
	if _, ok := i.waiting[id]; ok || i.noAck {
		return
	}
	if len(i.acks) >= i.remember {
		delete(i.waiting, i.acks[0])
		i.acks = i.acks[1:]
	}
	i.acks = append(i.acks, id)
	i.waiting[id] = struct{}{}
	i.signalLocked()
}

// signalLocked wakes the session that waits for due.
func (i *inbox) signalLocked() {
	select {
	case i.due <- struct{}{}:
	default:
	}
}

// begin must be called by a new session. It signals acknowledgements that the last session did not
// write.
func (i *inbox) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.acks) > 0 {
		i.signalLocked()
	}
}

// takeAcks removes and returns up to n ids to acknowledge. all reports whether none is left.
func (i *inbox) takeAcks(n int) (ids []uint64, all bool) {
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
	i.signalLocked()
	return ids, false
}

// giveBack puts ids back that could not be written, for the next connection.
func (i *inbox) giveBack(ids []uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range ids {
		i.ackLocked(id)
	}
}

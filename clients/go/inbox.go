package imgoclient

import (
	"slices"
	"sync"
)

// inbox remembers what was handled and what is to be acknowledged, over the
// connections of one Client. Safe for concurrent use.
type inbox struct {
	remember int
	noAck    bool
	due      chan struct{} // has a token when there is something in acks

	mu sync.Mutex
	// handled are the ids whose handling succeeded; ring has them in order of
	// arrival, so that the oldest is forgotten first.
	handled map[uint64]struct{}
	ring    []uint64
	next    int
	// taken are ids that wait for OnMessage or are with it.
	taken map[uint64]struct{}
	// acks are handled and not yet written to a connection, each once.
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

// take says whether the kept message is to be handled now. One that was
// handled before is acknowledged again: the server would not have sent it had
// the first acknowledgement arrived.
func (i *inbox) take(id uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.taken[id]; ok {
		return false
	}
	if _, ok := i.handled[id]; ok {
		i.ack(id)
		return false
	}
	i.taken[id] = struct{}{}
	return true
}

// done notes how the handling of a taken message ended. One that was not
// handled is free to be taken again.
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
	i.ack(id)
}

// ack adds an id to what is due; mu is held. It is bounded by what can be
// remembered: what falls out is sent again by the server and acknowledged then.
func (i *inbox) ack(id uint64) {
	if _, ok := i.waiting[id]; ok || i.noAck {
		return
	}
	if len(i.acks) >= i.remember {
		delete(i.waiting, i.acks[0])
		i.acks = i.acks[1:]
	}
	i.acks = append(i.acks, id)
	i.waiting[id] = struct{}{}
	i.signal()
}

// signal says that acks are due; mu is held.
func (i *inbox) signal() {
	select {
	case i.due <- struct{}{}:
	default:
	}
}

// begin is called by a new session: what the one before left is due now.
func (i *inbox) begin() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.acks) > 0 {
		i.signal()
	}
}

// takeAcks hands out up to n ids to acknowledge, and says whether that is all.
func (i *inbox) takeAcks(n int) (ids []uint64, all bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	n = min(n, len(i.acks))
	ids = slices.Clone(i.acks[:n])
	for _, id := range ids {
		delete(i.waiting, id)
	}
	if i.acks = i.acks[n:]; len(i.acks) == 0 {
		i.acks = nil // the array is let go of
		return ids, true
	}
	i.signal()
	return ids, false
}

// giveBack returns ids that could not be written, for the next connection.
func (i *inbox) giveBack(ids []uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range ids {
		i.ack(id)
	}
}

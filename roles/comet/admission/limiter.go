package admission

import (
	"net/netip"
	"sync"

	"imgo/envelope"
	"imgo/internal/source"
)

// AcceptLimiter counts connections against two limits: that of the whole comet,
// and that of one source address. It is safe for concurrent use.
//
// A connection is counted twice. When it is accepted it has cost nothing yet,
// and a refused one is closed without a word. When its transport is set up, a
// refused client can be told why. The first count allows an eighth more, so
// that clients usually are told.
type AcceptLimiter struct {
	max           int // 0: no bound
	maxPerAddress int // 0: no bound

	mu     sync.Mutex
	total  connCount
	byAddr map[netip.Addr]connCount
}

// connCount counts connections: all that were accepted, and those among them
// whose transport is set up.
type connCount struct{ accepted, open int }

// NewAcceptLimiter makes a limiter. A limit of 0 or less is no bound.
func NewAcceptLimiter(maxConns, maxPerAddress int) *AcceptLimiter {
	return &AcceptLimiter{max: max(maxConns, 0), maxPerAddress: max(maxPerAddress, 0), byAddr: map[netip.Addr]connCount{}}
}

// AddAccepted counts a connection that was just accepted. It returns an error if the
// connection is to be closed at once. Otherwise RemoveAccepted must be called later.
func (l *AcceptLimiter) AddAccepted(addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.max > 0 && l.total.accepted >= withSlack(l.max) {
		return envelope.Errorf(envelope.CodeTooMany, "%d connections are open", l.total.accepted)
	}
	if n := l.byAddr[source.Of(addr)].accepted; l.maxPerAddress > 0 && n >= withSlack(l.maxPerAddress) {
		return envelope.Errorf(envelope.CodeTooMany, "%d connections are open from %s", n, addr)
	}
	l.addLocked(addr, connCount{accepted: 1})
	return nil
}

// RemoveAccepted undoes AddAccepted.
func (l *AcceptLimiter) RemoveAccepted(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(addr, connCount{accepted: -1})
}

// addOpen counts a connection whose transport is set up. It returns an error if
// the client is to be refused. In both cases removeOpen must be called later.
func (l *AcceptLimiter) addOpen(addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(addr, connCount{open: 1})
	if l.max > 0 && l.total.open > l.max {
		return ErrMaxConnections
	}
	if l.maxPerAddress > 0 && addr.IsValid() && l.byAddr[source.Of(addr)].open > l.maxPerAddress {
		return ErrMaxPerAddress
	}
	return nil
}

// removeOpen undoes addOpen.
func (l *AcceptLimiter) removeOpen(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(addr, connCount{open: -1})
}

func (l *AcceptLimiter) addLocked(addr netip.Addr, n connCount) {
	l.total = l.total.plus(n)
	if !addr.IsValid() {
		return
	}
	addr = source.Of(addr)
	if n = l.byAddr[addr].plus(n); n == (connCount{}) {
		delete(l.byAddr, addr)
		return
	}
	l.byAddr[addr] = n
}

func (c connCount) plus(n connCount) connCount {
	return connCount{c.accepted + n.accepted, c.open + n.open}
}

// withSlack returns the limit of accepted connections for a limit of open ones.
func withSlack(limit int) int { return limit + limit/8 + 16 }

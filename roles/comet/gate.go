package comet

import (
	"fmt"
	"net/netip"
	"sync"

	"imgo/envelope"
)

// Why a connection was refused: labels of imgo_comet_refused_total, beside
// those of the transports.
const (
	refusedFull      = "max_connections"
	refusedAddress   = "max_per_address"
	refusedRate      = "connect_rate"
	refusedWait      = "connect_wait"
	refusedStopping  = "stopping"
	refusedFirst     = "first_packet" // not auth, or not a packet
	refusedTimeout   = "handshake_timeout"
	refusedLeft      = "client_left"
	refusedAuthBody  = "auth_body"
	refusedLogic     = "logic" // logic said no, or nothing
	refusedByListens = "listener_"
)

// gate counts connections against the limits of a comet and of each source
// address. It has two doors: admit, at accept, where a connection costs
// nothing yet and is refused without a word, and enter, where it can be told.
// So that it usually is told, admit lets an eighth more in than enter.
type gate struct {
	max    int // <= 0: no bound
	perIP  int
	mu     sync.Mutex
	total  crowd
	byAddr map[netip.Addr]crowd
}

// crowd are the connections of an address: accepted, and entered.
type crowd struct{ accepted, entered int }

// source is what the limit a source address counts: an IPv4 address, or an
// IPv6 /64, which is what one customer gets.
func source(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

func over(n, limit int) bool  { return limit > 0 && n > limit }
func slack(limit int) int     { return limit + limit/8 + 16 }
func bounded(limit int) int   { return max(limit, 0) }
func (c crowd) isEmpty() bool { return c == crowd{} }

func newGate(maxConns, perIP int) *gate {
	return &gate{max: bounded(maxConns), perIP: bounded(perIP), byAddr: map[netip.Addr]crowd{}}
}

// admit counts an accepted connection; released ends it.
func (g *gate) admit(addr netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.max > 0 && g.total.accepted >= slack(g.max) {
		return envelope.Errorf(envelope.CodeTooMany, "%d connections are open", g.total.accepted)
	}
	if n := g.byAddr[source(addr)].accepted; g.perIP > 0 && n >= slack(g.perIP) {
		return envelope.Errorf(envelope.CodeTooMany, "%d connections are open from %s", n, addr)
	}
	g.change(addr, 1, 0)
	return nil
}

func (g *gate) released(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(addr, -1, 0)
}

// enter counts a connection that can be spoken to; left ends it, also where
// enter refused, with the reason for the counter and one for the client.
func (g *gate) enter(addr netip.Addr) (refused, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(addr, 0, 1)
	if over(g.total.entered, g.max) {
		return refusedFull, "the server has as many connections as it may"
	}
	if addr.IsValid() && over(g.byAddr[source(addr)].entered, g.perIP) {
		return refusedAddress, fmt.Sprintf("more than %d connections from one address", g.perIP)
	}
	return "", ""
}

func (g *gate) left(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.change(addr, 0, -1)
}

// change counts for the total and for addr. Holds mu.
func (g *gate) change(addr netip.Addr, accepted, entered int) {
	g.total.accepted += accepted
	g.total.entered += entered
	if !addr.IsValid() {
		return
	}
	addr = source(addr)
	n := g.byAddr[addr]
	n.accepted += accepted
	n.entered += entered
	if n.isEmpty() {
		delete(g.byAddr, addr)
		return
	}
	g.byAddr[addr] = n
}

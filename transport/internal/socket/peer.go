package socket

import (
	"net/netip"
	"sync/atomic"
	"time"

	"imgo/transport"
)

// peer is what both kinds of sockets know of the other side.
type peer struct {
	acceptor *Acceptor
	addr     netip.Addr   // IPv4 is IPv4, never mapped into IPv6
	in       readBuffer   // reader's
	lastSign atomic.Int64 // nanoseconds since the acceptor's epoch

	// The part of an incomplete request or packet that the connection holds before its
	// client has authenticated. It belongs to the reader.
	slot *transport.InputSlot // nil: nothing was held yet
	more int32                // bytes that the transport holds, beside the buffer
	over bool                 // the client has authenticated, or the connection ends

	port uint16 // of addr: a netip.AddrPort would make every connection larger
}

// Remote is the peer's address. IPv4 is IPv4, never mapped into IPv6.
func (p *peer) Remote() netip.AddrPort { return netip.AddrPortFrom(p.addr, p.port) }

// SetRemote implements Input.
func (p *peer) SetRemote(client netip.AddrPort) error {
	if err := p.acceptor.readmit(p.Remote(), client); err != nil {
		return err
	}
	p.addr, p.port = client.Addr(), client.Port()
	return nil
}

// Sign implements Input.
func (p *peer) Sign() { p.lastSign.Store(int64(time.Since(p.acceptor.epoch))) }

// LastSign implements transport.Conn.
func (p *peer) LastSign() time.Time { return p.acceptor.epoch.Add(time.Duration(p.lastSign.Load())) }

// MaxBody implements Input.
func (p *peer) MaxBody() int { return p.acceptor.cfg.MaxBody }

// Buffered implements Input.
func (p *peer) Buffered() []byte { return p.in.bytes() }

// Hold implements Input.
func (p *peer) Hold(n int) { p.more = int32(n) }

// count says that the buffer of conn, whose peer p is, has size bytes.
func (p *peer) count(conn interface{ Evict() }, size int) {
	budget := p.acceptor.cfg.Unauthenticated
	if size += int(p.more); p.over || budget == nil || p.slot == nil && size == 0 {
		return
	}
	if p.slot == nil {
		p.slot = &transport.InputSlot{}
	}
	budget.Set(p.slot, conn, size)
}

// Authenticated implements transport.Conn.
func (p *peer) Authenticated() { p.endCount() }

// endCount says that nothing counts any more.
func (p *peer) endCount() {
	if p.over = true; p.slot != nil {
		p.acceptor.cfg.Unauthenticated.Set(p.slot, nil, 0)
		p.slot = nil
	}
}

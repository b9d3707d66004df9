package socket

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// peer is what both kinds of sockets know of the other side.
type peer struct {
	acceptor *Acceptor
	remote   netip.AddrPort
	in       readBuffer   // reader's
	held     holding      // reader's
	lastSign atomic.Int64 // nanoseconds since 1970
}

// Remote is the peer's address. IPv4 is IPv4, never mapped into IPv6.
func (p *peer) Remote() netip.AddrPort { return p.remote }

// SetRemote implements Input.
func (p *peer) SetRemote(client netip.AddrPort) error {
	if err := p.acceptor.readmit(p.remote, client); err != nil {
		return err
	}
	p.remote = client
	return nil
}

// Sign implements Input.
func (p *peer) Sign() { p.lastSign.Store(time.Now().UnixNano()) }

// LastSign implements transport.Conn.
func (p *peer) LastSign() time.Time { return time.Unix(0, p.lastSign.Load()) }

// MaxBody implements Input.
func (p *peer) MaxBody() int { return p.acceptor.cfg.MaxBody }

// Buffered implements Input.
func (p *peer) Buffered() []byte { return p.in.bytes() }

// Hold implements Input.
func (p *peer) Hold(n int) { p.held.more = int32(n) }

// Authenticated implements transport.Conn.
func (p *peer) Authenticated() { p.held.end(p.acceptor) }

package socket

import (
	"errors"

	"imgo/transport"
)

// maxInline is how many steps of one connection the poller's goroutine does in
// succession. Another goroutine does what is left.
const maxInline = 4

// opening is a connection before its first packet, and its Waker.
type opening struct {
	p       *Polled
	c       transport.Pollable
	step    func() error // nil: only the header of the PROXY protocol is awaited
	handle  func(transport.Conn)
	slot    transport.DeadlineSlot
	proxied bool // the header of the PROXY protocol is yet to come
}

// Open reads what comes before the first packet of a connection, and then calls handle.
// c is the connection that was made of p. A trusted proxy sends a header first. step
// reads the rest, such as the request that upgrades the connection. A nil step reads
// nothing.
//
// step reads at most once and does not block. Until it is done it returns
// transport.ErrPart or transport.ErrIdle. It may be called on a goroutine that all
// connections share. Open ends the connection if step fails, or takes longer than
// ListenConfig.HandshakeTimeout.
func (p *Polled) Open(c transport.Pollable, step func() error, handle func(transport.Conn)) {
	proxied := p.acceptor.expectsProxyHeader(p.Remote())
	if step == nil && !proxied {
		p.start(c, handle)
		return
	}
	w := &opening{p: p, c: c, step: step, handle: handle, proxied: proxied}
	p.Watch(w)
	p.acceptor.handshakes.Start(&w.slot, p)
	if !p.Rest() {
		w.Readable(false)
	}
}

// Readable implements transport.Waker.
func (w *opening) Readable(bool) {
	for range maxInline {
		if w.read() {
			return
		}
	}
	go func() {
		for !w.read() {
		}
	}()
}

// Writable does nothing: a client that has no room for the answer to its first
// request is not waited for.
func (w *opening) Writable() {}

// read does one step. It reports whether the caller is to stop: the connection is
// parked, has ended, or was handed on.
func (w *opening) read() bool {
	err := w.next()
	switch {
	case errors.Is(err, transport.ErrPart):
		return false
	case errors.Is(err, transport.ErrIdle):
		return w.p.Park()
	}
	if expired := w.p.acceptor.handshakes.Cancel(&w.slot); expired || err != nil {
		go w.p.Release()
	} else {
		w.p.start(w.c, w.handle)
	}
	return true
}

func (w *opening) next() error {
	if w.proxied {
		peer := w.p.Remote()
		client, err := readProxyHeader(w.p)
		switch {
		case errors.Is(err, transport.ErrPart) || errors.Is(err, transport.ErrIdle):
			return err
		case err != nil:
			w.p.acceptor.refuseProxy(peer, err)
			return err
		}
		w.proxied = false
		if client.IsValid() {
			if err := w.p.SetRemote(client); err != nil {
				return err
			}
		}
	}
	if w.step == nil {
		return nil
	}
	return w.step()
}

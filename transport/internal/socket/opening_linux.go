package socket

import (
	"errors"
	"net/netip"

	"imgo/transport"
)

// Opener is what comes before a connection's first packet, such as the request
// that upgrades it.
type Opener interface {
	// Step reads at most once and does not block. Until it is done it returns
	// transport.ErrPart or transport.ErrIdle.
	Step() error
	// Done is called when Step has returned anything else, with its error. It may
	// be called on a goroutine that all connections share.
	Done(err error)
}

// maxInline is how many steps of one connection the poller's goroutine does in
// succession. Another goroutine does what is left.
const maxInline = 4

// opening is a connection before its first packet, and its Waker.
type opening struct {
	p        *Polled
	o        Opener
	deadline *transport.SharedDeadline
	slot     transport.DeadlineSlot
	proxied  bool // the header of the PROXY protocol is yet to come
}

// Open reads what a trusted proxy sends first, and then has o read on, within the
// time that deadline gives.
func (p *Polled) Open(deadline *transport.SharedDeadline, o Opener) {
	w := &opening{p: p, o: o, deadline: deadline, proxied: p.ProxyExpected()}
	p.Watch(w)
	deadline.Start(&w.slot, p)
	if !p.Rest() {
		w.Readable(false)
	}
}

// ProxyExpected reports whether the connection begins with a header of the PROXY
// protocol.
func (p *Polled) ProxyExpected() bool { return p.acceptor.expectsProxyHeader(p.remote) }

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

// read does one step. It reports whether the caller is not the reader any more.
func (w *opening) read() bool {
	err := w.step()
	switch {
	case errors.Is(err, transport.ErrPart):
		return false
	case errors.Is(err, transport.ErrIdle):
		return w.p.Park()
	}
	if expired := w.deadline.Cancel(&w.slot); expired && err == nil {
		err = errExpired
	}
	w.o.Done(err)
	return true
}

var errExpired = errors.New("the time is over")

func (w *opening) step() error {
	if w.proxied {
		peer := w.p.remote
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
	return w.o.Step()
}

// SetRemote implements Input.
func (p *Polled) SetRemote(client netip.AddrPort) error {
	if err := p.acceptor.readmit(p.remote, client); err != nil {
		return err
	}
	p.remote = client
	return nil
}

package socket

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"imgo/transport"
)

// Polled is an accepted socket that epoll watches: it holds no goroutine, and
// a buffer only while a packet is incomplete. Its end is Socket's: Shut says
// goodbye and never blocks, Finish frees it. Its methods that are not explained
// here are those of transport.Pollable.
//
// What is marked as the reader's belongs to one goroutine at a time: the one
// that reads, from Readable until Park says true. Everything else is under mu,
// which is held for system calls, none of which waits, and never while a Waker
// is called.
type Polled struct {
	acceptor *Acceptor
	waker    transport.Waker
	remote   netip.AddrPort
	in       *input // the reader's: what was read and has not been taken
	timer    *time.Timer
	late     *late // what the kernel had no room for; nil: nothing
	lastSign atomic.Int64
	written  int64 // bytes handed to the kernel
	final    int64 // unacknowledged bytes at the end, -1 before it
	mu       sync.Mutex
	slot     uint32
	fd       int32

	watched  uint32 // events that epoll knows
	dry      bool   // the reader's: the socket was read empty
	parked   bool   // nobody reads: Readable is to be called
	again    bool   // something has come since the reader last looked
	hung     bool   // the peer ended its side: what a short read leaves is the end
	expired  bool   // the read deadline has passed
	closing  bool   // Shut or Abort was called
	torn     bool   // part of a frame went out: nothing can follow
	shut     bool   // the goodbye was tried
	gone     bool   // the peer ended or reset the stream
	attached bool   // it outlives the listener's handler
	closed   bool   // fd is no longer ours
}

// waits is the Waker of one who blocks.
type waits struct{ read, write chan struct{} }

func newWaits() *waits {
	return &waits{read: make(chan struct{}, 1), write: make(chan struct{}, 1)}
}

func (w *waits) Readable(bool) { signal(w.read) }
func (w *waits) Writable()     { signal(w.write) }

// signal wakes the one who waits on c, or who will.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// waits is the Waker of whoever blocks on p. Holds mu.
func (p *Polled) waits() *waits {
	w, ok := p.waker.(*waits)
	if !ok {
		w = newWaits()
		p.waker = w
	}
	return w
}

// Remote is the peer's address; IPv4 as IPv4, never mapped into IPv6.
func (p *Polled) Remote() netip.AddrPort { return p.remote }

// Sign notes a sign of life; LastSign is when there was one.
func (p *Polled) Sign() { p.lastSign.Store(time.Now().UnixNano()) }

// LastSign is Conn's.
func (p *Polled) LastSign() time.Time { return time.Unix(0, p.lastSign.Load()) }

// Attach is Pollable's.
func (p *Polled) Attach(w transport.Waker) {
	p.mu.Lock()
	p.waker, p.attached = w, true
	p.mu.Unlock()
}

// Watch is Attach, but it leaves the connection to the listener.
func (p *Polled) Watch(w transport.Waker) {
	p.mu.Lock()
	p.waker = w
	p.mu.Unlock()
}

// Attached says whether anybody was ever attached.
func (p *Polled) Attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attached
}

// Handled ends a connection whose handler has returned, unless it was attached.
// release may wait for the client to take note.
func (p *Polled) Handled(release func()) {
	switch {
	case p.Attached():
	case p.acceptor.cfg.Inline:
		go release()
	default:
		release()
	}
}

// Inline is Config's.
func (p *Polled) Inline() bool { return p.acceptor.cfg.Inline }

// event takes what epoll reports; alone: it is all.
func (p *Polled) event(events uint32, alone bool) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		p.hung = true
	}
	read := events&^unix.EPOLLOUT != 0 && p.wake()
	write := p.late != nil && p.flushLate()
	w := p.waker
	p.mu.Unlock()
	if write {
		w.Writable()
	}
	if read {
		w.Readable(alone)
	}
}

// wake notes that there is something for the reader; true: it is parked, and
// Readable is to be called once mu is free. Holds mu.
func (p *Polled) wake() bool {
	if !p.parked {
		p.again = true
		return false
	}
	p.parked, p.dry = false, false
	return true
}

// tell gives mu back, and then tells the owner.
func (p *Polled) tell(read, write bool) {
	w := p.waker
	p.mu.Unlock()
	if write {
		w.Writable()
	}
	if read {
		w.Readable(false)
	}
}

// watch has epoll report events, if it does not yet. Holds mu.
func (p *Polled) watch(events uint32) error {
	if p.watched&events == events {
		return nil
	}
	op := unix.EPOLL_CTL_ADD
	if p.watched != 0 {
		op = unix.EPOLL_CTL_MOD
	}
	if err := p.acceptor.poller.watch(p, op, p.watched|events); err != nil {
		p.acceptor.cfg.Log.Error().Err(err).Stringer("remote", p.remote).Msg("connection cannot be watched and is ended")
		p.torn = true
		return err
	}
	p.watched |= events
	return nil
}

// Park is Pollable's.
func (p *Polled) Park() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.park()
}

// park is Park. Holds mu.
func (p *Polled) park() bool {
	if p.again {
		p.again, p.dry = false, false
		return false
	}
	if p.closing || p.expired {
		return false
	}
	if p.watch(pollRead) != nil {
		p.closing = true
		return false
	}
	p.parked = true
	return true
}

// Rest is Pollable's. Of a socket that epoll does not know yet it will tell what
// there is; of any other, what came behind a read that emptied it.
func (p *Polled) Rest() bool {
	if p.in != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return (p.dry || p.watched == 0) && p.park()
}

// Wait blocks until there is something to read, for one who has no Waker.
func (p *Polled) Wait() {
	p.mu.Lock()
	w := p.waits()
	p.mu.Unlock()
	if p.Park() {
		<-w.read
	}
}

// ReadWith is Conn's ReadPacket made of a Pollable's TryReadPacket.
func (p *Polled) ReadWith(try func() (transport.Packet, error)) (transport.Packet, error) {
	for {
		packet, err := try()
		if !errors.Is(err, transport.ErrIdle) {
			return packet, err
		}
		p.Wait()
	}
}

// SetReadDeadline is Conn's.
func (p *Polled) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return net.ErrClosed
	}
	p.stopTimer()
	p.expired = false
	if t.IsZero() {
		p.mu.Unlock()
		return nil
	}
	d := time.Until(t)
	if d <= 0 {
		p.expired = true
		p.tell(p.wake(), false)
		return nil
	}
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		p.mu.Lock()
		if p.timer != timer { // replaced as it fired
			p.mu.Unlock()
			return
		}
		p.timer, p.expired = nil, true
		p.tell(p.wake(), false)
	})
	p.timer = timer
	p.mu.Unlock()
	return nil
}

// stopTimer ends the deadline. Holds mu.
func (p *Polled) stopTimer() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// Gone is Pollable's.
func (p *Polled) Gone() bool {
	if len(p.Buffered()) > 0 {
		return false
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(int(p.fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case err == nil:
		return n == 0
	case err == unix.EAGAIN || err == unix.EINTR:
		return false
	}
	return true
}

// Unacked is Socket's.
func (p *Polled) Unacked() (int64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.final >= 0 {
		return p.final, true
	}
	return unsentNow(p.fd)
}

// Written is Socket's.
func (p *Polled) Written() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.written
}

// keepFinal remembers what is unacknowledged while the kernel still tells. Holds mu.
func (p *Polled) keepFinal() {
	if p.final >= 0 {
		return
	}
	p.final = p.written
	if n, ok := unsentNow(p.fd); ok {
		p.final = n
	}
}

// Shut is Socket's: what is on its way in part has closeGrace to get out.
func (p *Polled) Shut(last []byte) bool {
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return false
	}
	p.closing = true
	p.stopTimer()
	if l := p.late; l != nil {
		l.last, l.done = last, make(chan struct{})
		p.timer = time.AfterFunc(closeGrace, func() { p.tearOff(l) })
	} else {
		p.farewell(last)
	}
	p.tell(p.wake(), false)
	return true
}

// tearOff ends what did not get out in time after Shut.
func (p *Polled) tearOff(l *late) {
	p.mu.Lock()
	if p.late != l || p.closed {
		p.mu.Unlock()
		return
	}
	p.torn = p.torn || !l.whole
	p.late = nil
	p.farewell(l.last)
	close(l.done)
	p.tell(false, l.owed)
}

// farewell sends last if the kernel takes it at once, and FIN. Holds mu.
func (p *Polled) farewell(last []byte) {
	if p.shut {
		return
	}
	p.shut = true
	if !p.torn && len(last) > 0 {
		n, err := p.send(last)
		p.torn = err != nil || n > 0 && n < len(last)
	}
	p.keepFinal()
	if !p.gone { // else Finish, which does not wait then, is soon enough
		_ = unix.Shutdown(int(p.fd), unix.SHUT_WR)
	}
}

// Abort ends the connection at once with a reset; the reader finds it so and
// frees it.
func (p *Polled) Abort() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closing, p.torn, p.shut = true, true, true
	owed := false
	if l := p.late; l != nil {
		p.late, owed = nil, l.owed
		if l.done != nil {
			close(l.done)
		}
	}
	p.keepFinal()
	_ = unix.Shutdown(int(p.fd), unix.SHUT_RDWR)
	p.tell(p.wake(), owed)
}

// Finish is Socket's. Released hears of it.
func (p *Polled) Finish(linger time.Duration) {
	p.Shut(nil)
	p.mu.Lock()
	if l := p.late; l != nil {
		p.mu.Unlock()
		<-l.done // within closeGrace
		p.mu.Lock()
	}
	quiet := p.torn || p.gone
	p.mu.Unlock()
	if !quiet {
		p.drain(linger)
	}
	p.free()
}

// TryFinish is Finish where nothing is to be waited for; false: Finish is still
// to be called.
func (p *Polled) TryFinish() bool {
	p.Shut(nil)
	p.mu.Lock()
	quiet := p.late == nil && (p.torn || p.gone)
	p.mu.Unlock()
	if quiet {
		p.free()
	}
	return quiet
}

// free closes the descriptor: the last of it.
func (p *Polled) free() {
	p.acceptor.poller.exit(p)
	p.mu.Lock()
	p.stopTimer()
	if p.torn {
		_ = unix.SetsockoptLinger(int(p.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	p.closed = true
	closeNow(p.fd)
	p.mu.Unlock()
	p.in = nil
	p.acceptor.done(p.remote.Addr())
}

// drain reads and throws away until the peer ends, much was read, or linger
// has passed. Nobody else reads any more.
func (p *Polled) drain(linger time.Duration) {
	timer := time.NewTimer(linger)
	defer timer.Stop()
	w := newWaits()
	buf := p.acceptor.flat()
	defer p.acceptor.putFlat(buf)
	b := (*buf)[:cap(*buf)]
	for left := lingerBytes; left > 0; {
		n, err := unix.Read(int(p.fd), b)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			p.mu.Lock()
			ok := !p.torn && p.watch(pollRead) == nil
			p.waker = w
			p.parked, p.again = !p.again, false
			parked := p.parked
			p.mu.Unlock()
			if !ok {
				return
			}
			if !parked {
				continue
			}
			select {
			case <-w.read:
			case <-timer.C:
				return
			}
		case err != nil || n == 0:
			return
		default:
			left -= n
		}
	}
}

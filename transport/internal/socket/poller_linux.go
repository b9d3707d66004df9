package socket

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// The events that a polled socket is registered for. They are edge-triggered, so
// parking costs no system call. pollWrite is used from the first time that the
// kernel has no room.
const (
	pollRead  uint32 = unix.EPOLLIN | unix.EPOLLRDHUP | 1<<31 // EPOLLET
	pollWrite uint32 = pollRead | unix.EPOLLOUT
)

// poller notifies the sockets of one Acceptor of what happens on them. Its one
// goroutine waits for the epoll in Go's own poller, so that it holds no thread
// while nothing happens. All connections depend on the goroutine, so nothing
// that it calls may wait.
type poller struct {
	file *os.File // of the epoll
	raw  syscall.RawConn
	fd   int
	wg   sync.WaitGroup // the goroutine

	// report belongs to the goroutine.
	report report

	mu    sync.Mutex
	slots []slot
	free  []uint32
}

// report is one answer of epoll.
type report struct {
	events  []unix.EpollEvent
	sockets []*Polled // of the events; nil if a socket was closed
	alone   bool      // there is one event, and the poller had waited for it
}

// slot maps events to their socket. An event that was fetched before its socket
// was closed has an older generation.
type slot struct {
	p   *Polled
	gen uint32
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or os would not poll it
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make an epoll that does not block: %w", err)
	}
	po := &poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if po.raw, err = po.file.SyscallConn(); err != nil {
		_ = po.file.Close()
		return nil, fmt.Errorf("poll an epoll: %w", err)
	}
	po.report.events = make([]unix.EpollEvent, 256)
	return po, nil
}

// run notifies the sockets until the epoll is closed.
func (po *poller) run() {
	for po.await() {
		po.notify()
	}
}

// await waits for the next report. It reports false if the epoll is closed.
func (po *poller) await() bool {
	n, looked, b := 0, 0, &po.report
	err := po.raw.Read(func(fd uintptr) bool {
		var errno unix.Errno
		n, errno = eventsNow(fd, b.events)
		looked++
		return n > 0 || errno != 0
	})
	if err != nil || n < 0 {
		return false
	}
	b.sockets = po.find(b.events[:n], b.sockets[:0])
	b.alone = n == 1 && looked > 1
	return true
}

// notify hands the events of the report to their sockets.
func (po *poller) notify() {
	b := &po.report
	for i, p := range b.sockets {
		if p != nil {
			p.event(b.events[i].Events, b.alone)
		}
	}
	clear(b.sockets)
}

func (po *poller) close() {
	_ = po.file.Close()
	po.wg.Wait()
}

// find appends the sockets of events to dst, and nil for a closed one.
func (po *poller) find(events []unix.EpollEvent, dst []*Polled) []*Polled {
	po.mu.Lock()
	defer po.mu.Unlock()
	for _, ev := range events {
		sl := &po.slots[uint32(ev.Fd)] // the kernel keeps Fd and Pad for us
		if sl.gen != uint32(ev.Pad) {
			dst = append(dst, nil)
			continue
		}
		dst = append(dst, sl.p)
	}
	return dst
}

// enter gives p a slot.
func (po *poller) enter(p *Polled) {
	po.mu.Lock()
	defer po.mu.Unlock()
	if n := len(po.free); n > 0 {
		p.slot = po.free[n-1]
		po.free = po.free[:n-1]
	} else {
		p.slot = uint32(len(po.slots))
		po.slots = append(po.slots, slot{})
	}
	po.slots[p.slot].p = p
}

// exit takes the slot back, before p's descriptor is closed.
func (po *poller) exit(p *Polled) {
	po.mu.Lock()
	defer po.mu.Unlock()
	sl := &po.slots[p.slot]
	sl.p = nil
	sl.gen++
	po.free = append(po.free, p.slot)
}

// watch has the kernel report events on a socket from now on, beginning with
// those that have happened already. Closing the descriptor ends it.
func (po *poller) watch(slot uint32, fd int32, op int, events uint32) error {
	po.mu.Lock()
	gen := po.slots[slot].gen
	po.mu.Unlock()
	ev := unix.EpollEvent{Events: events, Fd: int32(slot), Pad: int32(gen)}
	if err := watchNow(po.fd, op, fd, &ev); err != nil {
		return fmt.Errorf("watch a socket: %w", err)
	}
	return nil
}

// all lists the open sockets.
func (po *poller) all() []*Polled {
	po.mu.Lock()
	defer po.mu.Unlock()
	var list []*Polled
	for _, sl := range po.slots {
		if sl.p != nil {
			list = append(list, sl.p)
		}
	}
	return list
}

package socket

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a polled socket is registered for: edge-triggered, so that parking costs
// no system call. Room for writing is added the first time that there is none.
const (
	pollRead  uint32 = unix.EPOLLIN | unix.EPOLLRDHUP | 1<<31 // EPOLLET
	pollWrite uint32 = pollRead | unix.EPOLLOUT
)

// poller tells the sockets of one acceptor what happens on them. It is one
// goroutine, which waits for the epoll in Go's own poller, so that no thread is
// held while nothing happens. Should whoever it tells have to wait, another one
// takes its place, see leave.
type poller struct {
	file *os.File // of the epoll
	raw  syscall.RawConn
	fd   int
	wg   sync.WaitGroup // the goroutine, and those that left its place to another
	// telling is the goroutine's while it tells a socket something. Whoever makes
	// it nil has taken the goroutine's place.
	telling atomic.Pointer[turn]
	report  report // is the goroutine's

	mu    sync.Mutex
	slots []slot
	free  []uint32
}

// report is what epoll said at once.
type report struct {
	events  []unix.EpollEvent
	sockets []*Polled // of events; nil for one that is gone
	next    int       // the first of them that was not told
	alone   bool      // it is one, and nothing had happened just before
}

// turn is one goroutine's of the poller, as long as it is that. It is not the
// socket that tells them apart: the next one may tell the same, while the last
// one still waits there.
type turn struct{ p atomic.Pointer[Polled] }

// slot is where events find their socket. An event that was fetched before its
// socket was closed finds another generation.
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

// start runs the poller's goroutine; close ends it and waits for it.
func (po *poller) start() {
	po.wg.Add(1)
	go po.run()
}

// run tells what happens until the epoll is closed, or another goroutine has
// taken over.
func (po *poller) run() {
	defer po.wg.Done()
	t := &turn{}
	for po.tell(t) && po.await() {
	}
}

// await waits for the next report; false: the epoll is closed.
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
	b.sockets, b.next = po.find(b.events[:n], b.sockets[:0]), 0
	b.alone = n == 1 && looked > 1
	return true
}

// tell tells the rest of the report; false: another goroutine does.
func (po *poller) tell(t *turn) bool {
	b := &po.report
	for b.next < len(b.sockets) {
		i := b.next
		b.next++
		p := b.sockets[i]
		if p == nil {
			continue
		}
		t.p.Store(p)
		po.telling.Store(t)
		p.event(b.events[i].Events, b.alone)
		if !po.telling.CompareAndSwap(t, nil) {
			return false
		}
	}
	clear(b.sockets)
	return true
}

// leave has another goroutine tell the rest if p is being told.
func (po *poller) leave(p *Polled) {
	if t := po.telling.Load(); t != nil && t.p.Load() == p && po.telling.CompareAndSwap(t, nil) {
		po.start()
	}
}

func (po *poller) close() {
	_ = po.file.Close()
	po.wg.Wait()
}

// find appends the events' sockets to dst, nil for one that is gone.
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

// enter gives p its slot.
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

// exit takes it back, before p's descriptor is closed.
func (po *poller) exit(p *Polled) {
	po.mu.Lock()
	defer po.mu.Unlock()
	sl := &po.slots[p.slot]
	sl.p = nil
	sl.gen++
	po.free = append(po.free, p.slot)
}

// watch has the kernel report events on p from now on, beginning with what is
// so already. Closing the descriptor ends it.
func (po *poller) watch(p *Polled, op int, events uint32) error {
	po.mu.Lock()
	gen := po.slots[p.slot].gen
	po.mu.Unlock()
	ev := unix.EpollEvent{Events: events, Fd: int32(p.slot), Pad: int32(gen)}
	if err := watchNow(po.fd, op, p.fd, &ev); err != nil {
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

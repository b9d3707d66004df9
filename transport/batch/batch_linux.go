package batch

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are the parts of the kernel's include/uapi/linux/io_uring.h that are used
// here. The manual pages io_uring(7), io_uring_setup(2) and io_uring_enter(2)
// explain them.

const (
	opSend = 26 // IORING_OP_SEND, since Linux 5.6

	offRings   = 0          // IORING_OFF_SQ_RING; with featSingle it maps both rings
	offEntries = 0x10000000 // IORING_OFF_SQES

	featSingle = 1 << 0 // IORING_FEAT_SINGLE_MMAP, since 5.4
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	_                                                    [3]uint32
	sq                                                   sqOffsets
	cq                                                   cqOffsets
}

type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

// submission is struct io_uring_sqe, as a send uses it.
type submission struct {
	op    uint8
	_     [3]uint8
	fd    int32
	_     uint64
	addr  uint64
	size  uint32
	how   uint32 // MSG_…
	index uint64 // comes back with the result
	_     [3]uint64
}

// completion is struct io_uring_cqe.
type completion struct {
	index  uint64
	result int32
	flags  uint32
}

// Batch is up to Size writes that are sent together. It is for one goroutine at a
// time.
//
// It is a ring of the kernel. Every send in it has MSG_DONTWAIT, so the kernel
// does all of them within the call, and the ring is empty when Send returns.
type Batch struct {
	fd             int
	rings, entries []byte // memory that is shared with the kernel
	sqHead, sqTail *uint32
	cqHead, cqTail *uint32
	cqMask         uint32
	sends          *[Size]submission
	done           unsafe.Pointer // of completions, cqMask+1 of them

	tail    uint32 // the tail of the ring without the added writes
	n       int
	held    [Size][]byte // the bytes that the kernel reads, so that they are not collected
	results [Size]int32
	err     error // the reason why the ring is broken
}

func newBatch() (b *Batch, err error) {
	var p params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, Size, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("set io_uring up (sysctl kernel.io_uring_disabled, or a container's seccomp profile, may forbid it): %w", errno)
	}
	b = &Batch{fd: int(fd)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if p.features&featSingle == 0 || p.sqEntries != Size {
		return nil, errors.New("the kernel's io_uring is too old")
	}
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+p.cqEntries*uint32(unsafe.Sizeof(completion{})))
	if b.rings, err = b.share(offRings, int(size)); err != nil {
		return nil, err
	}
	if b.entries, err = b.share(offEntries, Size*int(unsafe.Sizeof(submission{}))); err != nil {
		return nil, err
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&b.rings[offset])) }
	b.sqHead, b.sqTail, b.cqHead, b.cqTail = word(p.sq.head), word(p.sq.tail), word(p.cq.head), word(p.cq.tail)
	for i := range uint32(Size) {
		*word(p.sq.array + 4*i) = i // place i of the ring has entry i, always
	}
	b.cqMask = *word(p.cq.mask)
	b.sends = (*[Size]submission)(unsafe.Pointer(&b.entries[0]))
	b.done = unsafe.Pointer(&b.rings[p.cq.cqes])
	return b, nil
}

func (b *Batch) share(offset int64, size int) ([]byte, error) {
	m, err := unix.Mmap(b.fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("share the memory of io_uring: %w", err)
	}
	return m, nil
}

func (b *Batch) close() {
	for _, m := range [][]byte{b.rings, b.entries} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	_ = unix.Close(b.fd)
}

func (b *Batch) broken() bool { return b.err != nil }

// Len counts the writes that wait for Send.
func (b *Batch) Len() int { return b.n }

// Add adds a write of at least one byte to a socket. The batch must not be full.
// Until Send returns, the socket must stay open and the bytes unchanged.
func (b *Batch) Add(fd int32, bytes []byte) {
	b.sends[(b.tail+uint32(b.n))%Size] = submission{
		op: opSend, fd: fd, index: uint64(b.n),
		addr: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(bytes)))), size: uint32(len(bytes)),
		how: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL,
	}
	b.held[b.n] = bytes
	b.n++
}

// Send sends the added writes without waiting for room in a socket. It returns
// their results in the order of Add: the number of bytes that the kernel took, a
// negative errno, or NotSent. The results are valid until the next Add.
func (b *Batch) Send() []int32 {
	results := b.results[:b.n]
	for i := range results {
		results[i] = NotSent
	}
	if len(results) > 1 && b.err == nil { // a single write is cheaper without the ring
		b.err = b.submit(results)
	}
	if b.err == nil {
		clear(b.held[:b.n])
	}
	b.n = 0
	return results
}

// submit has the kernel do the writes in the ring. After an error the ring is of
// no more use. The outcome of the writes that the kernel had begun is not known
// then, and their result is EIO.
func (b *Batch) submit(results []int32) error {
	taken := b.enter(len(results))
	for missing := taken; ; {
		if missing -= b.reap(results); missing <= 0 {
			return nil
		}
		// This was never seen: all is done when the call returns.
		const wait = 1 // IORING_ENTER_GETEVENTS
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(b.fd), 0, uintptr(missing), wait, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			for i := range results[:taken] {
				if results[i] == NotSent {
					results[i] = -int32(unix.EIO)
				}
			}
			return fmt.Errorf("wait for io_uring: %w", errno)
		}
	}
}

// enter has the kernel do the n added writes and returns how many it took. It
// takes the others out of the ring again.
func (b *Batch) enter(n int) (taken int) {
	atomic.StoreUint32(b.sqTail, b.tail+uint32(n))
	r, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(b.fd), uintptr(n), 0, 0, 0, 0)
	if errno == 0 { // otherwise the kernel had no memory and did nothing
		taken = int(r)
	}
	b.tail = atomic.LoadUint32(b.sqHead)
	atomic.StoreUint32(b.sqTail, b.tail)
	return taken
}

// reap stores the results that have come and returns their number.
func (b *Batch) reap(results []int32) (n int) {
	head, tail := *b.cqHead, atomic.LoadUint32(b.cqTail)
	for ; head != tail; head++ {
		c := (*completion)(unsafe.Add(b.done, uintptr(head&b.cqMask)*unsafe.Sizeof(completion{})))
		if c.index < uint64(len(results)) {
			results[c.index] = c.result
		}
		n++
	}
	atomic.StoreUint32(b.cqHead, head)
	return n
}

// probe returns an error if the kernel does not do what a Batch needs: to send,
// and not to wait if there is no room. The kernel's version does not tell.
func (b *Batch) probe() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("make two sockets to try io_uring: %w", err)
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	some := make([]byte, 64<<10)
	for range 1 << 10 { // far more than until there is no room
		b.Add(int32(pair[0]), some)
		b.Add(int32(pair[0]), some)
		for _, r := range b.probed() {
			switch {
			case r == -int32(unix.EAGAIN):
				return nil
			case r <= 0:
				return fmt.Errorf("try io_uring: %w", unix.Errno(-r))
			}
		}
	}
	return errors.New("io_uring does not say when a socket has no room")
}

// probed is Send for probe: it does not wait for writes that the kernel has left
// undone.
func (b *Batch) probed() []int32 {
	results := b.results[:b.n]
	b.n = 0
	clear(results)
	if taken, done := b.enter(len(results)), b.reap(results); taken != len(results) || done != len(results) {
		results[0] = -int32(unix.ENOSYS)
	}
	return results
}

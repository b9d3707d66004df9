package admission

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nearWorker is one goroutine that runs a task right after the goroutine that
// gives it the task has begun to wait, on the same processor.
//
// Every other way to make a goroutine ready has Go wake a second processor, in
// case there is more to do. That costs a server at rest more than admitting a
// client does. A nearWorker waits for an eventfd in Go's poller instead, which the
// processor asks when it has run out of work.
//
// A task may wait like any goroutine: the processor then goes on with others. Only
// a wait that Go does not see, such as a page fault, keeps it. Then Go's monitor
// finds another processor for other events, after some 10 ms.
type nearWorker struct {
	file *os.File // the eventfd
	raw  syscall.RawConn
	set  func(fd uintptr) // made once, so that run allocates nothing
	busy atomic.Bool
	task Task // of the goroutine while busy is set
}

func newNearWorker() (*nearWorker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	n := &nearWorker{file: os.NewFile(uintptr(fd), "eventfd")}
	if n.raw, err = n.file.SyscallConn(); err != nil {
		_ = n.file.Close()
		return nil, fmt.Errorf("poll an eventfd: %w", err)
	}
	one := uint64(1)
	n.set = func(fd uintptr) {
		// This call never waits, so Go's scheduler is not told of it.
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&one)), 8)
	}
	return n, nil
}

// run gives t to the goroutine. It reports false if that is busy. The caller is
// to wait soon, since nothing else makes Go look at the eventfd.
func (n *nearWorker) run(t Task) bool {
	if !n.busy.CompareAndSwap(false, true) {
		return false
	}
	n.task = t
	_ = n.raw.Control(n.set)
	return true
}

// work runs tasks until close is called.
func (n *nearWorker) work() {
	var count uint64
	isSet := func(fd uintptr) bool {
		got, _, _ := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&count)), 8)
		return got == 8
	}
	for n.raw.Read(isSet) == nil {
		n.task.Run()
		n.task = nil
		n.busy.Store(false)
	}
}

func (n *nearWorker) close() { _ = n.file.Close() }

package store

import (
	"fmt"
	"sync/atomic"
	"time"

	"imgo/envelope"
)

// diskCache is how long one answer of the file system is used.
const diskCache = 50 * time.Millisecond

// minFree is how much must be free for a write to begin, whatever the reserve is: the pages of a
// commit, and the table of a memtable that the commit fills. Badger writes through mapped pages,
// and a page for which the disk has no room ends the process.
const minFree = 2 * memTableBytes

// disk knows how many bytes are free, and is cheap enough to be asked before every
// append. It is safe for concurrent use.
type disk struct {
	dir     string
	reserve int64 // bytes
	ask     func(dir string) (int64, error)

	started time.Time
	free    atomic.Int64 // bytes, at the last poll
	asked   atomic.Int64 // time of the last poll, nanoseconds since started
}

func newDisk(opt Options) (*disk, error) {
	d := &disk{dir: opt.Dir, reserve: opt.Reserve, ask: opt.Faults.FreeBytes, started: time.Now()}
	if d.ask == nil {
		d.ask = freeBytes
	}
	free, err := d.ask(d.dir)
	if err != nil {
		return nil, fmt.Errorf("ask how much of the disk under %s is free: %w", d.dir, err)
	}
	d.free.Store(free)
	return d, nil
}

// poll asks the file system. If that fails, the last answer stays: a failing statfs is no
// reason to refuse pushes, or to forget that the disk is full.
func (d *disk) poll() {
	d.asked.Store(int64(time.Since(d.started)))
	if free, err := d.ask(d.dir); err == nil {
		d.free.Store(free)
	}
}

// freeNow returns the free bytes, at most diskCache old.
func (d *disk) freeNow() int64 {
	now, asked := int64(time.Since(d.started)), d.asked.Load()
	// One caller wins the swap and asks; the others use the last answer.
	if now-asked > int64(diskCache) && d.asked.CompareAndSwap(asked, now) {
		d.poll()
	}
	return d.free.Load()
}

// ok returns envelope.ErrDiskFull while less than the reserve is free.
func (d *disk) ok() error { return d.check(d.reserve, "pushes are") }

// essential returns envelope.ErrDiskFull while less than a quarter of the reserve is free.
func (d *disk) essential() error { return d.check(d.reserve/4, "every write is") }

// writable returns envelope.ErrDiskFull while less than minFree is free.
func (d *disk) writable() error { return d.check(minFree, "every write is") }

func (d *disk) check(floor int64, what string) error {
	advice := "Delete something, or lower disk.reserve."
	if floor <= minFree {
		floor, advice = minFree, "Delete something."
	}
	free := d.freeNow()
	if free >= floor {
		return nil
	}
	return envelope.Errorf(envelope.CodeDiskFull,
		"the disk under %s has %d MiB (%d bytes) free, less than the %d bytes that must stay free (disk.reserve is %d): "+
			"%s refused until there is room. %s",
		d.dir, free>>20, free, floor, d.reserve, what, advice)
}

package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/internal/collectors"
	"imgo/store/badgerwal"
)

const (
	// maxValueBytes bounds one stored value. Badger keeps values up to this size beside
	// their keys, so its value log, which would need garbage collection, stays empty.
	maxValueBytes = 1<<20 - 1<<10

	memTableBytes = 16 << 20
	// gcInterval is how often Run merges tables that nobody writes to.
	gcInterval = 10 * time.Minute
	// diskInterval is how often Run asks for the free bytes.
	diskInterval = time.Second
)

// Options are the options of a DB.
type Options struct {
	// Dir is the data directory; Open makes it (0700) if it does not exist.
	Dir string
	// Reserve is how many bytes of the file system must be free for pushes to be accepted.
	// Acknowledgements go on down to a quarter of it. 0 means no reserve. Every write needs
	// minFree in any case.
	Reserve int64

	Log zerolog.Logger
	// Metrics registers the store's metrics, until Close. If it is nil, nothing is registered.
	Metrics prometheus.Registerer

	// Faults are for tests.
	Faults Faults
}

// DB is the data directory of a node: one Badger database with synced writes.
//
// All methods are safe for concurrent use. Transactions do not detect conflicts: code that
// reads, decides and writes must be the only writer of those keys, or hold a lock. All
// work on a DB must have ended before Close is called.
type DB struct {
	bdg      *badger.DB
	opt      Options
	dir      string // for messages
	log      zerolog.Logger
	lock     *dirLock
	disk     *disk
	registry *collectors.Set

	// mu is held for reading while Badger works: its Close unmaps files that a reader may
	// still use.
	mu     sync.RWMutex
	closed bool

	// broken is the error of a commit that may be half written.
	broken atomic.Pointer[error]

	// syncer makes commits durable. If it is nil, Badger does.
	syncer *badgerwal.Syncer

	// writes counts transactions, so that Run knows a quiet time.
	writes atomic.Uint64

	// logOpen and eventsOpen are set while a Log is open: two Logs would assign the same offsets.
	logOpen, eventsOpen atomic.Bool

	stop    chan struct{} // closed by Close; ends Run
	running sync.WaitGroup
}

// Open opens the data directory, makes it if it does not exist, and checks its files. It
// refuses a damaged directory with an error that says what to do, and leaves it as it was.
// Apart from Badger's own, no work goes on by itself until Run is called.
func Open(opt Options) (*DB, error) {
	db := &DB{opt: opt, dir: opt.Dir, log: opt.Log, stop: make(chan struct{})}
	if err := db.open(); err != nil {
		_ = db.syncer.Close(false)
		db.registry.Unregister()
		_ = db.lock.release()
		return nil, err
	}
	return db, nil
}

func (db *DB) open() error {
	err := db.prepareDir()
	if err != nil {
		return err
	}
	if db.disk, err = newDisk(db.opt); err != nil {
		return err
	}
	complete, err := db.checkDir()
	if err != nil {
		return err
	}
	// Badger writes as soon as it is open, and a write for which the disk has no room
	// ends the process without a message.
	if err := db.disk.essential(); err != nil {
		return fmt.Errorf("open data directory %s: %w", db.dir, err)
	}
	if db.syncer, err = badgerwal.NewSyncer(db.dir); err != nil {
		return fmt.Errorf("open data directory %s: %w", db.dir, err)
	}
	if db.bdg, err = openBadger(db.badgerOptions()); err != nil {
		return fmt.Errorf("open data directory %s: %w%s", db.dir, err, restoreHint)
	}
	if err := db.checkFormat(complete); err != nil {
		return errors.Join(err, db.bdg.Close())
	}
	db.registry, err = collectors.Register(db.opt.Metrics, db.collectors()...)
	if err != nil {
		return errors.Join(fmt.Errorf("register the store's metrics: %w", err), db.bdg.Close())
	}
	return nil
}

// prepareDir makes the data directory, proves that it can be written to, and locks it.
func (db *DB) prepareDir() error {
	if db.opt.Dir == "" {
		return errors.New("open data directory: no directory was named; set data_dir")
	}
	dir, err := filepath.Abs(db.opt.Dir)
	if err != nil {
		return fmt.Errorf("open data directory %s: %w", db.opt.Dir, err)
	}
	db.dir, db.opt.Dir = dir, dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make data directory %s: %w; "+
			"name another with --data-dir, or make it and give it to the user that runs imgo", dir, err)
	}
	db.tighten()
	probe, err := os.CreateTemp(dir, "write-test-*")
	if err != nil {
		return fmt.Errorf("data directory %s is not writable: %w; "+
			"give it to the user that runs imgo (chown), or name another with --data-dir", dir, err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return fmt.Errorf("data directory %s is not writable: %w", dir, err)
	}
	db.lock, err = lockDir(dir)
	return err
}

// tighten takes the rights of everybody from the directory, which holds messages and mailboxes
// in the clear. Those of the group stay: somebody may have chosen it.
func (db *DB) tighten() {
	const everybody = 0o007
	info, err := os.Stat(db.dir)
	if err != nil || info.Mode().Perm()&everybody == 0 {
		return // an error comes again when the directory is used
	}
	mode := info.Mode().Perm() &^ everybody
	if err := os.Chmod(db.dir, mode); err != nil {
		db.log.Warn().Err(err).Str("dir", db.dir).Stringer("mode", info.Mode()).
			Msg("everybody on this machine can read the data directory; take that right from them (chmod o-rwx)")
		return
	}
	db.log.Info().Str("dir", db.dir).Stringer("mode", mode).Msg("took the rights of everybody from the data directory")
}

// openFlag returns the flag of a log.
func (db *DB) openFlag(space logSpace) *atomic.Bool {
	if space == spaceEvents {
		return &db.eventsOpen
	}
	return &db.logOpen
}

// Dir returns the absolute path of the data directory.
func (db *DB) Dir() string { return db.dir }

// Run watches the disk and merges tables until ctx is done or the DB is closed. It
// returns an error if files of the directory were deleted or replaced by somebody else.
// Nothing is written any more then. Close still writes what is in memory to a table, so
// the DB should be closed soon.
func (db *DB) Run(ctx context.Context) error {
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return nil
	}
	db.running.Add(1)
	db.mu.RUnlock()
	defer db.running.Done()

	poll := time.NewTicker(cmp.Or(db.opt.Faults.DiskInterval, diskInterval))
	defer poll.Stop()
	gc := time.NewTicker(cmp.Or(db.opt.Faults.GCInterval, gcInterval))
	defer gc.Stop()
	wasOK := true
	writes, merged := db.writes.Load(), false // at the last tick
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-db.stop:
			return nil
		case <-poll.C:
			db.disk.poll()
			wasOK = db.logDisk(wasOK)
			if err := db.checkFiles(); err != nil {
				return err
			}
		case <-gc.C:

			if now := db.writes.Load(); now != writes {
				writes, merged = now, false
			} else if !merged {
				db.mergeTables()
				writes, merged = db.writes.Load(), true
			}
		}
	}
}

// logDisk logs once when the reserve is reached, and once when it is free again. It
// reports whether the reserve is free.
func (db *DB) logDisk(wasOK bool) bool {
	err := db.DiskOK()
	switch {
	case err != nil && wasOK:
		db.log.Error().Err(err).Msg("the disk is nearly full: pushes are refused, deliveries and acknowledgements go on")
	case err == nil && !wasOK:
		db.log.Info().Int64("free", db.disk.free.Load()).Msg("the disk has room again: pushes are accepted")
	}
	return err == nil
}

// WritesOK returns nil while acknowledgements and devices are accepted, and
// envelope.ErrDiskFull with an explanation while the disk is too full for them as well.
func (db *DB) WritesOK() error { return db.disk.essential() }

// maxMerge bounds the tables that mergeTables rewrites, in bytes. It cannot be interrupted, and
// everything that needs the store waits for it.
const maxMerge = 128 << 20

// mergeTables writes the memtable to a table, and all tables anew without what was deleted or has
// expired. Badger does so when it has many new tables. A database that is small, or that nobody
// writes to any more, would keep the space for ever.
func (db *DB) mergeTables() {
	lsm, _ := db.bdg.Size()
	if lsm > maxMerge || db.disk.check(db.disk.reserve+lsm, "") != nil {
		return
	}
	// DropPrefix is the only call of Badger that writes the memtable and merges the newest
	// tables. It needs a key to drop, and refuses writes meanwhile.
	key := []byte{'Q'}
	err := db.updateLater(func(txn *badger.Txn) error { return txn.Set(key, appendChecksummed(nil, nil)) })
	if err == nil {
		db.mu.Lock()
		if err = db.syncer.Forget(); err == nil {
			err = db.committed(db.bdg.DropPrefix(key))
		}
		db.mu.Unlock()
	}
	if err == nil {
		err = db.bdg.Flatten(1)
	}
	if err != nil {
		db.log.Warn().Err(err).Msg("the tables were not merged; their deleted data keeps its space")
	}
}

// DiskOK returns nil while pushes are accepted, and envelope.ErrDiskFull with an
// explanation while less than the reserve is free.
func (db *DB) DiskOK() error { return db.disk.ok() }

// errLeftOpen is why Badger was not closed.
var errLeftOpen = errors.New("too full for a table")

// closeBadger closes Badger, unless the disk is too full.
func (db *DB) closeBadger() error {
	if err := db.disk.check(minFree, "a table is"); err != nil {
		db.log.Warn().Err(err).Msg("the disk is too full to write what is in memory to a table; the next start reads it from the write-ahead log")
		return errLeftOpen
	}
	return db.bdg.Close()
}

// Close ends Run, writes out what Badger has in memory, and unlocks the directory. A
// second call does nothing.
//
// If the disk is too full for a table, Close leaves Badger as it is, for the end of the
// process: the table would be written through mapped pages. The write-ahead log has
// everything, and is read when the directory is opened again.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()

	close(db.stop)
	db.running.Wait()
	db.registry.Unregister()
	err := db.closeBadger()
	clean := err == nil
	if errors.Is(err, errLeftOpen) {
		err = nil
		if db.broken.Load() == nil {
			err = db.syncer.Sync() // mailboxes that were written behind
		}
	}
	if err = errors.Join(err, db.syncer.Close(clean)); err != nil {
		err = fmt.Errorf("close data directory %s: %w", db.dir, err)
	}
	return errors.Join(err, db.lock.release())
}

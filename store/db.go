package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/store/badgerwal"
)

const (
	// MaxValueBytes bounds one stored value. Everything up to it lies beside
	// its key; Badger's value log, which would need garbage collection, stays
	// empty.
	MaxValueBytes = 1<<20 - 1<<10

	// DefaultReserve is Options.Reserve's default: room for the memtables, a
	// round of compaction and a second of writing at full speed.
	DefaultReserve = 256 << 20

	memTableBytes   = 16 << 20
	defaultGC       = 10 * time.Minute
	defaultDiskPoll = time.Second
)

// Options say where and how a DB keeps its data.
type Options struct {
	// Dir is the data directory; it is made (0700) when it is missing.
	Dir string
	// InMemory keeps nothing on a disk; for tests. Dir is not used.
	InMemory bool
	// Reserve is how many bytes of the file system must be free for pushes to
	// be taken; acknowledgements go on down to a quarter of it. 0 is
	// DefaultReserve, a negative number none.
	Reserve int64

	Log zerolog.Logger
	// Metrics is where the store's metrics are registered, until Close; nil:
	// nowhere.
	Metrics prometheus.Registerer

	// FreeBytes says how much of dir's file system is free to this process,
	// in bytes; nil: ask the operating system. Tests fill disks with it.
	FreeBytes func(dir string) (int64, error)
	// DiskInterval is how often Run asks; 0: every second.
	DiskInterval time.Duration
	// GCInterval is how often Run collects Badger's value log; 0: every ten
	// minutes.
	GCInterval time.Duration
	// Faults are for tests.
	Faults Faults
}

// DB is the data directory of a node: one Badger database with synced writes.
//
// All methods may be called by many goroutines at once. Transactions do not
// detect conflicts: who reads, decides and writes must be the only writer of
// those keys, or lock. Everything that was made of a DB must be done before
// Close is called.
type DB struct {
	bdg   *badger.DB
	opt   Options
	dir   string // for messages
	log   zerolog.Logger
	lock  *dirLock
	disk  *disk
	meter *meter

	// mu is held for reading while Badger works for us: its Close unmaps files
	// under whoever still reads them.
	mu     sync.RWMutex
	closed bool

	// broken is the error of a commit that may have been half done.
	broken atomic.Pointer[error]

	// syncer makes commits durable; nil: Badger does, or there is nothing to sync.
	syncer *badgerwal.Syncer

	// tokenless says whether there are opaque tokens: see Tokens.absent.
	tokenless atomic.Int32

	// logOpen: two Logs would assign the same offsets.
	logOpen atomic.Bool

	stop    chan struct{} // closed by Close; ends Run
	running sync.WaitGroup
}

// Open opens the data directory, makes it when it is missing, and checks its
// files. What it finds broken it refuses, with what to do, and leaves as it
// was. It starts no work that goes on by itself but Badger's own; call Run.
func Open(opt Options) (*DB, error) {
	if opt.Reserve == 0 {
		opt.Reserve = DefaultReserve
	}
	if opt.DiskInterval <= 0 {
		opt.DiskInterval = defaultDiskPoll
	}
	if opt.GCInterval <= 0 {
		opt.GCInterval = defaultGC
	}
	db := &DB{opt: opt, dir: opt.Dir, log: opt.Log, stop: make(chan struct{})}
	if opt.InMemory {
		db.dir, db.opt.Dir = "(memory)", ""
		if opt.FreeBytes == nil {
			db.opt.Reserve = -1
		}
	}
	if err := db.open(); err != nil {
		db.syncer.Close()
		_ = db.meter.close()
		_ = db.lock.release()
		return nil, err
	}
	return db, nil
}

func (db *DB) open() error {
	if !db.opt.InMemory {
		if err := db.prepareDir(); err != nil {
			return err
		}
	}
	var err error
	if db.disk, err = newDisk(db.opt); err != nil {
		return err
	}
	complete := false
	if !db.opt.InMemory {
		if complete, err = db.checkDir(); err != nil {
			return err
		}
		// Badger writes as soon as it is opened, and a write that the disk has
		// no room for ends the process without a word.
		if err := db.disk.essential(); err != nil {
			return fmt.Errorf("open data directory %s: %w", db.dir, err)
		}
	}
	if !db.opt.InMemory {
		if db.syncer, err = badgerwal.NewSyncer(db.dir); err != nil {
			return fmt.Errorf("open data directory %s: %w", db.dir, err)
		}
	}
	if db.bdg, err = openBadger(db.badgerOptions()); err != nil {
		return fmt.Errorf("open data directory %s: %w%s", db.dir, err, restoreHint)
	}
	if err := db.checkFormat(complete); err != nil {
		return errors.Join(err, db.bdg.Close())
	}
	db.meter, err = newMeter(db.opt.Metrics, db.collectors()...)
	if err != nil {
		return errors.Join(err, db.bdg.Close())
	}
	return nil
}

// prepareDir makes the data directory, proves that it can be written to, and
// locks it.
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
		return fmt.Errorf("make data directory %s: %w; name another with --data-dir, or make it and give it to the user that runs imgo", dir, err)
	}
	probe, err := os.CreateTemp(dir, "write-test-*")
	if err != nil {
		return fmt.Errorf("data directory %s is not writable: %w; give it to the user that runs imgo (chown), or name another with --data-dir", dir, err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return fmt.Errorf("data directory %s is not writable: %w", dir, err)
	}
	db.lock, err = lockDir(dir)
	return err
}

// badgerOptions are tuned for a small process that syncs each commit.
func (db *DB) badgerOptions() badger.Options {
	dir := db.dir
	if db.opt.InMemory {
		dir = ""
	}
	o := badger.DefaultOptions(dir)
	o.InMemory = db.opt.InMemory
	o.Logger = badgerLog{db.log}
	o.SyncWrites = db.syncer == nil // see badgerwal.Syncer
	o.NumVersionsToKeep = 1
	o.MetricsEnabled = false
	o.DetectConflicts = false

	// Memory: two memtables of 16 MiB beside the active one. Blocks are mapped
	// and not compressed, so a cache of them would only double the kernel's.
	o.MemTableSize = memTableBytes
	o.NumMemtables = 2
	o.Compression = options.None
	o.BlockCacheSize = 0
	o.IndexCacheSize = 0
	o.BaseTableSize = 4 << 20
	o.NumCompactors = max(2, min(4, runtime.GOMAXPROCS(0)))
	o.NumGoroutines = 2

	// All values lie in the tables, so that trimming frees space by compaction
	// alone and the value log stays empty.
	o.ValueThreshold = 1 << 20
	o.VLogPercentile = 0
	o.ValueLogFileSize = 16 << 20
	o.ChecksumVerificationMode = options.OnTableRead
	o.VerifyValueChecksum = true

	// lockDir has taken the very lock that Badger would take, and holds it
	// from before the files are checked.
	o.BypassLockGuard = db.lock.held()
	return o
}

// openBadger turns what Badger panics about in this goroutine into an error.
func openBadger(o badger.Options) (bdg *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			bdg, err = nil, fmt.Errorf("%w: badger: %v", ErrCorrupt, r)
		}
	}()
	return badger.Open(o)
}

// Dir is the data directory, absolute; "(memory)" for a DB in memory.
func (db *DB) Dir() string { return db.dir }

// Run watches the disk and collects garbage until ctx is done or the DB is
// closed. It always returns nil: what it fails at is logged and tried again.
func (db *DB) Run(ctx context.Context) error {
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return nil
	}
	db.running.Add(1)
	db.mu.RUnlock()
	defer db.running.Done()

	poll := time.NewTicker(db.opt.DiskInterval)
	defer poll.Stop()
	gc := time.NewTicker(db.opt.GCInterval)
	defer gc.Stop()
	wasOK := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-db.stop:
			return nil
		case <-poll.C:
			db.disk.poll()
			wasOK = db.logDisk(wasOK)
		case <-gc.C:
			db.collect(ctx)
		}
	}
}

// logDisk says once when the reserve is reached and once when it is free again.
func (db *DB) logDisk(wasOK bool) bool {
	err := db.DiskOK()
	switch {
	case err != nil && wasOK:
		db.log.Error().Err(err).Msg("the disk is nearly full: pushes are refused, deliveries and acknowledgements go on")
	case err == nil && !wasOK:
		db.log.Info().Int64("free", db.disk.free.Load()).Msg("the disk has room again: pushes are taken")
	}
	return err == nil
}

// collect frees value-log files, if there are any to free.
func (db *DB) collect(ctx context.Context) {
	if db.opt.InMemory {
		return
	}
	for ctx.Err() == nil {
		// No lock: the collection may take long, and Close waits for Run.
		err := db.bdg.RunValueLogGC(0.5)
		switch {
		case err == nil:
			continue
		case errors.Is(err, badger.ErrNoRewrite), errors.Is(err, badger.ErrRejected):
		default:
			db.log.Warn().Err(err).Msg("collect the value log")
		}
		return
	}
}

// DiskOK is nil while pushes are taken, and the error that they are refused
// with while less than the reserve is free (envelope.ErrDiskFull).
func (db *DB) DiskOK() error { return db.disk.ok() }

// view runs fn in a read-only transaction on one consistent state of the
// store. A panic of Badger's over broken blocks is an error that wraps
// ErrCorrupt. After Close it returns envelope.ErrClosed.
func (db *DB) view(fn func(txn *badger.Txn) error) (err error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return errDBClosed()
	}
	txn := db.bdg.NewTransaction(false)
	defer txn.Discard()
	return guarded(txn, fn)
}

// errBroken is in the chain of an error after which nothing more is written:
// a commit failed on its way to the disk. What is in the files is not known
// then (a sync that failed once may succeed the next time with the data gone),
// so nothing may be acknowledged until the directory was opened again.
var errBroken = errors.New("the disk failed to make a write durable; restart imgo")

// update runs fn in a transaction and commits it; it is durable when update
// returns. An error of fn leaves everything as it was; one that wraps errBroken
// is the last. See DB about conflicts: there is no detection.
func (db *DB) update(fn func(txn *badger.Txn) error) error { return db.write(fn, true) }

// updateLater is update for what may be lost with the power, as a whole: it is
// durable once any later update is.
func (db *DB) updateLater(fn func(txn *badger.Txn) error) error { return db.write(fn, false) }

func (db *DB) write(fn func(txn *badger.Txn) error, durable bool) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return errDBClosed()
	}
	if broken := db.broken.Load(); broken != nil {
		return *broken
	}
	txn := db.bdg.NewTransaction(true)
	defer txn.Discard()
	if err := guarded(txn, fn); err != nil {
		return err
	}
	err := txn.Commit()
	if err == nil && durable && db.syncer != nil {
		err = db.syncer.Sync()
	}
	return db.committed(err)
}

// guarded calls fn, and makes a panic of Badger's over broken blocks an error.
func guarded(txn *badger.Txn, fn func(txn *badger.Txn) error) (err error) {
	defer badgerwal.Recover(&err)
	return fn(txn)
}

// committed judges what a commit returned.
func (db *DB) committed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, badger.ErrTxnTooBig), errors.Is(err, badger.ErrBlockedWrites), errors.Is(err, badger.ErrDBClosed):
		return err // before anything was written
	}
	err = fmt.Errorf("%w: %w", errBroken, err)
	db.broken.CompareAndSwap(nil, &err)
	return err
}

func errDBClosed() error {
	return envelope.Errorf(envelope.CodeClosed, "the data directory was closed")
}

// Close ends Run, writes out what Badger has in memory and lets go of the
// directory. A second call does nothing.
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
	err := db.meter.close()
	db.syncer.Close()
	if cerr := db.bdg.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close data directory %s: %w", db.dir, cerr))
	}
	return errors.Join(err, db.lock.release())
}

package store

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/rs/zerolog"
)

// badgerOptions returns options for a small process that syncs each commit.
func (db *DB) badgerOptions() badger.Options {
	o := badger.DefaultOptions(db.dir)
	o.Logger = badgerLog{db.log}
	o.SyncWrites = db.syncer == nil // see badgerwal.Syncer
	o.NumVersionsToKeep = 1
	o.MetricsEnabled = false
	o.DetectConflicts = false

	// Memory: two memtables of 16 MiB beside the active one. Blocks are mapped and not
	// compressed, so a cache of blocks would only repeat the kernel's.
	o.MemTableSize = memTableBytes
	o.NumMemtables = 2
	o.Compression = options.None
	o.BlockCacheSize = 0
	o.IndexCacheSize = 0
	o.BaseTableSize = 4 << 20
	o.NumCompactors = max(2, min(4, runtime.GOMAXPROCS(0)))
	o.NumGoroutines = 2

	// All values are in the tables. So compaction alone frees the space of trimmed
	// entries, and the value log stays empty.
	o.ValueThreshold = 1 << 20
	o.VLogPercentile = 0
	o.ValueLogFileSize = 16 << 20
	o.ChecksumVerificationMode = options.OnTableRead
	o.VerifyValueChecksum = true
	if small := db.opt.Faults.MemTableBytes; small > 0 {
		o.MemTableSize, o.BaseTableSize = small, small
		o.ValueThreshold, o.ValueLogFileSize = small/10, 1<<20
	}

	// lockDir holds the same lock that Badger would take, since before the check of the
	// files.
	o.BypassLockGuard = db.lock.held()
	return o
}

// openBadger turns a panic of Badger on this goroutine into an error.
func openBadger(o badger.Options) (bdg *badger.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			bdg, err = nil, fmt.Errorf("%w: badger: %v", ErrCorrupt, r)
		}
	}()
	return badger.Open(o)
}

// badgerLog writes Badger's log to ours. Badger's information is of interest only for
// debugging Badger.
type badgerLog struct{ log zerolog.Logger }

func (b badgerLog) Errorf(format string, args ...any) {
	b.log.Error().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Warningf(format string, args ...any) {
	b.log.Warn().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Infof(format string, args ...any) {
	b.log.Debug().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

func (b badgerLog) Debugf(format string, args ...any) {
	b.log.Trace().Str("from", "badger").Msgf(strings.TrimSpace(format), args...)
}

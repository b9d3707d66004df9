package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"imgo/envelope"
	"imgo/internal/wait"
)

// trimBatch is how many entries one transaction deletes.
const trimBatch = 4096

// trimmer deletes the entries of a log that are older than the retention.
type trimmer struct {
	records   logRecords
	tails     tails
	log       zerolog.Logger
	now       func() time.Time
	retention time.Duration // 0: entries are kept for ever
	interval  time.Duration

	mu      sync.Mutex
	deleted []int64 // up to which offset each partition's entries are deleted
}

// run trims once an interval until ctx is done.
func (tr *trimmer) run(ctx context.Context) {
	if tr.retention <= 0 {
		return
	}
	wait.Every(ctx, tr.interval, func() {
		err := tr.trim(ctx)
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, envelope.ErrClosed) {
			tr.log.Error().Err(err).Msgf("the %s was not trimmed; trying again later", tr.records.space)
		}
	})
}

// trim deletes all entries that are older than the retention. A partition with an error does not keep it from
// the others.
func (tr *trimmer) trim(ctx context.Context) error {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err := tr.records.db.disk.writable(); err != nil {
		return err // rather than once for each partition
	}
	before := tr.now().Add(-tr.retention).UnixMilli()
	var failed error
	for p := range tr.tails {
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if more, err = tr.trimBatchLocked(int32(p), before); err != nil {
				failed = errors.Join(failed, fmt.Errorf("trim partition %d: %w", p, err))
			}
		}
	}
	return failed
}

// trimBatchLocked deletes up to trimBatch entries of a partition that were appended
// before a time (Unix milliseconds). It reports whether there may be more of them.
func (tr *trimmer) trimBatchLocked(partition int32, before int64) (more bool, err error) {
	t := &tr.tails[partition]
	t.mu.Lock()
	bounds, err := t.logBounds, t.closed
	t.mu.Unlock()
	if err != nil {
		return false, err
	}
	var offsets []int64
	err = tr.records.scan(partition, tr.deleted[partition], bounds.end, func(e logEntry) bool {
		if e.timeMS >= before {
			return false
		}
		offsets = append(offsets, e.offset)
		bounds.trimmedOut += e.offset - e.after
		return len(offsets) < trimBatch
	})
	if err != nil || len(offsets) == 0 {
		return false, err
	}
	// A gap behind the last of them stays: a reader that has read up to it has missed nothing.
	bounds.begin = offsets[len(offsets)-1] + 1

	// Readers first: none may look for entries that are about to be deleted. If the
	// transaction fails, they are only unreachable until the next try.
	t.mu.Lock()
	t.begin = max(t.begin, bounds.begin)
	t.dropBeforeLocked(t.begin)
	t.mu.Unlock()

	if err := tr.records.trim(partition, offsets, bounds); err != nil {
		return false, err
	}
	tr.deleted[partition] = bounds.begin
	t.mu.Lock()
	t.trimmedOut = bounds.trimmedOut
	t.mu.Unlock()
	return len(offsets) == trimBatch, nil
}

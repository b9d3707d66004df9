package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
)

// trimBatch is how many entries one transaction deletes.
const trimBatch = 4096

// trimLoop trims every TrimInterval until ctx is done.
func (l *Log) trimLoop(ctx context.Context) {
	if l.opt.Retention <= 0 {
		return
	}
	tick := time.NewTicker(l.opt.TrimInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := l.trim(ctx)
		if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, envelope.ErrClosed) {
			l.log.Error().Err(err).Msg("trim the kept log; it is tried again later")
		}
	}
}

// trim deletes the entries that are older than Retention.
func (l *Log) trim(ctx context.Context) error {
	l.trimMu.Lock()
	defer l.trimMu.Unlock()
	before := l.opt.Now().Add(-l.opt.Retention).UnixMilli()
	for p := range l.parts {
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if more, err = l.trimOnce(int32(p), before); err != nil {
				return fmt.Errorf("trim partition %d: %w", p, err)
			}
		}
	}
	return nil
}

// trimOnce deletes up to trimBatch entries of a partition that were appended
// before a time (Unix milliseconds), and says whether there may be more.
func (l *Log) trimOnce(partition int32, before int64) (more bool, err error) {
	t := &l.parts[partition]
	from, to := l.deleted[partition], l.deleted[partition]
	_, end, err := t.bounds()
	if err != nil {
		return false, err
	}
	err = l.scan(partition, from, min(end, from+trimBatch), func(offset, timeMS int64, _ []byte) (bool, error) {
		if timeMS >= before {
			return false, nil
		}
		to = offset + 1
		return true, nil
	})
	if err != nil || to == from {
		return false, err
	}

	// Readers first: none may look for what is about to go. Should the
	// transaction fail, the entries are only unreachable until the next try.
	t.mu.Lock()
	t.begin = max(t.begin, to)
	for t.head < len(t.ring) && t.first() < t.begin {
		t.drop()
	}
	t.mu.Unlock()

	err = l.db.update(func(txn *badger.Txn) error {
		for offset := from; offset < to; offset++ {
			if err := txn.Delete(appendLogKey(nil, partition, offset)); err != nil {
				return err
			}
		}
		return txn.Set(keyBounds(partition), sealBounds(to, end))
	})
	if err != nil {
		return false, err
	}
	l.deleted[partition] = to
	return to-from == trimBatch, nil
}

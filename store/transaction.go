package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"imgo/envelope"
	"imgo/store/badgerwal"
)

// errBroken is in the chain of an error after which nothing more is written: a commit
// failed on its way to the disk, or files were deleted. The contents of the files are not known
// then: a sync that failed once may succeed the next time with the data gone. So nothing
// may be acknowledged until the directory was opened again.
var errBroken = errors.New("nothing more is written until imgo was restarted")

func errDBClosed() error {
	return envelope.Errorf(envelope.CodeClosed, "the data directory was closed")
}

// view runs fn in a read-only transaction, on one consistent state of the store. A panic
// of Badger over broken blocks becomes an error that wraps ErrCorrupt. After Close view
// returns envelope.ErrClosed.
func (db *DB) view(fn func(txn *badger.Txn) error) (err error) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return errDBClosed()
	}
	txn := db.bdg.NewTransaction(false)
	defer txn.Discard()
	return runGuarded(txn, fn)
}

// update runs fn in a transaction and commits it durably. If fn returns an error, nothing
// is changed. After an error that wraps errBroken every update fails. There is no
// detection of conflicts: see DB.
func (db *DB) update(fn func(txn *badger.Txn) error) error { return db.write(fn, true) }

// updateLater is update for changes that a power loss may take back as a whole. They are
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
	if err := db.disk.writable(); err != nil {
		return err
	}
	txn := db.bdg.NewTransaction(true)
	defer txn.Discard()
	if err := runGuarded(txn, fn); err != nil {
		return err
	}
	db.writes.Add(1)
	err := txn.Commit()
	if err == nil && durable && db.syncer != nil {
		err = db.syncer.Sync()
	}
	return db.committed(err)
}

// runGuarded calls fn and turns a panic of Badger over broken blocks into an error.
func runGuarded(txn *badger.Txn, fn func(txn *badger.Txn) error) (err error) {
	defer badgerwal.Recover(&err)
	return fn(txn)
}

// committed classifies the error of a commit.
func (db *DB) committed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, badger.ErrTxnTooBig), errors.Is(err, badger.ErrBlockedWrites), errors.Is(err, badger.ErrDBClosed):
		return err // nothing was written
	}
	err = fmt.Errorf("%w: %w", errBroken, err)
	db.broken.CompareAndSwap(nil, &err)
	return err
}

// dropChunk is how many keys one transaction of dropRange deletes.
const dropChunk = 2000

// dropPrefix deletes all keys with a prefix, as dropRange does.
func (db *DB) dropPrefix(ctx context.Context, prefix []byte) error {
	_, err := db.dropRange(ctx, prefix, nil)
	return err
}

// dropRange deletes the keys with a prefix that come before until (nil: all), in many
// small transactions, so that other writers do not wait for it. (Badger's own DropPrefix
// stops every read and write of the database while it rewrites tables.) It reports
// whether there were any keys.
func (db *DB) dropRange(ctx context.Context, prefix, until []byte) (dropped bool, err error) {
	var last []byte
	for {
		if err := ctx.Err(); err != nil {
			return dropped, err
		}
		keys, err := db.keys(prefix, last, until, dropChunk)
		if err != nil || len(keys) == 0 {
			return dropped, err
		}
		err = db.update(func(txn *badger.Txn) error {
			for _, key := range keys {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return dropped, err
		}
		dropped, last = true, keys[len(keys)-1]
	}
}

// keys returns at most limit keys with a prefix, behind a key (nil: from the first) and
// before until (nil: no end).
func (db *DB) keys(prefix, after, until []byte, limit int) (keys [][]byte, err error) {
	err = db.view(func(txn *badger.Txn) error {
		for item := range items(txn, keysOnly(prefix), after) {
			key := item.KeyCopy(nil)
			if len(keys) >= limit || until != nil && bytes.Compare(key, until) >= 0 {
				return nil
			}
			keys = append(keys, key)
		}
		return nil
	})
	return keys, err
}

package store

import (
	"bytes"
	"errors"
	"iter"

	"github.com/dgraph-io/badger/v4"
)

// readItem calls read with an item's value, without its checksum. raw is valid only
// during the call.
func readItem(item *badger.Item, read func(raw []byte) error) error {
	return item.Value(func(stored []byte) error {
		raw, err := verifyChecksum(stored)
		if err != nil {
			return err
		}
		return read(raw)
	})
}

// readKey is readItem for the value of a key. found is false if there is none.
func readKey(txn *badger.Txn, key []byte, read func(raw []byte) error) (found bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return false, nil
	}
	if err == nil {
		err = readItem(item, read)
	}
	return err == nil, err
}

// getValue copies the value of a key, without its checksum. It returns nil if there is none.
func getValue(txn *badger.Txn, key []byte) (value []byte, err error) {
	_, err = readKey(txn, key, func(raw []byte) error {
		value = append([]byte{}, raw...)
		return nil
	})
	return value, err
}

// keysOnly are the options of an iterator over the keys with a prefix.
func keysOnly(prefix []byte) badger.IteratorOptions { return badger.IteratorOptions{Prefix: prefix} }

// withValues are the options of an iterator that reads the values ahead.
func withValues(prefix []byte) badger.IteratorOptions {
	return badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 64}
}

// items returns an iterator over the items behind a key, in the order of their keys. A nil
// key means all items. An item is valid until the next one. A transaction that writes can have one
// such iterator at a time.
func items(txn *badger.Txn, opt badger.IteratorOptions, after []byte) iter.Seq[*badger.Item] {
	return func(yield func(*badger.Item) bool) {
		it := txn.NewIterator(opt)
		defer it.Close()
		for it.Seek(after); it.Valid(); it.Next() {
			if !bytes.Equal(it.Item().Key(), after) && !yield(it.Item()) {
				return
			}
		}
	}
}

// each calls fn for the items behind a key, in the order of their keys, at most limit. A nil key means from the
// first item on. An item is valid during the call.
func (db *DB) each(opt badger.IteratorOptions, after []byte, limit int, fn func(item *badger.Item) error) error {
	return db.view(func(txn *badger.Txn) error {
		n := 0
		for item := range items(txn, opt, after) {
			if n++; n > limit {
				return nil
			}
			if err := fn(item); err != nil {
				return err
			}
		}
		return nil
	})
}

// hasKeys reports whether there is a key with a prefix.
func hasKeys(txn *badger.Txn, prefix []byte) bool {
	for range items(txn, keysOnly(prefix), nil) {
		return true
	}
	return false
}

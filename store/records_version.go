package store

import (
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// keyRecords has the version of records in use: int64 BE; absent: 1.
var keyRecords = []byte{'P', 'v'}

// RecordsVersion returns the highest version of records that a node of this directory has
// appended to its log, from 1.
func (db *DB) RecordsVersion() (version uint32, err error) {
	version = 1
	err = db.view(func(txn *badger.Txn) error {
		n, ok, err := getInt(txn, keyRecords)
		if ok {
			version = uint32(n)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the version of records of data directory %s: %w", db.dir, err)
	}
	return version, nil
}

// SetRecordsVersion makes it durable that records of a version are in use.
func (db *DB) SetRecordsVersion(version uint32) error {
	err := db.update(func(txn *badger.Txn) error {
		return txn.Set(keyRecords, storedInt(int64(version)))
	})
	if err != nil {
		return fmt.Errorf("write the version of records of data directory %s: %w", db.dir, err)
	}
	return nil
}

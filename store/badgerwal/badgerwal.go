// Package badgerwal holds everything that imgo knows about the files of a Badger
// database. It knows which files there are, and how the MANIFEST, the tables and the
// write-ahead logs are laid out. It also knows when a write-ahead log is durable.
//
// Check finds damage that Badger would repair by deleting data, and damage that would
// make Badger panic on a goroutine of its own. Syncer makes committed transactions
// durable with one flush of the disk instead of two. It notes how much is durable, so
// that Check can tell damage from what a power cut leaves.
//
// The package does not open the database, and knows nothing of the keys and values in
// it. It repairs nothing, but Check deletes logs that hold nothing durable. None of these formats is part of Badger's
// API, so the package is right for one version of Badger only. A test fails when
// go.mod names another one; it lists what to check before the constant is changed.
package badgerwal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
)

// version is the version of github.com/dgraph-io/badger/v4 that this package
// describes.
const version = "v4.9.6"

// ErrCorrupt is in the chain of every error that says that stored bytes are not
// the bytes that were written.
var ErrCorrupt = errors.New("stored data is corrupt")

// castagnoli is the polynomial of Badger's checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Recover turns a panic of the function that defers it into an error that wraps
// ErrCorrupt: Badger panics when it decodes some kinds of broken blocks.
func Recover(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: badger: %v\n%s", ErrCorrupt, r, debug.Stack())
	}
}

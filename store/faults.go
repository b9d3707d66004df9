package store

import "time"

// Faults are the seams by which tests make a store fail or block. The zero value
// is the product.
type Faults struct {
	// ReadMailbox, if not nil, is called before a user's mailbox is read from the
	// database, and may block. It runs on the reading goroutine.
	ReadMailbox func(partition int32, user string)

	// CommitMailboxes, if not nil, is called before a batch of changes of mailboxes is
	// committed, and may block.
	CommitMailboxes func(partition int32)

	// FreeBytes returns how much of the data directory's file system is free to this
	// process, in bytes. Nil: the operating system is asked.
	FreeBytes func(dir string) (int64, error)

	// MemTableBytes is the size of Badger's memtables. A small one makes Badger begin
	// logs and write tables often. 0: memTableBytes.
	MemTableBytes int64

	// DiskInterval and GCInterval replace the intervals of Run. 0: diskInterval, gcInterval.
	DiskInterval, GCInterval time.Duration
}

// readMailbox is called before a read of a user's mailbox.
func (f *Faults) readMailbox(partition int32, user string) {
	if f.ReadMailbox != nil {
		f.ReadMailbox(partition, user)
	}
}

// commitMailboxes is called before a batch of changes of mailboxes is committed.
func (f *Faults) commitMailboxes(partition int32) {
	if f.CommitMailboxes != nil {
		f.CommitMailboxes(partition)
	}
}

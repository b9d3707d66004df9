package store

// Faults are the seams by which tests make a store fail or block. The zero value
// is the product.
type Faults struct {
	// ReadMailbox, if not nil, is called before a user's mailbox is read from the
	// database, and may block. It runs on the reading goroutine.
	ReadMailbox func(partition int32, user string)

	// MemTableBytes is the size of Badger's memtables. A small one makes Badger begin
	// logs and write tables often. 0: memTableBytes.
	MemTableBytes int64
}

// readMailbox is called before a read of a user's mailbox.
func (f *Faults) readMailbox(partition int32, user string) {
	if f.ReadMailbox != nil {
		f.ReadMailbox(partition, user)
	}
}

// Package store owns everything that imgo keeps on a disk, all of it in one
// Badger database: the kept log of a node that runs without Kafka (Log), the
// hashes of clients' tokens (Tokens) and the mailboxes of router. It also has
// the memory-only log of what is worthless a minute later (LiveLog), since the
// two logs answer to the same callers.
//
// It guarantees that what a call reported as written is there after a kill -9
// or a power loss: every write is synced before the call returns. It guarantees
// that a broken file is an error that says what to do, and never an emptier
// store: the files are checked before Badger may repair (that is: cut) them,
// every value carries a checksum of its own, and a log's offsets have no gaps.
// It refuses pushes while less than a reserve of the disk is free, because a
// disk that is really full ends the process (a write to a mapped page that the
// file system cannot back is a SIGBUS).
//
// It does not decide who is to get a message, knows no sessions and no network,
// and does not replicate: one directory, one process.
//
// Keys. The first byte of a key says whose it is: L entries of the kept log,
// P what describes the store and the log (format, partitions, generation,
// begin of each partition), T tokens; M, B, U, I and R are the mailbox's.
package store

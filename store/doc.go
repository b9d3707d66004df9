// Package store owns everything that imgo keeps on a disk, all of it in one Badger database. Log is the
// kept log of a node that runs without Kafka, and its log of events. Tokens has the hashes of clients'
// tokens, and Mailboxes the mailboxes of router. The live log (LiveLog) is in memory. It is here too
// because both logs have the same callers.
//
// It guarantees that every change is there after a kill -9 or a power loss once its call
// has returned: it is synced before. A batch of mailboxes is an exception (see
// MailboxBatch.Commit). It guarantees that a broken file is an error that says what to do,
// and never a store with less in it. Changes that were not synced may be missing after a power loss,
// which is no error. The files are checked before Badger can repair them, because Badger
// repairs by cutting. Every value has a checksum of its own. An entry behind a gap in the
// offsets of a log says where the gap begins. It refuses pushes while less than a reserve of
// the disk is free, because a full disk ends the process: a write to a mapped page for which
// the file system has no room is a SIGBUS.
//
// It does not decide which sessions get a message, knows no sessions and no network, and
// does not replicate: one directory, one process. The formats of Badger's files are known
// only to package badgerwal.
//
// The first byte of a key names its owner:
//
//   - L: entries of the kept log
//   - E: entries of the log of events
//   - P: the description of the database and of the log (format, partitions, generation, bounds of each partition)
//   - T: tokens
//   - S: tokens of a cluster's topic
//   - M, B, U, I, D, O and R: mailboxes. Their lower case letters are for later generations of the log.
//   - K: small tables, such as the state of hooks
//   - Q: written and dropped to merge tables
package store

// Package powercut tests that the store survives a power cut. It records what a process does
// to the files of a data directory, makes the files that a disk may have after a cut, and opens
// them with the store.
//
// # The recording
//
// A process of its own works on a data directory. It appends to the kept log, puts tokens, and
// writes mailboxes. The memtables are so small that Badger begins logs, writes tables and compacts
// them all the time. Its parent follows it with ptrace. The child stops at each fsync, fdatasync and
// msync, and after each system call that creates, renames, cuts or deletes a file. The parent then
// reads all files. So writes through a mapping are recorded as well, and every sync is seen,
// Badger's own included. The child also stops at each answer: when an append or a token is durable
// in the store's opinion.
//
// # The model of a disk
//
// A cut may come at any stop. The disk then has a state that follows these rules, which hold for ext4
// and xfs with their default options:
//
//   - A sector of 512 bytes is written as a whole or not at all.
//   - A sync of a file makes durable what the file had when the sync began, once it has
//     ended.
//   - A sector that was written since then has any of the contents that it had at a stop since
//     then, independently of other sectors.
//   - Changes of the directory (files created, renamed, cut, extended and deleted) become durable in
//     their order. A sync of the directory makes all of them durable, a sync of a file those up
//     to the file's own last one.
//   - The bytes by which a write extends a file are there if the new size is. (A mapped
//     file is extended beforehand, with zeros.)
//
// Two things are missed at a stop and cannot be replayed: contents that a sector had only between two
// stops, and a disk that acknowledges a flush without doing it.
//
// # The judgement
//
// The store must open the files. Each record and token that was answered before the cut is there,
// the mailboxes are those of one moment, not before the last answer, and the store takes further
// records. Some recordings begin with the files that a cut has left, so that recovery is cut as
// well.
package powercut

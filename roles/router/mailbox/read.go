package mailbox

import (
	"slices"

	"imgo/envelope"
	"imgo/internal/events"
	"imgo/protocol"
	"imgo/store"
)

// Reading says that the user has read messages.
type Reading struct {
	// Device is where they were read.
	Device string
	IDs    []uint64
	// UpTo: all messages up to this id, too; 0: only IDs.
	UpTo uint64
	// TimeMS is the time of its record, Unix milliseconds.
	TimeMS int64
	// ByCaller: a caller of the API says so. No device has shown that it has the messages.
	ByCaller bool
}

// Read takes a reading, by the record at: no device waits for these messages any more. Messages that are newer than
// the record stay. Read returns how many messages waited.
//
// It adds an event for what was not known to be read. The mailbox remembers the highest UpTo, and of the
// single messages beyond it the newest protocol.MaxReadIDs. A record that was applied before adds no event.
func (m *Mailbox) Read(at uint64, by *Reading) (deleted int) {
	upTo := min(by.UpTo, at)
	ids := slices.DeleteFunc(slices.Clone(by.IDs), func(id uint64) bool { return id <= upTo || id >= at })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	before := len(m.entries)
	m.entries = slices.DeleteFunc(m.entries, func(e *Entry) bool {
		if _, listed := slices.BinarySearch(ids, e.ID); !listed && e.ID > upTo {
			return false
		}
		m.readEntry(at, e, by)
		return true
	})
	m.noteRead(at, by.Device, ids, upTo)
	return before - len(m.entries)
}

// readEntry settles an entry that was read, by the record at. The device where it was read has acknowledged it. The others that
// wait never get it.
func (m *Mailbox) readEntry(at uint64, e *Entry, by *Reading) {
	if d := m.Device(by.Device); d != nil && d.Since <= at && !by.ByCaller && e.Waiting&(1<<d.Bit) != 0 {
		e.Waiting &^= 1 << d.Bit
		m.receipt(e, &Acknowledgement{Device: by.Device, TimeMS: by.TimeMS})
	}
	if e.Tracked != nil {
		e.Tracked.Without = append(e.Tracked.Without, m.Waiting(e)...)
	}
	m.settled(e)
	m.forget(e)
}

// noteRead remembers what was read by the record at, and tells what is new of it: ids, sorted and beyond upTo, and
// all up to upTo.
func (m *Mailbox) noteRead(at uint64, device string, ids []uint64, upTo uint64) {
	var old store.MailboxReads
	if m.meta.Reads != nil {
		old = *m.meta.Reads
	}
	if at <= old.At {
		return
	}
	known := func(id uint64) bool {
		_, listed := slices.BinarySearch(old.IDs, id)
		return listed || id <= old.UpTo
	}
	ids = slices.DeleteFunc(ids, known)
	if upTo <= old.UpTo {
		upTo = 0
	}
	if len(ids) == 0 && upTo == 0 {
		return
	}
	reads := &store.MailboxReads{At: at, UpTo: max(old.UpTo, upTo)}
	for _, id := range slices.Concat(old.IDs, ids) {
		if id > reads.UpTo {
			reads.IDs = append(reads.IDs, id)
		}
	}
	slices.Sort(reads.IDs)
	reads.IDs = slices.Clone(reads.IDs[max(0, len(reads.IDs)-protocol.MaxReadIDs):])
	m.setReads(reads)
	m.events = append(m.events, events.Event{Type: events.Read, User: m.user, Device: device, IDs: ids, UpTo: upTo})
}

// Reads returns what the user has read, as a record of what moves has it; nil: nothing.
func Reads(r *store.MailboxReads) *envelope.Reads {
	if r == nil {
		return nil
	}
	return &envelope.Reads{At: r.At, UpTo: r.UpTo, Ids: r.IDs}
}

// mergeReads takes what the user had read in the log's generation before, unless a newer record is known.
func (m *Mailbox) mergeReads(r *envelope.Reads) {
	if r == nil || m.meta.Reads != nil && m.meta.Reads.At >= r.At {
		return
	}
	m.setReads(&store.MailboxReads{At: r.At, UpTo: r.UpTo, IDs: slices.Clone(r.Ids)})
}

// eraseReads forgets what was read before the record at.
func (m *Mailbox) eraseReads(at uint64) {
	if m.meta.Reads != nil && m.meta.Reads.At < at {
		m.setReads(nil)
	}
}

func (m *Mailbox) setReads(reads *store.MailboxReads) {
	m.meta.Reads = reads
	m.metaChanged, m.dirty = true, true
}

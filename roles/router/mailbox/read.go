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
	// UpTo adds all messages up to this id. 0 means only IDs.
	UpTo uint64
	// TimeMS is the time of its record, Unix milliseconds.
	TimeMS int64
	// ByCaller is set if a caller of the API says so. No device has shown that it has the messages.
	ByCaller bool
}

// Read takes a reading, by the given record: no device waits for these messages any more. Messages that are newer than
// the record stay. Read returns how many messages waited.
//
// It adds an event for what was not known to be read. The mailbox remembers the highest UpTo, and of the
// single messages beyond it the newest protocol.MaxReadIDs. A record that was applied before adds no event.
func (m *Mailbox) Read(recordID uint64, by *Reading, out *Events) (deleted int) {
	upTo := min(by.UpTo, recordID)
	ids := slices.DeleteFunc(slices.Clone(by.IDs), func(id uint64) bool { return id <= upTo || id >= recordID })
	slices.Sort(ids)
	ids = slices.Compact(ids)
	deleted = m.Messages.removeIf(func(e *Entry) bool {
		if _, listed := slices.BinarySearch(ids, e.ID); !listed && e.ID > upTo {
			return false
		}
		m.readEntry(recordID, e, by, out)
		return true
	})
	if ids, upTo = m.facts.addReads(recordID, ids, upTo); len(ids) > 0 || upTo > 0 {
		out.add(events.Event{Type: events.Read, User: m.user, Device: by.Device, IDs: ids, UpTo: upTo})
	}
	return deleted
}

// readEntry ends an entry that the given record says was read. The device where it was read has acknowledged it. The
// others that wait never get it.
func (m *Mailbox) readEntry(recordID uint64, e *Entry, by *Reading, out *Events) {
	if d := m.Devices().Find(by.Device); d != nil && d.Since <= recordID && !by.ByCaller && e.Waiting&(1<<d.Bit) != 0 {
		e.Waiting &^= 1 << d.Bit
		m.receipt(e, &Acknowledgement{Device: by.Device, TimeMS: by.TimeMS}, out)
	}
	e.without(m.Devices().Names(e.Waiting)...)
	m.settled(e, out)
}

// addReads takes what was read by the given record: ids, sorted and beyond upTo, and all up to upTo. It returns what is
// new of it. 0 means that there is no new upTo.
func (f *facts) addReads(recordID uint64, ids []uint64, upTo uint64) (newIDs []uint64, newUpTo uint64) {
	var old store.MailboxReads
	if f.reads != nil {
		old = *f.reads
	}
	if recordID <= old.At {
		return nil, 0
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
		return nil, 0
	}
	state := &store.MailboxReads{At: recordID, UpTo: max(old.UpTo, upTo)}
	for _, id := range slices.Concat(old.IDs, ids) {
		if id > state.UpTo {
			state.IDs = append(state.IDs, id)
		}
	}
	slices.Sort(state.IDs)
	state.IDs = slices.Clone(state.IDs[max(0, len(state.IDs)-protocol.MaxReadIDs):])
	f.reads, f.changed = state, true
	return ids, upTo
}

// Reads returns what the user has read, as a record of what moves has it, or nil for nothing.
func Reads(r *store.MailboxReads) *envelope.Reads {
	if r == nil {
		return nil
	}
	return &envelope.Reads{At: r.At, UpTo: r.UpTo, Ids: r.IDs}
}

// restoreReads takes what the user had read in the log's generation before, unless a newer record is known.
func (f *facts) restoreReads(rec *envelope.Reads) {
	if rec == nil || f.reads != nil && f.reads.At >= rec.At {
		return
	}
	f.reads, f.changed = &store.MailboxReads{At: rec.At, UpTo: rec.UpTo, IDs: slices.Clone(rec.Ids)}, true
}

// eraseReads forgets what was read before the given record.
func (f *facts) eraseReads(recordID uint64) {
	if f.reads != nil && f.reads.At < recordID {
		f.reads, f.changed = nil, true
	}
}

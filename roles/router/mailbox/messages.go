package mailbox

import (
	"cmp"
	"slices"

	"imgo/envelope"
	"imgo/store"
)

// Entry is one pending message of one user.
type Entry struct {
	store.MailboxEntry
	// Message is the message as it is handed out. It never changes. It is nil if
	// only the store has the body.
	Message *envelope.Kept
	// held is set if the store has the body too (see bodies.go).
	held bool
	// loose is set if the message does not lie beside its neighbours in memory.
	loose bool
	// stored is set if the store has the entry, perhaps in an older state.
	stored bool
	// changed is set if the store's state is older than this one.
	changed bool
	// lost is set if the store has lost the body of a message that reports.
	lost bool
	// at is when the message was applied here, by the log's clock, in Unix milliseconds.
	// 0 means before the mailbox was read from the store.
	at int64
	// proposedMS is when a step of the message was put into the log that is not
	// applied yet, or 0 if there is none. See Propose.
	proposedMS int64
}

// Messages are the pending messages of a user. The bodies may be in the store only.
type Messages struct {
	entries []*Entry // in the order of their ids
	// gone has the stored entries that were deleted since the last flush. Few mailboxes have any.
	gone *[]*Entry
	held *held // nil: no body of a stored message is in memory
	// lastMS and dropped are as store.MailboxMeta has them.
	lastMS  int64
	dropped uint64
	// changed is set if the store has other messages. metaChanged is set if what the mailbox has beside them is to be
	// written.
	changed, metaChanged bool
}

// load takes the entries that the store has.
func (ms *Messages) load(entries []store.MailboxEntry) {
	block := make([]Entry, len(entries))
	ms.entries = make([]*Entry, len(entries))
	for i := range entries {
		block[i] = Entry{MailboxEntry: entries[i], stored: true}
		ms.entries[i] = &block[i]
	}
}

// All returns the pending messages in the order of their ids. The caller
// must not change the slice, nor keep it.
func (ms *Messages) All() []*Entry { return ms.entries }

// Find returns the entry with an id, or nil.
func (ms *Messages) Find(id uint64) *Entry {
	if i, ok := ms.search(id); ok {
		return ms.entries[i]
	}
	return nil
}

// search returns the index of the entry with an id, or where it belongs if ok is false.
func (ms *Messages) search(id uint64) (i int, ok bool) {
	return slices.BinarySearchFunc(ms.entries, id, func(e *Entry, id uint64) int { return cmp.Compare(e.ID, id) })
}

// blank reports whether nothing is known of any message.
func (ms *Messages) blank() bool { return len(ms.entries) == 0 && ms.lastMS == 0 && ms.dropped == 0 }

// nextTime returns the time of a new message, whose record has the time recordMS. Message times are
// unique and grow within a user, so that a client of 2016 may page by them.
func (ms *Messages) nextTime(recordMS int64) int64 {
	ms.lastMS = max(ms.lastMS+1, recordMS)
	return ms.lastMS
}

func (ms *Messages) insert(e *Entry) {
	i, _ := ms.search(e.ID)
	ms.entries = slices.Insert(ms.entries, i, e)
	e.loose = true
	ms.change(e)
}

// change notes that an entry is to be written.
func (ms *Messages) change(e *Entry) { e.changed, ms.changed = true, true }

func (ms *Messages) remove(e *Entry) {
	i, _ := ms.search(e.ID)
	ms.forget(e)
	ms.entries = slices.Delete(ms.entries, i, i+1)
}

// removeIf removes the entries that goes reports true for. It calls goes once for each, in their
// order, and returns how many went.
func (ms *Messages) removeIf(goes func(e *Entry) bool) int {
	before := len(ms.entries)
	ms.entries = slices.DeleteFunc(ms.entries, func(e *Entry) bool {
		if !goes(e) {
			return false
		}
		ms.forget(e)
		return true
	})
	return before - len(ms.entries)
}

// forget notes that the store is to lose an entry, and its body the memory.
func (ms *Messages) forget(e *Entry) {
	if e.held {
		ms.held.drop(e)
	}
	if e.stored {
		if ms.gone == nil {
			ms.gone = new([]*Entry)
		}
		*ms.gone = append(*ms.gone, e)
	}
	ms.changed = true
}

// shorten drops the messages that the bound takes, and returns how many. A message
// with a report stays until a step drops it.
func (ms *Messages) shorten(bound Bound) int {
	i := -1
	n := ms.removeIf(func(e *Entry) bool {
		i++
		return bound.exceeds(ms, i) && !e.Reports()
	})
	ms.dropped += uint64(n)
	return n
}

// CountDropped adds messages to those that a limit cost the user.
func (ms *Messages) CountDropped(n int) {
	ms.dropped += uint64(n)
	ms.metaChanged = true
}

// DropLost drops a message whose body the store did not have. It reports
// whether the body is lost: the message is still pending, its body is not in
// memory, and it has not expired by the time nowMS, Unix milliseconds.
func (ms *Messages) DropLost(id uint64, nowMS int64) bool {
	e := ms.Find(id)
	// A message that expires within a second may have left the store already.
	if e == nil || e.Message != nil || e.ExpiresMS <= nowMS+1000 || e.lost {
		return false
	}
	if e.Reports() {
		e.lost = true // a step takes it away
		return true
	}
	ms.remove(e)
	ms.CountDropped(1)
	return true
}

// restoreCounts takes what is known of earlier messages in the log's generation before.
func (ms *Messages) restoreCounts(lastMS int64, dropped uint64) {
	ms.lastMS, ms.dropped = max(ms.lastMS, lastMS), max(ms.dropped, dropped)
	ms.metaChanged = true
}

// eraseCounts forgets what is known of earlier messages.
func (ms *Messages) eraseCounts() {
	ms.lastMS, ms.dropped = 0, 0
	ms.metaChanged = true
}

// waitsReporting reports whether a message that reports waits for a device.
func (ms *Messages) waitsReporting(mask uint64) bool {
	return slices.ContainsFunc(ms.entries, func(e *Entry) bool { return e.Waiting&mask != 0 && e.Reports() })
}

// Prev returns the id of the message pending for a device before id, or 0 if there is none.
func (ms *Messages) Prev(mask uint64, id uint64) uint64 {
	i, _ := ms.search(id)
	for i--; i >= 0; i-- {
		if ms.entries[i].Waiting&mask != 0 {
			return ms.entries[i].ID
		}
	}
	return 0
}

// Newest returns the newest message pending for a device that was applied by
// the deadline, Unix milliseconds. ok is false if there is none.
func (ms *Messages) Newest(mask uint64, deadline int64) (id uint64, ok bool) {
	for _, e := range slices.Backward(ms.entries) {
		if e.Waiting&mask != 0 && e.at <= deadline {
			return e.ID, true
		}
	}
	return 0, false
}

// Pending returns the number of messages that wait for a device.
func (ms *Messages) Pending(mask uint64) (n int) {
	for _, e := range ms.entries {
		if e.Waiting&mask != 0 {
			n++
		}
	}
	return n
}

// backlogOverhead is what a message of a backlog counts beside its body, in
// bytes: about what its frame has more. So a backlog of very small messages
// fits into what may be pending for a session, as the others do.
const backlogOverhead = 24

// Backlog appends to out what is pending for a device after an id, in order: at
// most maxMessages and maxBytes, but one message always. more reports whether
// there is more.
func (ms *Messages) Backlog(
	out []*Entry, mask uint64, after uint64, nowMS int64, maxMessages, maxBytes int,
) (_ []*Entry, more bool) {
	first, _ := ms.search(after + 1)
	size := 0
	for _, e := range ms.entries[first:] {
		if e.Waiting&mask == 0 || e.ExpiresMS <= nowMS {
			continue
		}
		if len(out) > 0 && (len(out) >= maxMessages || size+int(e.Size)+backlogOverhead > maxBytes) {
			return out, true
		}
		out = append(out, e)
		size += int(e.Size) + backlogOverhead
	}
	return out, false
}

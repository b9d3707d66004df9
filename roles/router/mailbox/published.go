package mailbox

import (
	"slices"

	"imgo/store"
)

// A device's last client id decides whether a message from a client is an event. So only records of the log change it,
// and only a record forgets a device that has one. A router that forgot it by its clock would derive other events than
// the next owner.

// Publish takes a message with a client id, by the given record, which was appended at timeMS, Unix milliseconds. It
// makes a device known that is not: a session of a device that was forgotten may go on for a moment. Publish reports
// whether the message counts: the device has had neither this id nor a higher one. It does not count either if the
// device became known only after the record, which is applied again then.
func (m *Mailbox) Publish(recordID uint64, device string, clientID uint64, timeMS int64) bool {
	if m.Devices().Find(device) == nil && !m.NoteDevice(recordID, device, timeMS, timeMS) {
		return true // there is no room to remember it
	}
	d := m.Devices().Find(device)
	if d.Since > recordID || clientID <= d.Published {
		return false
	}
	m.Devices().NotePublished(device, d.Since, clientID, timeMS)
	return true
}

// NotePublished takes a record that repeats the last client id of a device that is known since a record. It was
// appended at notedMS, Unix milliseconds.
func (ds Devices) NotePublished(device string, since, clientID uint64, notedMS int64) {
	d := ds.Find(device)
	if d == nil || clientID == 0 || d.Since != since || clientID < d.Published {
		return
	}
	d.Published, d.PublishedMS = clientID, max(d.PublishedMS, notedMS)
	ds.changed = true
}

// published reports whether any device has a last client id.
func (ds Devices) published() bool {
	return slices.ContainsFunc(ds.devices, func(d store.MailboxDevice) bool { return d.Published > 0 })
}
